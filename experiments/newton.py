"""Measure how many iterations Newton's method over time needs, and when it is faster than a loop.

Command    python experiments/newton.py [folder of corpora] [--parts iterations trained time]
Hardware   two CPU cores; for the part "time", nothing else should run on them
Minutes    30; the folders of the runs are kept, so that a second call trains nothing
Expected   experiments/newton.md and newton.png, which this file writes from experiments/newton.json
Published  none for language models. Gonzalez et al. 2025 ("Predictability enables parallelization
           of nonlinear state space models"): a system parallelises if its largest Lyapunov exponent
           is negative

Three parts, each a table of experiments/newton.md. experiments/newton.json keeps the results of
each part, so that a call with `--parts` changes only the tables of its parts:

- iterations: an Elman layer of 32 units whose matrix U is scaled to a spectral radius, over 1,024
  steps of random input. The largest Lyapunov exponent λ says how a small change of the state grows,
  as exp(λ t). Iterations with the full Jacobian and with its diagonal.
- trained: cells of 128 units over 1,024 characters of tiny Shakespeare, before and after training.
- time: milliseconds of values and gradients by length T and units H, with a batch of 1, at
  initialisation: the fused loop, Newton's method, and minGRU, which is parallel without iterations.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from commands import call, find_corpus
from reproduce import hardware

import jaxlm
from jaxlm.models.cells import CELLS, Cell
from jaxlm.models.recurrent.layer import RecurrentLayer, recurrent_shape
from jaxlm.ops.newton import newton_recurrence
from jaxlm.ops.recurrence import recurrence, recurrent_product

PAGE, FIGURE, RESULTS = (Path(__file__).with_suffix(end) for end in (".md", ".png", ".json"))
RADII = (0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0)
STEPS, UNITS = 1024, 32
TRAINED = ("rnn", "gru", "lstm", "paragru", "paralstm")
LENGTHS, WIDTHS = (64, 1024, 16_384), (16, 128, 512)
TIMED = ("rnn", "gru", "lstm", "paragru", "paralstm")
MOST = STEPS + 1
SLOW = 3.0
SEED = 0


def lyapunov(cell: Cell, carry: Any, x_TBG: jax.Array, kernel: jax.Array, bias_G: Any) -> float:
    """Return the largest Lyapunov exponent of a recurrence along its states, per time step.

        λ = 1/T Σ_t log(|J_tᵀ v_t| / |v_t|)      backwards in time, v_{t-1} = J_tᵀ v_t

    A product of transposed Jacobians has the same largest exponent as the product of the Jacobians.
    """
    bias_G = jnp.zeros((0,)) if bias_G is None else bias_G

    def step(carry: Any, x_BG: jax.Array) -> Any:
        u_BG = recurrent_product(carry[0], kernel, jnp.float32, bias_G, x_BG.shape[-1])
        return cell.step(carry, x_BG, u_BG)

    def forward(carry: Any, x_BG: jax.Array) -> Any:
        return step(carry, x_BG), carry

    def backward(v: Any, inputs: Any) -> Any:
        before, x_BG = inputs
        (v,) = jax.vjp(lambda carry: step(carry, x_BG), before)[1](v)
        norm = jnp.sqrt(sum(jnp.vdot(array, array) for array in v)) + 1e-30
        return jax.tree.map(lambda array: array / norm, v), jnp.log(norm)

    @jax.jit
    def exponent(carry: Any, x_TBG: jax.Array) -> jax.Array:
        _, before = jax.lax.scan(forward, carry, x_TBG)
        key = jax.random.key(SEED)
        v = tuple(
            jax.random.normal(jax.random.fold_in(key, i), a.shape) for i, a in enumerate(carry)
        )
        _, growth_T = jax.lax.scan(backward, v, (before, x_TBG), reverse=True)
        # The first tenth turns v into the direction that grows most.
        return growth_T[: -len(growth_T) // 10].mean()

    return float(exponent(carry, x_TBG))


def solve(cell: Cell, arrays: tuple[Any, ...], jacobian: str) -> tuple[int, float]:
    """Return the number of iterations, and the largest difference to the loop over time."""
    run = jax.jit(
        lambda *given: newton_recurrence(
            cell.step, *given, jacobian=jacobian, most_iterations=MOST, damped=False
        )
    )
    h_TBH, _, newton = run(*arrays)
    expected, _ = jax.jit(lambda *given: recurrence(cell.step, *given))(*arrays)
    difference = float(abs(h_TBH - expected).max())
    return (int(newton.iterations) if newton.converged else MOST), difference


def random_layer(cell: Cell, units: int, steps: int) -> tuple[Any, ...]:
    """Return (carry, x_TBG, kernel, bias_G) of a new layer that reads random features."""
    random = np.random.default_rng(SEED).standard_normal
    x_BTD = jnp.asarray(random((1, steps, units)), jnp.float32)
    carry = tuple(jnp.zeros((1, units)) for _ in cell.carry)
    layer = RecurrentLayer(cell, units, "float32", init_scale=None, forget_bias=1.0)
    params = layer.init(jax.random.key(SEED), x_BTD[:, :2], carry)["params"]
    return arrays_of(params, x_BTD, carry)


def arrays_of(params: Any, x_BTD: jax.Array, carry: Any) -> tuple[Any, ...]:
    """Return (carry, x_TBG, kernel, bias_G) of a layer and its input."""
    x_TBG = x_BTD.swapaxes(0, 1) @ params["input"]["kernel"] + params["input"]["bias"]
    return carry, x_TBG, params["recurrent"]["kernel"], params["recurrent"].get("bias")


def part_iterations(_: Any) -> list[dict[str, Any]]:
    """Return a row for each spectral radius of an Elman layer."""
    cell, rows = CELLS["rnn"], []
    carry, x_TBG, _, bias_G = random_layer(cell, UNITS, STEPS)
    random = np.random.default_rng(SEED + 1).standard_normal
    kernel = random(recurrent_shape(cell, UNITS))
    kernel /= max(abs(np.linalg.eigvals(kernel)))
    for radius in RADII:
        arrays = carry, x_TBG, jnp.asarray(radius * kernel, jnp.float32), bias_G
        whole, difference = solve(cell, arrays, "full")
        diagonal, _ = solve(cell, arrays, "diagonal")
        rows.append(
            {
                "radius": radius,
                "exponent": lyapunov(cell, *arrays),
                "full": whole,
                "diagonal": diagonal,
                "difference": difference,
            }
        )
        print(rows[-1], flush=True)
    return rows


def part_trained(folder: Any) -> list[dict[str, Any]]:
    """Return a row for each cell, before and after training."""
    corpus, rows = find_corpus("tinyshakespeare", Path(folder)) if folder else "tinyshakespeare", []
    for name in TRAINED:
        out = Path("runs") / f"newton-{name}"
        flags = (
            f"--model {name} --corpus {corpus} --recipe own-text --fractions 0.9 0.1 "
            f"--tokens chars --embedding-size 32 --hidden-size 128 --batch-size 32 "
            f"--bptt 70 --lr 2e-3 --epochs 2 --sample-every 0 --no-report --out {out}"
        )
        call(["-m", "jaxlm.train", *flags.split(), *["--resume"] * out.exists()])
        run = jaxlm.load(out)
        text = jaxlm.read_corpus(corpus, fractions=(0.9, 0.1), tokens="chars")
        tokens_T = np.asarray(text.valid.ids[:STEPS])
        new = run.model.init(jax.random.key(SEED), tokens_T[None, :2])["params"]
        for when, params in (("before", new), ("after", run.params)):
            x_BTD = jnp.asarray(params["embedding"]["embedding"])[tokens_T][None]
            cell = run.model.cell
            carry = tuple(jnp.zeros((1, 128)) for _ in cell.carry)
            arrays = arrays_of(params["layers_0"], x_BTD, carry)
            diagonal, difference = solve(cell, arrays, "diagonal")
            whole = diagonal if cell.elementwise else solve(cell, arrays, "full")[0]
            row = {"cell": name, "when": when, "exponent": lyapunov(cell, *arrays), "full": whole}
            rows.append(row | {"diagonal": diagonal, "difference": difference})
            print(rows[-1], flush=True)
    return rows


def milliseconds(function: Any, *arguments: Any) -> tuple[float, Any]:
    """Return the median time of a call, and the result of the last call.

    The first call compiles. There are at least three calls and 0.3 s after it, or one call if a
    call takes more than SLOW seconds.
    """
    result = jax.block_until_ready(function(*arguments))
    times, end = [], time.perf_counter() + 0.3
    while not times or (times[0] < SLOW and (len(times) < 3 or time.perf_counter() < end)):
        began = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times), result


def part_time(_: Any) -> list[dict[str, Any]]:
    """Return a row for each cell, length and number of units."""
    rows = []
    for units in WIDTHS:
        for steps in LENGTHS:
            x_BTD = jnp.asarray(
                np.random.default_rng(SEED).standard_normal((1, steps, units)), jnp.float32
            )
            for name in (*TIMED, "mingru"):
                cell = CELLS[name]
                carry = tuple(jnp.zeros((1, units)) for _ in cell.carry)
                row: dict[str, Any] = {"cell": name, "units": units, "steps": steps}
                for loop in ("fused", "newton") if cell.recurrent else ("fused",):
                    layer = RecurrentLayer(
                        cell, units, "float32", init_scale=None, forget_bias=1.0, time_loop=loop
                    )
                    params = layer.init(jax.random.key(SEED), x_BTD[:, :2], carry)

                    def total(
                        params: Any, layer: Any = layer, x_BTD: Any = x_BTD, carry: Any = carry
                    ) -> Any:
                        (h_BTH, _), measured = layer.apply(
                            params, x_BTD, carry, mutable=["measured"]
                        )
                        return h_BTH.sum(), measured

                    gradient = jax.jit(jax.grad(total, has_aux=True))
                    row[loop], (_, found) = milliseconds(gradient, params)
                    if loop == "newton":
                        found = found["measured"]
                        row["iterations"] = int(found["newton_iterations"][0])
                        row["fell back"] = int(found["newton_fallbacks"][0])
                rows.append(row)
                print(row, flush=True)
    return rows


NOTES = {
    "iterations": f"An Elman layer of {UNITS} units that reads {STEPS:,} random inputs, with its "
    "matrix U scaled to a spectral radius: iterations with the full Jacobian and with its "
    "diagonal, without damping, and the largest difference of a state to the loop over time.",
    "trained": f"Cells of 128 units that read {STEPS:,} characters of tiny Shakespeare, before and "
    "after two epochs of training, without damping. ParaGRU and ParaLSTM have a diagonal Jacobian. "
    "The difference is that of the diagonal iterations.",
    "time": "Milliseconds of values and gradients of a new layer, batch 1, by the fused loop over "
    "time and by Newton's method; `fell back`: the states did not converge, and the loop computed "
    "them.",
}
"""What each part measures."""
MACHINE = "machine"
"""The entry of the results that says where the part "time" was measured."""
PARTS = {"iterations": part_iterations, "trained": part_trained, "time": part_time}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""

    def shown(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
        return str(value)

    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(shown(row.get(name, '')) for name in names)} |" for row in rows]
    return "\n".join(lines)


def draw(results: dict[str, Any]) -> None:
    """Draw the iterations over the Lyapunov exponent, from the results of the part "iterations"."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), dpi=120)
    rows = results["iterations"]
    for name, mark in (("full", "o-"), ("diagonal", "s--")):
        label = f"Elman, {UNITS} units, {name} Jacobian"
        axes.plot([r["exponent"] for r in rows], [r[name] for r in rows], mark, label=label)
    for row in results.get("trained", []):
        if row["when"] == "after":
            axes.plot(row["exponent"], row["diagonal"], "^", color="gray")
            axes.annotate(row["cell"], (row["exponent"], row["diagonal"]))
    axes.axvline(0, color="black", linewidth=0.5)
    axes.set(yscale="log", xlabel="largest Lyapunov exponent", ylabel=f"iterations, T = {STEPS}")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE)


def main() -> None:
    """Run the parts, and write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="folder of corpora")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in options.parts:
        results[part] = PARTS[part](options.folder)
        if part == "time":
            results[MACHINE] = f"{hardware()}, {time.strftime('%Y-%m-%d')}"
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if "iterations" in results:
        draw(results)
    parts = [
        f"## {name}\n\n{NOTES[name]}\n\n{table(results[name])}\n"
        for name in PARTS
        if name in results
    ]
    if MACHINE in results:
        parts.append(f"Times: {results[MACHINE]}.\n")
    head = (
        "# Newton's method over time\n\n`python experiments/newton.py` writes this page. The "
        "exponent is the largest Lyapunov exponent, per time step. Iterations of "
        f"{MOST} = T + 1 mean that the states did not converge in T iterations. The loop over time "
        "then computes them, so that the difference is 0. The experiment allows T + 1 iterations; "
        "`--time-loop newton` stops after 100.\n"
    )
    PAGE.write_text("\n".join([head, f"![iterations]({FIGURE.name})\n", *parts]))


if __name__ == "__main__":
    main()
