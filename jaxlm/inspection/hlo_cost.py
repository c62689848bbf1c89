"""The cost of a program, computed without running it.

Arithmetic and memory traffic are counted in the jaxpr. Communication between devices is read from
the compiler's HLO text.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxlm.ops.recurrence import TIME_SCOPE


class Work(NamedTuple):
    """Arithmetic and memory traffic of the matrix products of one device."""

    flops: float = 0.0
    """Floating-point operations: two per multiplication of two numbers."""
    bytes: float = 0.0
    """Bytes of operands and results, each counted once per product."""

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        """Return the sum of this work and `times` the other work."""
        return Work(self.flops + times * other.flops, self.bytes + times * other.bytes)


def work_of(jaxpr: Any, batch_shards: int = 1) -> Work:
    """Return the work of one device for a jaxpr, or for a closed jaxpr.

    `batch_shards` is the number of devices over which the batch is sharded. Outside of `shard_map`,
    shapes are global, so the work is divided by this number. Inside, shapes are local to a device.
    Work that the compiler shards over the vocabulary is not divided.

    A while loop counts as one iteration, because a jaxpr does not state its trip count. A `cond`
    counts as its branch with the most floating-point operations.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jaxpr = jax.make_jaxpr(lambda a, b: a @ b)(jnp.ones((3, 4)), jnp.ones((4, 5)))
      >>> work_of(jaxpr)
      Work(flops=120.0, bytes=188.0)
    """
    return _work(getattr(jaxpr, "jaxpr", jaxpr), 1 / batch_shards)


def _work(jaxpr: Any, share: float) -> Work:
    """Return the work of a jaxpr; work outside of `shard_map` is multiplied by `share`."""
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
            inside_share = 1.0 if name == "shard_map" else share
            for jaxpr_inside in inside:
                total = total.plus(_work(jaxpr_inside, inside_share), times)
    return total


def jaxprs_in(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs among an equation's parameters, such as the body of a loop."""
    for parameter in params.values():
        for value in parameter if isinstance(parameter, tuple | list) else (parameter,):
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                yield inside


def _product(equation: Any) -> Work:
    """Return the work of a `dot_general`."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, right = (variable.aval for variable in equation.invars)
    result = equation.outvars[0].aval
    depth = math.prod(left.shape[axis] for axis in contracted)
    moved = sum(array.size * array.dtype.itemsize for array in (left, right, result))
    return Work(2.0 * math.prod(result.shape) * depth, moved)


class Collective(NamedTuple):
    """A communication between devices (a collective), such as an all-reduce."""

    kind: str
    """Name of the HLO instruction, from COLLECTIVES."""
    bytes: int
    """Size of the result on each device, for one execution. HLO's asynchronous all-gather-start and
    collective-permute-start also have the operand in their result, and it is counted too."""
    devices: int
    """Number of devices in a group that communicates."""
    times: int
    """Number of executions in one run of the program."""
    in_time_loop: bool
    """Whether it is inside a loop over time."""
    name: str
    """Name of the operation in the program (op_name), or an empty text."""


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
ITEM_BYTES = {"pred": 1, "bf16": 2, "f16": 2} | {
    f"{kind}{bits}": bits // 8 for kind, bits in itertools.product("fsuc", (8, 16, 32, 64, 128))
}


class Compiled(NamedTuple):
    """The collectives, time loops and estimated cycles in the text of a compiled program."""

    collectives: list[Collective]
    """Communications between devices."""
    time_loops: int
    """Number of loops over time."""
    cycles: float
    """Estimated clock cycles of one run, 0 without an estimate. A TPU's compiler estimates them."""


def read_compiled(text: str) -> Compiled:
    """Return collectives, time loops and cycles of a compiled program.

    `text` is `compiled.as_text()`, the optimised HLO of one device.
    """
    bodies, entry = _computations(text)
    collectives: list[Collective] = []
    loops, cycles = 0, 0.0

    def visit(name: str, times: int, in_time_loop: bool) -> None:
        nonlocal loops, cycles
        for line in bodies[name]:
            kind, result_type = _operation(line)
            op_name = _NAME.search(line)
            cycles += times * sum(map(float, _CYCLES.findall(line)))
            collective = kind.removesuffix("-start")
            if collective in COLLECTIVES:
                size, devices = _size(result_type), _group_size(line)
                label = op_name[1] if op_name else ""
                collectives.append(
                    Collective(collective, size, devices, times, in_time_loop, label)
                )
            if kind == "while":
                # Between scope and "while" there may be transformations: jvp, transpose.
                pattern = rf"\b{TIME_SCOPE}\b.*\bwhile$"
                is_time_loop = bool(op_name and re.search(pattern, op_name[1]))
                loops += is_time_loop
                condition = re.search(r"condition=%?([\w.\-]+)", line)
                body = re.search(r"body=%?([\w.\-]+)", line)
                assert condition and body, line
                body_times = times * _trip_count(line, bodies[condition[1]])
                visit(body[1], body_times, in_time_loop or is_time_loop)
            elif kind in ("call", "conditional", "async-start"):
                for called in _called(line):
                    visit(called, times, in_time_loop)

    visit(entry, 1, False)
    return Compiled(collectives, loops, cycles)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation by name, and the name of the entry computation."""
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
    """Return the kind of an instruction, and the type of its result."""
    rest = line.split(" = ", 1)[1]
    if rest.startswith("("):
        depth = itertools.accumulate((char == "(") - (char == ")") for char in rest)
        end = next(index for index, open_ in enumerate(depth) if not open_) + 1
    else:
        end = rest.index(" ")
    return rest[end:].strip().split("(", 1)[0], rest[:end]


def _called(line: str) -> list[str]:
    """Return the names of the computations that an instruction calls."""
    branches = _BRANCHES.search(line)
    names = [name.strip().lstrip("%") for name in branches[1].split(",")] if branches else []
    return names + _CALLS.findall(line)


def _trip_count(line: str, condition: list[str]) -> int:
    """Return the number of iterations of a while loop.

    Without a trip count from the compiler, it is the largest constant in the loop's condition. It
    is 1 if there is no such constant.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    limits = [int(n) for row in condition for n in re.findall(r" constant\((\d+)\)", row)]
    return max(limits, default=1)


def _size(result_type: str) -> int:
    """Return the number of bytes of an array, or of all arrays in a tuple."""
    return sum(
        ITEM_BYTES.get(dtype, 4) * int(np.prod([int(size) for size in sizes.split(",") if size]))
        for dtype, sizes in _ARRAY.findall(result_type)
    )


def _group_size(line: str) -> int:
    """Return the number of devices in each group of a collective."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(counted[1])
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", line):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", meshed[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'(\w+)'", meshed[2]))
    return 1
