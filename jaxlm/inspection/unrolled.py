"""A recurrent network unrolled over a row: states, losses, and the gradient of each step."""

import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import SequenceKey, tree_leaves_with_path, tree_map_with_path

from jaxlm.errors import SettingError, UserError
from jaxlm.inspection.arguments import check_run
from jaxlm.inspection.gradients import inspected, path_of, read_text, recurrent_kernels
from jaxlm.models.neural import NeuralModel
from jaxlm.ranges import Size, checked
from jaxlm.runs.run import Run
from jaxlm.runs.starts import start_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# Largest number of elements of U times steps (128 MiB of float32). About five such arrays exist.
MOST_NUMBERS = 1 << 25
# Largest number of steps. There is a backward pass over the row for each step's loss.
MOST_STEPS = 1000
# Steps up to which a printed Unrolled has the contribution of each step to each loss.
STEPS_OF_PAIRS = 8
# Units of a state up to which the table has their values, not the norm.
SHOWN_UNITS = 2
# Columns of states, and of matrices, up to which the table has each of them.
MOST_COLUMNS = 2
# Columns of the terminal that a token takes at most.
WORD_WIDTH = 9


@dataclass(frozen=True)
class Unrolled:
    """A recurrent network unrolled over the T steps of a row; T losses that are summed.

        U is the same at each step: dL/dU = Σ_s (dL/dU)_s      (dL/dU)_s = Σ_{t ≥ s} (dloss_t/dU)_s

    (dloss_t/dU)_s is what step s contributes to dU through the loss of step t. The step reads token
    s and multiplies the state before it, h_{s-1}, by U. In the lecture, U is W_hh.

    Attributes:
      inputs: the token that each step reads.
      targets: the token that each step predicts.
      losses: cross-entropy of each target in nats, float64 [T].
      states: each array of the carry after each step, float32 [T, H], such as "layers_0/h".
      pairs: Frobenius norm of (dloss_t/dU)_s, float64 [T, T] with rows t and columns s; for each
        recurrent matrix, such as "layers_0". It is 0 for s > t.
      contributions: (dL/dU)_s of each step s, float32 [T, H, G], for each matrix.
      by_lag: the sum of (dloss_t/dU)_{t-k} over t, for each lag k, float32 [T, H, G], for each
        matrix.
      truncate: number of steps that each loss reaches back in truncated back-propagation, or None.
    """

    inputs: list[str]
    targets: list[str]
    losses: np.ndarray
    states: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]
    contributions: dict[str, np.ndarray]
    by_lag: dict[str, np.ndarray]
    truncate: int | None = None

    @property
    def total(self) -> float:
        """The sum of the losses, in nats."""
        return float(self.losses.sum())

    @property
    def gradient(self) -> dict[str, np.ndarray]:
        """dL/dU, float64 [H, G], for each matrix: the sum of the contributions of all steps."""
        return {name: value.sum(0, np.float64) for name, value in self.contributions.items()}

    def left_out(self, truncate: int | None = None) -> dict[str, np.ndarray]:
        """Return what truncated back-propagation leaves out of dL/dU, float64 [H, G] per matrix.

        The gradient of each loss reaches its own step and the `truncate` - 1 steps before it
        (Williams & Peng 1990). It is the sum of (dloss_t/dU)_s over all pairs with t - s at least
        `truncate`.

        Args:
          truncate: number of steps, at least 1; None for the value that `bptt` was given.
        Raises:
          SettingError: for less than 1, and for None if `bptt` was given none.
        """
        count = self.truncate if truncate is None else truncate
        if count is None:
            raise SettingError("truncate", None, "must be a number of steps, at least 1")
        count = checked("truncate", count, Size)
        return {name: value[count:].sum(0, np.float64) for name, value in self.by_lag.items()}

    def left_out_share(self, truncate: int | None = None) -> dict[str, float]:
        """Return the norm of `left_out` divided by the norm of dL/dU, for each matrix.

        The share of a gradient that is 0 is 0.
        """
        whole = self.gradient
        return {
            name: float(np.linalg.norm(part) / (np.linalg.norm(whole[name]) or 1.0))
            for name, part in self.left_out(truncate).items()
        }

    def table(self) -> "Table":
        """Return the steps as a table: input, state, target, loss, and the contributions to dU.

        It has each number of a state with few units, and the norm of another state. Of a network
        with several layers, it has the hidden states; with more than two, the last hidden state,
        and the norm of the contributions to all matrices together.
        """
        from rich.table import Table

        states, gradients = (
            dict(self.states),
            {name: self.contributions[name] for name in self.pairs},
        )
        if len(states) > MOST_COLUMNS:
            states = {name: h_TH for name, h_TH in states.items() if name.endswith("/h")}
        if len(states) > MOST_COLUMNS or len(gradients) > MOST_COLUMNS:
            states = dict(list(states.items())[-1:])
            flat = [array.reshape(len(array), -1) for array in gradients.values()]
            gradients = {"all": np.concatenate(flat, axis=1)}
        table = Table(title="unrolled", show_footer=True, **_layout())
        table.add_column("step", "sum", justify="right")
        table.add_column("reads", overflow="ellipsis", no_wrap=True, max_width=WORD_WIDTH)
        for name, value_TH in states.items():
            layer, _, array = name.rpartition("/")
            shown = array if value_TH.shape[1] <= SHOWN_UNITS else f"‖{array}‖"
            table.add_column(f"{shown}\n{layer}", justify="right")
        table.add_column("predicts", overflow="ellipsis", no_wrap=True, max_width=WORD_WIDTH)
        table.add_column("loss", f"{self.total:.4f}", justify="right")
        for name, value in gradients.items():
            total = f"{np.linalg.norm(value.sum(0, np.float64)):.1e}"
            table.add_column(f"‖dU‖\n{name}", total, justify="right")
        for step, (read, target) in enumerate(zip(self.inputs, self.targets, strict=True)):
            units = [_state(value_TH[step]) for value_TH in states.values()]
            norms = [f"{np.linalg.norm(value[step]):.1e}" for value in gradients.values()]
            loss = f"{self.losses[step]:.4f}"
            table.add_row(str(step), _plain(read), *units, _plain(target), loss, *norms)
        return table

    def pairs_table(self, name: str | None = None) -> "Table":
        """Return the norm of what step s (column) contributes to dU through loss t (row).

        Args:
          name: the matrix, such as "layers_0"; None for the first.
        Raises:
          SettingError: for a matrix that the network does not have.
        """
        from rich.table import Table

        name = next(iter(self.pairs)) if name is None else name
        if name not in self.pairs:
            raise SettingError("name", name, f"must be one of {', '.join(self.pairs)}")
        title = f"‖dloss_t/dU‖ of step s, {name}"
        table = Table(title=title, **_layout())
        table.add_column("t \\ s", justify="right")
        for step in range(len(self.inputs)):
            table.add_column(str(step), justify="right")
        cut = len(self.inputs) if self.truncate is None else self.truncate
        for loss, norms in enumerate(self.pairs[name]):
            cells = [_pair(norms[step], loss - step >= cut) for step in range(loss + 1)]
            table.add_row(f"loss {loss}", *cells)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=80, color_system=None)
        console.print(self.table())
        if len(self.inputs) <= STEPS_OF_PAIRS:
            for name in self.pairs:
                console.print(self.pairs_table(name))
        if self.truncate is not None:
            for name, share in self.left_out_share().items():
                norm = np.linalg.norm(self.left_out()[name])
                text.write(
                    f"truncated to {self.truncate}: dU of {name} lacks a part of norm {norm:.1e} "
                    f"({share:.1%})\n"
                )
        return text.getvalue()


def most_steps(run: Run) -> int:
    """Return the largest number of steps that `bptt` unrolls of a recurrent run.

    The contributions of T steps take T times the memory of U.
    """
    kernels = recurrent_kernels(run.params, run.name)
    return min(MOST_STEPS, max(1, MOST_NUMBERS // sum(kernel.size for kernel in kernels.values())))


def bptt(
    run: Run,
    row: str | Iterable[int],
    *,
    start: str | None = None,
    truncate: int | None = None,
) -> Unrolled:
    """Return a recurrent network unrolled over a row, with back-propagation through time by step.

    Each step gets a copy of U of its own, and the derivative with respect to this copy is what the
    step contributes. The steps run by the model's own definition, so that every cell with a matrix
    U works. The products are computed in float32. Dropout is off.

    Source: Werbos, "Backpropagation through time: what it does and how to do it", 1990; Williams &
    Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories", 1990 (truncation).

    Example:
      >>> import jaxlm, numpy as np
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> model = jaxlm.RNN(len(text.vocabulary), embedding_size=2, hidden_size=3)
      >>> run = jaxlm.fit(model, text, batching="rows", batch_size=3, steps=5, quiet=True)
      >>> unrolled = bptt(run, "我 讨厌 挨打", truncate=1)
      >>> unrolled.inputs, unrolled.targets, unrolled.pairs["layers_0"].shape
      (['我', '讨厌'], ['讨厌', '挨打'], (2, 2))
      >>> unrolled.gradient["layers_0"].shape
      (3, 3)

    Args:
      run: a run of a recurrent model.
      row: the text of the row, or the ids of its tokens. The last token is only a target.
      start: state before the row: "fresh", "warm", or None for the default of the run.
      truncate: number of steps that each loss reaches back in truncated back-propagation, for
        `left_out`; None for no truncation.
    Raises:
      UserError: for a model without a recurrent matrix, a row of fewer than two tokens, and a row
        that is too long: the contributions of T steps take T times the memory of U.
      SettingError: for `truncate` below 1.
    """
    check_run(run)
    if truncate is not None:
        truncate = checked("truncate", truncate, Size)
    network = inspected(run)
    kernels = recurrent_kernels(network.params, network.name)
    most = most_steps(run)
    reading = read_text(network, row, start, most + 2)
    ids = reading.ids
    if len(ids) < 2:
        raise UserError(f"the row has {len(ids)} tokens: a loss needs at least 2")
    if len(ids) - 1 > most:
        # The start token is a step too.
        tokens = most + 1 - (len(start_of(run, start).ids) if isinstance(row, str) else 0)
        raise UserError(
            f"the row has more than {tokens:,} tokens: what each step contributes would take too "
            f"much memory and time. Give at most {tokens:,} tokens of this model"
        )
    unrolled = _unrolled(network.params, ids, reading.carry, network.model)
    losses, states, pairs, contributions, by_lag = jax.tree.map(np.asarray, unrolled)
    text = run.tokenizer.token_text
    names = {path: path.removesuffix("/recurrent/kernel") for path in kernels}
    return Unrolled(
        [text(int(index)) for index in ids[:-1]],
        [text(int(index)) for index in ids[1:]],
        losses.astype(np.float64),
        {
            _state_name(network.model, path): leaf[:, 0]
            for path, leaf in tree_leaves_with_path(states)
        },
        {name: pairs[path].astype(np.float64) for path, name in names.items()},
        {name: contributions[path] for path, name in names.items()},
        {name: by_lag[path] for path, name in names.items()},
        truncate,
    )


@functools.partial(jax.jit, static_argnames="model")
def _unrolled(params: Any, ids: jax.Array, carry: Any, model: NeuralModel) -> tuple[Any, ...]:
    """Return the losses [T], the carries, and for each matrix the arrays of `Unrolled` by path.

    The arrays are pairs [T, T], contributions [T, H, G] and by_lag [T, H, G].
    """
    kernels = recurrent_kernels(params, type(model).__name__)
    steps = len(ids) - 1

    def run(shifts: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        def step(carry: Any, inputs: Any) -> tuple[Any, Any]:
            read, target, shift = inputs

            def own(path: Any, leaf: jax.Array) -> jax.Array:
                return leaf + shift[path_of(path)] if path_of(path) in shift else leaf

            variables = {"params": tree_map_with_path(own, params)}
            arguments = read[None, None], target[None, None], carry
            result: Any = model.apply(variables, *arguments, method="nll")
            return result[1], (result[0][0, 0], result[1])

        _, (losses_T, states) = jax.lax.scan(step, carry, (ids[:-1], ids[1:], shifts))
        return losses_T, states

    zeros = {path: jnp.zeros((steps, *kernel.shape)) for path, kernel in kernels.items()}
    losses_T, pull_back, states = jax.vjp(run, zeros, has_aux=True)

    def back(sums: Any, loss: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        (of_steps,) = pull_back(jax.nn.one_hot(loss, steps))
        contributions, by_lag = sums
        contributions = jax.tree.map(jnp.add, contributions, of_steps)
        # Steps after the loss contribute 0, so that it does not matter that their lags wrap around.
        lags = (loss - jnp.arange(steps)) % steps
        by_lag = jax.tree.map(lambda total, part: total.at[lags].add(part), by_lag, of_steps)
        norms = {
            path: jnp.sqrt(jnp.sum(jnp.square(part), (1, 2))) for path, part in of_steps.items()
        }
        return (contributions, by_lag), norms

    (contributions, by_lag), pairs = jax.lax.scan(back, (zeros, zeros), jnp.arange(steps))
    return losses_T, states, pairs, contributions, by_lag


def _state_name(model: NeuralModel, path: Any) -> str:
    """Return the name of an array of the carry, such as "layers_0/h"."""
    indices = [part.idx for part in path if isinstance(part, SequenceKey)]
    names = getattr(getattr(model, "cell", None), "carry", ())
    if len(indices) == 2 and indices[1] < len(names):
        return f"layers_{indices[0]}/{names[indices[1]]}"
    return "/".join(["carry", *map(str, indices)])


def _layout() -> dict[str, Any]:
    """Return the options of a table without lines between its columns."""
    from rich import box

    return {"title_justify": "left", "box": box.SIMPLE_HEAD, "pad_edge": False}


def _plain(text: str) -> "Text":
    """Return a token as a text without markup; blanks and line breaks are in quotes."""
    from rich.text import Text

    return Text(repr(text) if text.isspace() or not text.isprintable() else text)


def _state(value_H: np.ndarray) -> str:
    if len(value_H) <= SHOWN_UNITS:
        return " ".join(f"{value:5.2f}" for value in value_H)
    return f"{np.linalg.norm(value_H):.3f}"


def _pair(norm: float, is_cut: bool) -> str:
    return f"({norm:.1e})" if is_cut else f"{norm:.1e}"
