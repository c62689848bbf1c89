"""Training on 1 to 256 TPU chips and 1 to 64 GPUs, on paper: from programs compiled for TPUs.

Command    pip install "jax[tpu]" && python experiments/scaling.py
Hardware   a CPU
Minutes    34, with other jobs on the cores
Expected   scaling.md and scaling.png: tokens a second, and of that the share of what as many single
           chips would do: medium 70% on 256 v6e and 13% on 64 H100 (gradients cross hosts in seven
           times the step), AWD 84% and 24%, a billion parameters 37% and 30%; one v5e holds no
           billion
Assumed    Every chip has the same number of streams, so a batch grows with them. A step takes the
           longer of its products at the chip's bfloat16 rate and its memory traffic at the chip's
           bandwidth (each product's operands and result once, Adam's seven passes), and then what
           chips tell each other, as rings at their links' rates, with nothing done meanwhile.
           Launches, the loop's own latency and elementwise work are left out, so a time is a least
           one; how it grows is what the page is about. GPUs run the TPU's program: what devices
           tell each other is decided before the compiler knows which they are.
"""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

# Where memory is scarce (a billion parameters on one chip) the compiler's usual effort to fit a
# program in takes more than half an hour; with the least, eight minutes.
os.environ.setdefault("JAX_MEMORY_FITTING_LEVEL", "O0")

import programs
from matplotlib.figure import Figure

PAGE = Path(__file__).with_suffix(".md")
SLICES = {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
MOST = {"v5e": 256, "v6e": 256, "h100": 64}


class Case(NamedTuple):
    """model: devices on the mesh's `model`, at most; streams: on each device of `data`."""

    settings: dict[str, Any]
    vocab_size: int
    streams: int
    time: int
    model: int


CASES = {
    "medium": Case({"embedding_size": 650, "hidden_size": 650, "num_layers": 2}, 10_000, 20, 35, 1),
    "AWD": Case(
        {"embedding_size": 400, "layer_sizes": (1150, 1150, 400), "tied": True}, 10_000, 20, 70, 1
    ),
    # The output layer, which is the embedding too, has 1,073,741,824 parameters.
    "billion": Case(
        {"embedding_size": 1024, "hidden_size": 1024, "num_layers": 2, "tied": True},
        1 << 20,
        32,
        35,
        16,
    ),
}


class Point(NamedTuple):
    """program: None if a device's part does not fit into its memory, and so is what follows from
    it.
    """

    case: str
    chip: str
    devices: int
    mesh: str
    program: programs.Program | None = None
    tokens_per_second: float | None = None


def points(name: str, devices: int, chips: list[str]) -> list[Point]:
    """A model on so many devices of each kind."""
    case = CASES[name]
    found = []
    model_size = min(case.model, devices)
    data = devices // model_size
    compiled: dict[str, programs.Program | None] = {}
    for chip in chips:
        # libtpu has no GPUs: theirs is the program of the chip that is nearest to them.
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
    """Compiled; None if it does not fit."""
    model = programs.build("lstm", case.vocab_size, dtype="bfloat16", **case.settings)
    mesh = programs.tpu_mesh(topology, model_size)
    try:
        return programs.training_step(model, mesh, case.streams * data, case.time)
    except programs.DoesNotFitError as error:
        print(f"{topology}: {error}", flush=True)
        return None


def efficiency(point: Point, all_points: list[Point]) -> float | None:
    """Of tokens a second for each device, the share of what the fewest devices that hold it do."""
    alike = [one for one in all_points if (one.case, one.chip) == (point.case, point.chip)]
    fitting = [one for one in alike if one.tokens_per_second]
    if not point.tokens_per_second or not fitting:
        return None
    least = min(fitting, key=lambda one: one.devices)
    assert least.tokens_per_second
    return (point.tokens_per_second / point.devices) / (least.tokens_per_second / least.devices)


def about() -> str:
    """What the page is, what it assumes, and what is published of the chips."""
    assert __doc__
    assumed = " ".join(__doc__.split("Assumed", 1)[1].split())
    lines = [
        "Training steps on paper, by `python experiments/scaling.py`: an LSTM with bfloat16 "
        "products and float32 Adam; a mesh of data x model; efficiency against the fewest devices "
        "that hold the model. GFLOP, GB moved and MB told are a device's, of one step.",
        "",
        assumed,
        "",
        "| chip | TFLOP/s, bfloat16 | memory, GB | GB/s of memory | GB/s to a chip near by | "
        "and to others | chips near by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in MOST:
        chip = programs.CHIPS[name]
        scaled = (chip.flops / 1e12, *(x / 1e9 for x in chip[1:5]), chip.near)
        lines.append(f"| {name} | {' | '.join(f'{number:,.0f}' for number in scaled)} |")
    streams = ", ".join(
        f"{name} {case.streams} streams x {case.time}" for name, case in CASES.items()
    )
    return "\n".join([*lines, "", f"Each device of `data` has of {streams} tokens.", ""])


def table(found: list[Point]) -> str:
    """A row for each point."""
    lines = [
        "| model | chip | devices | data x model | GB held | GFLOP | GB moved | MB told | "
        "ms, own | ms, told | tokens/s | efficiency |",
        "|" + "---|" * 12,
    ]
    for point in found:
        cells = [point.case, point.chip, str(point.devices), point.mesh]
        program, share = point.program, efficiency(point, found)
        if program and share:
            own, told = program.seconds(programs.CHIPS[point.chip])
            cells += [f"{program.held / 1e9:.2f}", f"{program.work.flops / 1e9:,.0f}"]
            cells += [f"{program.traffic / 1e9:.2f}", f"{program.told / 1e6:,.0f}"]
            cells += [f"{1e3 * own:.2f}", f"{1e3 * told:.2f}"]
            cells += [f"{point.tokens_per_second:,.0f}", f"{share:.0%}"]
        else:
            cells += ["does not fit", *[""] * 7]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def figure(found: list[Point], path: Path) -> None:
    """Tokens a second by devices, a panel for each model."""
    drawing = Figure(figsize=(4 * len(CASES), 3.4), layout="constrained")
    for place, name in enumerate(CASES, 1):
        panel = drawing.add_subplot(1, len(CASES), place)
        for chip in MOST:
            alike = [one for one in found if (one.case, one.chip) == (name, chip)]
            line = [(one.devices, one.tokens_per_second) for one in alike if one.tokens_per_second]
            panel.plot(*zip(*line, strict=True), "o-", label=chip)
        panel.set(xscale="log", yscale="log", title=name, xlabel="devices", ylabel="tokens/s")
        panel.grid(True, alpha=0.3)
        panel.legend()
    drawing.savefig(path, dpi=120)


def main() -> None:
    """Compiles all, and writes the page."""
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
        shown = f"![tokens a second by devices]({picture.name})\n"
        PAGE.write_text("\n".join([about(), table(found), shown]))


if __name__ == "__main__":
    main()
