"""A double-array trie in the layout of Darts-clone, which maps byte strings to numbers.

The trie is an array of units of 32 bits. Unit 0 is the root. The children of a node with the base b
are at b XOR label, where the label of a child is its byte. A unit holds:

    bits 0-7      the label of the node
    bit 8         whether a key ends at the node; then its value is at the base (label 0)
    bit 9         whether the offset is shifted by 8 bits
    bits 10-30    the offset: the place of the node XOR its base
    bit 31        set in a value, whose other bits are the number, and in an unused unit

A look-up compares the label of each unit that it reaches with the byte of the key. So two nodes may
not have one base, and an unused unit has bit 31, which no label has.

Source: Aoe, "An efficient digital search algorithm by using a double-array structure", 1989;
the layout is that of Yata's Darts-clone.
"""

import itertools
from collections.abc import Sequence

import numpy as np

VALUE = 1 << 31
HAS_VALUE = 1 << 8
SHIFTED = 1 << 9
# Children stay within a block of this many units.
BLOCK = 256
# Free units of the last blocks, and candidates of a node, that are tried before a block is added.
OPEN_BLOCKS = 16
CANDIDATES = 64


def double_array(keys: Sequence[bytes], values: Sequence[int]) -> np.ndarray:
    """Return the units of a trie, uint32. Their number is a multiple of 256.

    Args:
      keys: byte strings without the byte 0, sorted, each once.
      values: a number from 0 to 2³¹ - 1 for each key.
    Raises:
      ValueError: for keys that are not sorted, or empty, and for more units than offsets can reach.

    Example:
      >>> units = double_array([b"a", b"ab"], [7, 9])
      >>> look_up(units, b"ab"), look_up(units, b"b")
      (9, None)
    """
    if any(b"\0" in key or not key for key in keys) or any(
        first >= second for first, second in itertools.pairwise(keys)
    ):
        raise ValueError("keys must be sorted, each once, without the byte 0")
    builder = _Builder()
    # Nodes to place children of: the unit of the node, its keys, and its depth.
    waiting = [(0, 0, len(keys), 0)] if keys else []
    while waiting:
        unit, first, last, depth = waiting.pop()
        ends = len(keys[first]) == depth
        start = first + ends
        groups: list[tuple[int, int, int]] = []
        while start < last:
            label = keys[start][depth]
            stop = start + 1
            while stop < last and keys[stop][depth] == label:
                stop += 1
            groups.append((label, start, stop))
            start = stop
        labels = [0] * ends + [label for label, _, _ in groups]
        base = builder.place(unit, labels, ends)
        if ends:
            builder.units[base] = VALUE | values[first]
        # The last group is placed first, and the first group next to its parent's keys.
        for label, group_first, group_last in groups:
            builder.units[base ^ label] = label
            waiting.append((base ^ label, group_first, group_last, depth + 1))
    return np.array(builder.units, np.uint32)


def look_up(units: np.ndarray, key: bytes) -> int | None:
    """Return the value of a key; None if the trie does not have the key."""
    place = 0
    for byte in key:
        place ^= _offset(int(units[place])) ^ byte
        if int(units[place]) & (VALUE | 0xFF) != byte:
            return None
    unit = int(units[place])
    if not unit & HAS_VALUE:
        return None
    return int(units[place ^ _offset(unit)]) & (VALUE - 1)


def _offset(unit: int) -> int:
    """Return the offset of a unit."""
    offset = (unit & (VALUE - 1)) >> 10
    return offset << 8 if unit & SHIFTED else offset


class _Builder:
    """Units that are filled node by node."""

    def __init__(self) -> None:
        self.units: list[int] = []
        self.is_base = bytearray()
        # The free units of the last blocks, in order.
        self.free: dict[int, None] = {}
        self._add_block()
        del self.free[0]
        self.units[0] = 0

    def _add_block(self) -> None:
        """Add a block of unused units, and give up the free units of an old block."""
        start = len(self.units)
        self.units.extend([VALUE] * BLOCK)
        self.is_base.extend(bytes(BLOCK))
        self.free.update(dict.fromkeys(range(start, start + BLOCK)))
        oldest = start - OPEN_BLOCKS * BLOCK
        for place in range(oldest, oldest + BLOCK) if oldest >= 0 else ():
            self.free.pop(place, None)

    def place(self, unit: int, labels: list[int], ends: bool) -> int:
        """Choose the base of a node, take the units of its children, and return the base.

        Args:
          unit: the unit of the node.
          labels: the labels of its children, ascending.
          ends: whether a key ends at the node, so that the first label is 0.
        Raises:
          ValueError: if the offset is too large.
        """
        base = self._find(unit, labels)
        for label in labels:
            del self.free[base ^ label]
        self.is_base[base] = 1
        offset = unit ^ base
        if offset < 1 << 21:
            bits = offset << 10
        elif offset < 1 << 29:
            bits = offset >> 8 << 10 | SHIFTED
        else:
            raise ValueError("too many keys for a double array")
        self.units[unit] |= bits | (HAS_VALUE if ends else 0)
        return base

    def _find(self, unit: int, labels: list[int]) -> int:
        """Return a base that no other node has, all of whose children are free."""
        first, *others = labels
        for count, place in enumerate(self.free):
            if count == CANDIDATES:
                break
            base = place ^ first
            offset = unit ^ base
            # A larger offset is kept without its last 8 bits.
            if self.is_base[base] or (offset >= 1 << 21 and offset & 0xFF):
                continue
            if all(base ^ label in self.free for label in others):
                return base
        base = len(self.units) | unit & 0xFF
        self._add_block()
        return base
