"""What a program costs, told by the program: arithmetic and memory traffic by its jaxpr, and what
devices tell each other by the text that the compiler made of it. Nothing is run.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxlm.ops.recurrence import OVER_TIME


class Work(NamedTuple):
    """Of one device. flops: of products of matrices, two for each number multiplied; bytes: of
    their operands and results, each moved once for each product.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        """This, and `times` the other."""
        return Work(self.flops + times * other.flops, self.bytes + times * other.bytes)


def work_of(closed: Any, spread: int = 1) -> Work:
    """The work of a jaxpr. spread: over how many devices the batch is, outside of `shard_map`,
    where shapes are those of all of them; inside they are of one.

    A while loop that does not say how often it turns counts once, and a branch as the largest.
    """
    return _work(getattr(closed, "jaxpr", closed), 1 / spread)


def _work(jaxpr: Any, share: float) -> Work:
    total = Work()
    for equation in jaxpr.eqns:
        name, inside = equation.primitive.name, list(jaxprs_in(equation.params))
        if name == "dot_general":
            total = total.plus(_product(equation), share)
        elif name == "cond":
            branches = [_work(branch, share) for branch in inside]
            total = total.plus(max(branches, key=lambda work: work.flops))
        else:
            times = equation.params["length"] if name == "scan" else 1
            of_one = 1.0 if name == "shard_map" else share
            for jaxpr_inside in inside:
                total = total.plus(_work(jaxpr_inside, of_one), times)
    return total


def jaxprs_in(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters: of a loop's body, say."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            inside = getattr(one, "jaxpr", one)
            if hasattr(inside, "eqns"):
                yield inside


def _product(equation: Any) -> Work:
    (over, _), _ = equation.params["dimension_numbers"]
    first, second = (variable.aval for variable in equation.invars)
    result = equation.outvars[0].aval
    depth = math.prod(first.shape[axis] for axis in over)
    moved = sum(one.size * one.dtype.itemsize for one in (first, second, result))
    return Work(2.0 * math.prod(result.shape) * depth, moved)


class Collective(NamedTuple):
    """Something that devices tell each other. bytes: of what each has after it; devices: how many
    take part together; times: how often, in one run of the program; in_time: inside of a loop over
    time; name: what it is of, in the program.
    """

    kind: str
    bytes: int
    devices: int
    times: int
    in_time: bool
    name: str


KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
WIDTHS = {"pred": 1, "bf16": 2, "f16": 2} | {
    f"{kind}{bits}": bits // 8 for kind, bits in itertools.product("fsuc", (8, 16, 32, 64, 128))
}


class Compiled(NamedTuple):
    """collectives; time_loops: loops over time that were found; cycles: what the compiler expects
    the program to take, 0 if it does not say (a TPU's does).
    """

    collectives: list[Collective]
    time_loops: int
    cycles: float


def read_compiled(text: str) -> Compiled:
    """What `compiled.as_text()` says: HLO after all optimisation, of one device."""
    bodies, entry = _computations(text)
    found: list[Collective] = []
    loops, cycles = 0, 0.0

    def visit(name: str, times: int, in_time: bool) -> None:
        nonlocal loops, cycles
        for line in bodies[name]:
            kind, shape = _operation(line)
            cycles += times * sum(map(float, _CYCLES.findall(line)))
            if kind.removesuffix("-start") in KINDS:
                named = _NAME.search(line)
                size, group = _size(shape), _group(line)
                named_as = named[1] if named else ""
                found.append(
                    Collective(kind.removesuffix("-start"), size, group, times, in_time, named_as)
                )
            if kind == "while":
                named = _NAME.search(line)
                # Between the two may be what was made of the loop: jvp, transpose.
                over_time = bool(named and re.search(rf"\b{OVER_TIME}\b.*\bwhile$", named[1]))
                loops += over_time
                condition = re.search(r"condition=%?([\w.\-]+)", line)
                body = re.search(r"body=%?([\w.\-]+)", line)
                assert condition and body, line
                turns = times * _turns(line, bodies[condition[1]])
                visit(body[1], turns, in_time or over_time)
            elif kind in ("call", "conditional", "async-start"):
                for called in _called(line):
                    visit(called, times, in_time)

    visit(entry, 1, False)
    return Compiled(found, loops, cycles)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the first one that is run."""
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and " = " in line:
            current.append(line)
    return bodies, entry


def _operation(line: str) -> tuple[str, str]:
    """The kind of an instruction, and the type of its result."""
    rest = line.split(" = ", 1)[1]
    if rest.startswith("("):
        depth = itertools.accumulate((char == "(") - (char == ")") for char in rest)
        end = next(place for place, open_ in enumerate(depth) if not open_) + 1
    else:
        end = rest.index(" ")
    return rest[end:].strip().split("(", 1)[0], rest[:end]


def _called(line: str) -> list[str]:
    branches = _BRANCHES.search(line)
    names = [name.strip().lstrip("%") for name in branches[1].split(",")] if branches else []
    return names + _CALLS.findall(line)


def _turns(line: str, condition: list[str]) -> int:
    """How often a loop turns: what the compiler knows of it, or else what it counts up to; 1 if
    that is known only when it runs.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    limits = [int(one) for row in condition for one in re.findall(r" constant\((\d+)\)", row)]
    return max(limits, default=1)


def _size(shape: str) -> int:
    """Bytes of an array, or of all in a tuple."""
    return sum(
        WIDTHS.get(kind, 4) * int(np.prod([int(size) for size in sizes.split(",") if size]))
        for kind, sizes in _ARRAY.findall(shape)
    )


def _group(line: str) -> int:
    """How many devices take part together."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(counted[1])
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", line):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", meshed[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'(\w+)'", meshed[2]))
    return 1
