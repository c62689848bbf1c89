"""Training on 1 to 256 TPU chips and 1 to 64 GPUs, on paper: from programs compiled for TPUs.

Command    pip install "jax[tpu]" && python experiments/scaling.py
Hardware   a CPU
Minutes    not yet run to its end
Expected   scaling.md and scaling.png: tokens a second, and of that the share of what as many single
           chips would do
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
    """tokens_per_second, and what it follows from: None if a device's part does not fit into its
    memory.
    """

    case: str
    chip: str
    devices: int
    mesh: str
    held: float | None = None
    own: float | None = None
    told: float | None = None
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
            own, told = program.seconds(facts)
            rate = case.streams * data * case.time / (own + told)
            point = Point(*point[:4], program.held, own, told, rate)
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


def table(found: list[Point]) -> str:
    """A row for each point."""
    lines = [
        "Training steps on paper (`python experiments/scaling.py`, which says what is assumed): "
        "bfloat16 products, float32 Adam; a mesh of data x model; efficiency against the fewest "
        "devices that hold the model.",
        "",
        "| model | chip | devices | data x model | GB held | ms, own | ms, told | tokens/s | "
        "efficiency |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for point in found:
        share = efficiency(point, found)
        cells = [point.case, point.chip, str(point.devices), point.mesh]
        if point.tokens_per_second:
            cells += [
                f"{point.held / 1e9:.2f}",
                f"{1e3 * point.own:.2f}",
                f"{1e3 * point.told:.2f}",
            ]  # type: ignore[operator]
            cells += [f"{point.tokens_per_second:,.0f}", f"{share:.0%}"]
        else:
            cells += ["does not fit", "", "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![tokens a second by devices](scaling.png)", ""])


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
            print(*table(found).splitlines()[-len(chips) - 2 : -2], sep="\n", flush=True)
    if (options.cases, options.devices) == (list(CASES), list(SLICES)):
        PAGE.write_text(table(found))
        figure(found, PAGE.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    main()
