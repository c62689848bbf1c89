"""Estimate training on 1 to 256 TPU chips and 1 to 64 GPUs, from programs compiled for TPUs.

Command    pip install "jax[tpu]" && python experiments/scaling.py
Hardware   a CPU
Minutes    34, with other jobs on the cores
Expected   scaling.md and scaling.png: tokens per second, and efficiency: medium 70% on 256 v6e and
           13% on 64 H100 (the sum of gradients over hosts takes seven times as long as the
           computation), AWD 84% and 24%, a billion parameters 37% and 30%; the billion does not
           fit on a single v5e
Assumed    Each device on `data` has the same number of streams, so the batch grows with the devices
           on `data`, and not with the devices on `model`. A step computes, then communicates; the
           two do not overlap. Computation takes the longer
           of two times: products at the chip's bfloat16 rate, and memory traffic at the chip's
           bandwidth (operands and result of each product once, Adam's seven passes). Collectives
           are rings at the rates of the links. Launches, the latency of the loop and elementwise
           work are left out, so each time is a lower bound. The page is about how the time grows
           with the number of chips. GPUs are assumed to run the TPU's program, because collectives
           are chosen before the program is compiled for a chip.
"""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

# If memory is scarce (a billion parameters on one chip), the compiler takes more than half an hour
# to fit the program by default. At the lowest level it takes eight minutes.
os.environ.setdefault("JAX_MEMORY_FITTING_LEVEL", "O0")

import programs
from matplotlib.figure import Figure

PAGE = Path(__file__).with_suffix(".md")
SLICES = {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
MOST = {"v5e": 256, "v6e": 256, "h100": 64}


class Case(NamedTuple):
    """A model and its batch."""

    settings: dict[str, Any]
    vocab_size: int
    streams: int
    """Number of streams on each device of the mesh's `data`."""
    time: int
    """Tokens of a stream in a step."""
    model: int
    """Largest number of devices on the mesh's `model`."""


CASES = {
    "medium": Case({"embedding_size": 650, "hidden_size": 650, "num_layers": 2}, 10_000, 20, 35, 1),
    "AWD": Case(
        {"embedding_size": 400, "layer_sizes": (1150, 1150, 400), "tied": True}, 10_000, 20, 70, 1
    ),
    # The output layer, tied to the embedding, has 1,073,741,824 parameters.
    "billion": Case(
        {"embedding_size": 1024, "hidden_size": 1024, "num_layers": 2, "tied": True},
        1 << 20,
        32,
        35,
        16,
    ),
}


class Point(NamedTuple):
    """The estimate for a number of devices of a chip.

    `program` and `tokens_per_second` are None if the program does not fit into a device's memory.
    """

    case: str
    chip: str
    devices: int
    mesh: str
    program: programs.Program | None = None
    tokens_per_second: float | None = None


def points(name: str, devices: int, chips: list[str]) -> list[Point]:
    """Return the estimates of a model on `devices` devices of each chip."""
    case = CASES[name]
    found = []
    model_size = min(case.model, devices)
    data = devices // model_size
    compiled: dict[str, programs.Program | None] = {}
    for chip in chips:
        # libtpu does not compile for GPUs. They get the program of the most similar TPU.
        kind = "v6e" if chip == "h100" else chip
        if kind not in compiled:
            compiled[kind] = training_step(case, f"{kind}:{SLICES[devices]}", data, model_size)
        program, facts = compiled[kind], programs.CHIPS[chip]
        point = Point(name, chip, devices, f"{data} x {model_size}")
        if program and program.held <= facts.memory:
            tokens = case.streams * data * case.time
            rate = tokens / sum(program.seconds(facts))
            point = point._replace(program=program, tokens_per_second=rate)
        found.append(point)
    return found


def training_step(case: Case, topology: str, data: int, model_size: int) -> programs.Program | None:
    """Compile the training step; None if it does not fit into memory.

    Args:
      case: the model and its batch.
      topology: TPU slice, such as "v6e:4x4".
      data: devices on the mesh's `data`.
      model_size: devices on the mesh's `model`.
    """
    model = programs.build("lstm", case.vocab_size, dtype="bfloat16", **case.settings)
    mesh = programs.tpu_mesh(topology, model_size)
    try:
        return programs.training_step(model, mesh, case.streams * data, case.time)
    except programs.DoesNotFitError as error:
        print(f"{topology}: {error}", flush=True)
        return None


def efficiency(point: Point, all_points: list[Point]) -> float | None:
    """Return tokens per second and device, relative to the fewest devices that hold the model."""
    same = [other for other in all_points if (other.case, other.chip) == (point.case, point.chip)]
    fitting = [other for other in same if other.tokens_per_second]
    if not point.tokens_per_second or not fitting:
        return None
    fewest = min(fitting, key=lambda other: other.devices)
    assert fewest.tokens_per_second
    return (point.tokens_per_second / point.devices) / (fewest.tokens_per_second / fewest.devices)


def about() -> str:
    """Return the head of the page: its subject, its assumptions, and the rates of the chips."""
    assert __doc__
    assumed = " ".join(__doc__.split("Assumed", 1)[1].split())
    lines = [
        "# Scaling on paper",
        "",
        "Training steps on paper, computed by `python experiments/scaling.py`: an LSTM with "
        "bfloat16 products and float32 Adam. The mesh is data x model. Efficiency is relative to "
        "the fewest devices that hold the model. GFLOP, GB moved and MB communicated are those of "
        "a device in a step.",
        "",
        assumed,
        "",
        "| chip | TFLOP/s, bfloat16 | memory, GB | memory, GB/s | GB/s to a nearby chip | "
        "GB/s to other chips | nearby chips |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in MOST:
        chip = programs.CHIPS[name]
        scaled = (chip.flops / 1e12, *(x / 1e9 for x in chip[1:5]), chip.near)
        lines.append(f"| {name} | {' | '.join(f'{number:,.0f}' for number in scaled)} |")
    streams = ", ".join(f"{name} {case.streams} x {case.time}" for name, case in CASES.items())
    return "\n".join([*lines, "", f"Streams x tokens on each device of `data`: {streams}.", ""])


def table(found: list[Point]) -> str:
    """Return a Markdown table with a row for each point."""
    lines = [
        "| model | chip | devices | data x model | GB held | GFLOP | GB moved | MB communicated | "
        "ms computing | ms communicating | tokens/s | efficiency |",
        "|" + "---|" * 12,
    ]
    for point in found:
        cells = [point.case, point.chip, str(point.devices), point.mesh]
        program, share = point.program, efficiency(point, found)
        if program and share:
            computation, communication = program.seconds(programs.CHIPS[point.chip])
            cells += [f"{program.held / 1e9:.2f}", f"{program.work.flops / 1e9:,.0f}"]
            cells += [f"{program.traffic / 1e9:.2f}", f"{program.communicated / 1e6:,.0f}"]
            cells += [f"{1e3 * computation:.2f}", f"{1e3 * communication:.2f}"]
            cells += [f"{point.tokens_per_second:,.0f}", f"{share:.0%}"]
        else:
            cells += ["does not fit", *[""] * 7]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def figure(found: list[Point], path: Path) -> None:
    """Plot tokens per second by number of devices, with a panel for each model."""
    drawing = Figure(figsize=(4 * len(CASES), 3.4), layout="constrained")
    for place, name in enumerate(CASES, 1):
        panel = drawing.add_subplot(1, len(CASES), place)
        for chip in MOST:
            same = [point for point in found if (point.case, point.chip) == (name, chip)]
            fitting = [point for point in same if point.tokens_per_second]
            line = [(point.devices, point.tokens_per_second) for point in fitting]
            panel.plot(*zip(*line, strict=True), "o-", label=chip)
        panel.set(xscale="log", yscale="log", title=name, xlabel="devices", ylabel="tokens/s")
        panel.grid(True, alpha=0.3)
        panel.legend()
    drawing.savefig(path, dpi=120)


def main() -> None:
    """Compile all programs, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--devices", nargs="+", type=int, choices=list(SLICES), default=list(SLICES)
    )
    options = parser.parse_args()
    found = []
    for name in options.cases:
        for devices in options.devices:
            chips = [chip for chip, most in MOST.items() if devices <= most]
            found += points(name, devices, chips)
            print(*table(found).splitlines()[-len(chips) :], sep="\n", flush=True)
    if (options.cases, options.devices) == (list(CASES), list(SLICES)):
        picture = PAGE.with_suffix(".png")
        figure(found, picture)
        shown = f"![tokens per second by number of devices]({picture.name})\n"
        PAGE.write_text("\n".join([about(), table(found), shown]))


if __name__ == "__main__":
    main()
