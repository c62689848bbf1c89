"""How far back a loss reaches: gradients by lag, and with other recurrent matrices."""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, tree_leaves_with_path, tree_map_with_path

from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.generation import encode_context
from jaxlm.inspection.arguments import check_run, described, in_a_line
from jaxlm.models.base import LanguageModel
from jaxlm.models.neural import NeuralModel, param_shapes
from jaxlm.ranges import Size, checked
from jaxlm.runs.run import Run
from jaxlm.training.state import init_key, init_params

# Tokens of a text that are read, counted from its start. More tokens would only move the positions
# further apart.
MOST_TOKENS = 5_000
# Tokens of the windows that one call of the compiled gradient reads.
TOKENS_IN_BATCH = 8192
# Largest lag if no lags are given.
DEFAULT_LAG = 100
# The exponential is fitted to the lags before the first norm below this share of lag 1's norm.
FITTED_SHARE = 1e-6
# Units of a layer whose gradients are followed through the linear network.
PROBES = 128


@dataclass(frozen=True)
class GradientByLag:
    """Norms of the gradient of a loss with respect to the word features some tokens before it.

    Attributes:
      lags: lags k, int64 [K].
      norms: mean over positions t of ||d loss_t / d embedding_{t-k}||, float64 [K].
      time_constant: τ of exp(-k/τ), fitted to the logarithms of the norms by least squares, over
        all lags of `fitted`; infinite if the norms do not fall, NaN if the fit has fewer than two
        lags.
      below_one_percent: first lag whose norm is below 1% of the norm of lag 1; None if no lag up to
        the largest is.
      positions: number of positions t in the mean.
      fitted: first and last lag of the fit. The fit begins at lag 1 and ends before the first norm
        that is 0, not finite, or below 1e-6 of the norm of lag 1.
      tokens: number of tokens of the text that were read.
    """

    lags: np.ndarray
    norms: np.ndarray
    time_constant: float
    below_one_percent: int | None
    positions: int
    fitted: tuple[int, int]
    tokens: int


@dataclass(frozen=True)
class GradientThroughTime:
    """Norms of the gradient by lag, with recurrent matrices of several spectral radii.

    Attributes:
      radii: spectral radii, float64 [R].
      lags: lags k, int64 [K], from 0.
      norms: the network itself: mean over positions of ||d loss_t / d embedding_{t-k}||, float64
        [R, K].
      linear: the recurrent matrix alone: the factor by which k products with it multiply the norm
        of a gradient, float64 [R, K]. It is 1 at lag 0.
      factors: factor of `norms` from one lag to the next, float64 [R], fitted as `time_constant`
        is: below 1 the gradient vanishes, above 1 it explodes.
      own_radii: spectral radius of each block of the recurrent matrices of the run, by the path of
        the matrix.
      positions: number of positions t in the mean.
    """

    radii: np.ndarray
    lags: np.ndarray
    norms: np.ndarray
    linear: np.ndarray
    factors: np.ndarray
    own_radii: dict[str, list[float]]
    positions: int


def gradient_by_lag(
    run_or_model: Run | LanguageModel,
    text: str | Iterable[int],
    lags: int | Sequence[int] | None = None,
    *,
    params: Any = None,
    key: jax.Array | None = None,
    start: str | None = None,
    positions: int = 32,
) -> GradientByLag:
    """Return how strongly the loss depends on the word features k tokens before it, for each lag k.

        norm_k = mean over t of ||d loss_t / d embedding_{t-k}||

    loss_t is the cross-entropy of the token after position t, in nats. Lag 0 is the token that is
    read at t. The derivative is with respect to the output of the module `embedding`, so that every
    neural model has it. The positions t are evenly spaced over the text. For each position, one
    backward pass over the largest lag gives the gradients of all lags. The products are computed in
    float32.

    Of a text with more than 5,000 tokens, the first 5,000 are read.

    Example:
      >>> import jaxlm, jax
      >>> model = jaxlm.NPLM(vocab_size=3, n_step=3, embedding_size=2, hidden_size=4)
      >>> found = gradient_by_lag(model, [0, 1, 2, 1] * 20, 4, key=jax.random.key(0))
      >>> [bool(norm > 0) for norm in found.norms], found.below_one_percent
      ([True, True, True, False, False], 3)

    Args:
      run_or_model: a run, or a model with `params` or `key`.
      text: the text; or the ids of its tokens, which a model without a run needs.
      lags: lags to return, or the largest lag (0 to the largest are returned). None: 0 to 100, or
        to half of a shorter text.
      params: parameters in place of the run's.
      key: draw parameters from this key, as `fit` does at the start of training with this key.
      start: state before the text: "fresh", "warm", or None for the default of the run.
      positions: number of positions t; fewer if the text is short.
    Raises:
      UserError: for an n-gram, a model without parameters or with those of another model, and a
        text that is too short.
      SettingError: for lags or positions that are out of range.
    """
    network = inspected(run_or_model, params, key)
    reading = read_text(network, text, start)
    largest, chosen = _checked_lags(lags, len(reading.ids))
    curve, count = _mean_norms(network, reading, largest, positions)
    slope, fitted = _fit(curve)
    return GradientByLag(
        chosen,
        curve[chosen],
        -1 / slope if slope < 0 else (math.inf if slope >= 0 else math.nan),
        _below(curve, 0.01),
        count,
        fitted,
        len(reading.ids),
    )


def gradient_through_time(
    run_or_model: Run | LanguageModel,
    text: str | Iterable[int],
    radii: Sequence[float] = (0.5, 0.9, 1.0, 1.1),
    steps: int | None = None,
    *,
    params: Any = None,
    key: jax.Array | None = None,
    start: str | None = None,
    positions: int = 32,
) -> GradientThroughTime:
    """Return the gradient by lag with every recurrent matrix scaled to given spectral radii.

    The gradient goes back k steps through k products with the recurrent matrix U. In a linear
    network, h_t = U h_{t-1} + W x_t, its norm changes by the spectral radius of U at each step, as
    soon as k is large: it vanishes below 1, is kept at 1, and explodes above 1. `linear` has this
    product alone. `norms` has the network itself, where each step also multiplies by the derivative
    of the activation. That is at most 1 for tanh, and close to 1 only where the units are small. So
    an Elman network at the start of training follows `linear`, and a trained network, whose units
    are saturated, vanishes at a radius of 1 too. A radius of 1 or more is necessary for exploding
    gradients, and not sufficient (Pascanu et al. 2013, section 2.1).

    A gated cell has a square block of U for each gate. Each block is scaled to the radius on its
    own, because each is the matrix of one product with h_{t-1}; the whole matrix [H, G] has no
    spectral radius. The cell's direct path, c' = f ⊙ c + ..., stays as it is. So the gradient of an
    LSTM or a GRU changes less with the radius, and `linear` shows the network without its gates.

    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks",
    2013, section 2.

    Example:
      >>> import jaxlm, jax
      >>> ids, key = [0, 1, 2, 1, 0, 2] * 20, jax.random.key(0)
      >>> model = jaxlm.RNN(vocab_size=3, embedding_size=4, hidden_size=8)
      >>> found = gradient_through_time(model, ids, radii=(0.5, 1.0), steps=20, key=key)
      >>> found.norms.shape, bool(found.norms[0, 20] < 1e-3 * found.norms[1, 20])
      ((2, 21), True)

    Args:
      run_or_model: a run, or a model with `params` or `key`.
      text: the text; or the ids of its tokens.
      radii: spectral radii, above 0.
      steps: the largest lag. None: 100, or half of a shorter text.
      params, key, start, positions: see `gradient_by_lag`.
    Raises:
      UserError: in the cases of `gradient_by_lag`, for a model without a recurrent matrix, and for
        a matrix whose radius is 0 or not finite.
      SettingError: for radii or steps that are out of range.
    """
    network = inspected(run_or_model, params, key)
    kernels = recurrent_kernels(network.params, network.name)
    asked = np.array(radii)
    numbers = asked.ndim == 1 and asked.size > 0 and asked.dtype.kind in "iuf"
    if not numbers or not np.all(np.isfinite(asked)) or np.any(asked <= 0):
        raise SettingError(
            "radii", in_a_line(radii), "must be finite numbers above 0, at least one"
        )
    asked = asked.astype(np.float64)
    if steps is not None:
        steps = checked("steps", steps, Size)
    own = own_radii(kernels, network.name)
    curves, factors, count, largest = [], [], 0, 0
    for radius in asked:
        scaled = network.with_params(scaled_to_radius(network.params, own, float(radius)))
        # The state before the text depends on the matrices too.
        reading = read_text(scaled, text, start)
        largest, _ = _checked_lags(steps, len(reading.ids), "steps")
        curve, count = _mean_norms(scaled, reading, largest, positions)
        curves.append(curve)
        factors.append(math.exp(_fit(curve)[0]))
    linear = linear_norms(kernels, own, asked, largest)
    return GradientThroughTime(
        asked, np.arange(largest + 1), np.stack(curves), linear, np.array(factors), own, count
    )


@dataclass(frozen=True)
class Network:
    """A neural model with the parameters to inspect.

    model: the model, which computes in float32. params: its parameters. run: the run with these
    parameters, or None. name: its name in messages.
    """

    model: NeuralModel
    params: Any
    run: Run | None
    name: str

    def with_params(self, params: Any) -> "Network":
        run = None if self.run is None else replace(self.run, params=params)
        return replace(self, params=params, run=run)


@dataclass(frozen=True)
class Encoded:
    """A text for a network to read: the ids of its tokens, int32 [N], and the carry before it."""

    ids: np.ndarray
    carry: Any


def inspected(run_or_model: Any, params: Any = None, key: jax.Array | None = None) -> Network:
    """Return the model and the parameters that the arguments of `gradient_by_lag` name."""
    if not isinstance(run_or_model, LanguageModel):
        check_run(run_or_model)
    run = run_or_model if isinstance(run_or_model, Run) else None
    model = run_or_model if run is None else run.model
    name = type(model).__name__ if run is None else run.name
    if not isinstance(model, NeuralModel):
        raise UserError(
            f"{name} is trained by {model.trained_by}, so that its loss has no gradient: choose a "
            f"run of a neural model"
        )
    if params is not None and key is not None:
        raise UserError("`params` and `key` exclude each other: leave one out")
    if params is not None:
        _check_params(params, model, name)
    if key is not None:
        if not isinstance(key, jax.Array):
            why = f"is {described(key)}: give a key, such as jax.random.key(0)"
            raise UserError(f"`key` {why}")
        params = init_params(model, init_key(key))
    if params is None:
        if run is None:
            raise UserError(f"{name} is a model without parameters: give `params` or `key`")
        params = run.params
    if run is not None:
        run = replace(run, params=params)
    return Network(model.clone(dtype="float32"), params, run, name)


def _check_params(params: Any, model: NeuralModel, name: str) -> None:
    """Raise UserError unless `params` have the paths and the shapes of the model's parameters."""
    wanted, found = (
        {path_of(path): np.shape(leaf) for path, leaf in tree_leaves_with_path(tree)}
        for tree in (param_shapes(model), params)
    )
    for path in dict.fromkeys([*wanted, *found]):
        if wanted.get(path) != found.get(path):
            has, needs = (
                f"of shape {tree[path]}" if path in tree else "missing" for tree in (found, wanted)
            )
            raise UserError(
                f"`params` are not those of {name}: {path or 'a number alone'} is {has}"
                f"{f', and must be {needs}' if path in wanted else ', and the model has none'}"
            )


def read_text(
    network: Network, text: str | Iterable[int], start: str | None, most: int = MOST_TOKENS
) -> Encoded:
    """Return the first tokens of a text, and the carry before them.

    Args:
      network: the network that reads.
      text: the text, which needs a run; or the ids of its tokens.
      start: "fresh", "warm", or None for the default of the run.
      most: largest number of tokens to return.
    Raises:
      UserError: for a text that cannot be encoded, and ids that are out of range.
      SettingError: for a start with ids.
    """
    carry = None
    if isinstance(text, str):
        if network.run is None:
            raise UserError(
                f"{network.name} is a model without a tokenizer: give the ids of the tokens as "
                f"`text`, or a run"
            )
        context = encode_context(network.run, text, start)
        ids, carry = context.ids[0], context.start.carry
    else:
        if start is not None:
            raise SettingError("start", start, "needs a text, not the ids of tokens")
        if not isinstance(text, Iterable):
            raise UserError(f"`text` is {described(text)}: give a text, or a list of ids")
        ids = np.array(list(itertools.islice(text, most)))
        whole = ids.ndim == 1 and (not len(ids) or ids.dtype.kind in "iu")
        size = network.model.vocab_size
        if not whole or (len(ids) and not 0 <= ids.min() <= ids.max() < size):
            raise UserError(f"`text` must be a text, or a list of ids from 0 to {size - 1}")
    ids = ids[:most].astype(np.int32)
    initial = network.model.initial_carry(1)
    if carry is not None:
        # The warm carry was computed in the dtype of the run.
        initial = jax.tree.map(lambda old, new: jnp.asarray(old, new.dtype), carry, initial)
    return Encoded(ids, initial)


def _checked_lags(
    lags: int | Sequence[int] | None, tokens: int, name: str = "lags"
) -> tuple[int, np.ndarray]:
    """Return the largest lag, at least 1, and the lags to return, int64 [K]."""
    # The last token is only predicted.
    most = tokens - 2
    if most < 1:
        raise UserError(f"the text has {tokens} tokens: a gradient by lag needs at least 3")
    if lags is None:
        lags = min(DEFAULT_LAG, max(1, tokens // 2))
    chosen = np.arange(lags + 1) if isinstance(lags, int | np.integer) else np.asarray(lags)
    if chosen.ndim != 1 or not chosen.size or chosen.dtype.kind not in "iu" or chosen.min() < 0:
        raise SettingError(name, in_a_line(lags), "must be whole numbers from 0, at least one")
    largest = max(1, int(chosen.max()))
    if largest > most:
        raise SettingError(
            name,
            largest,
            f"{tokens} tokens of the text are read, so that the largest lag is {most}: give a "
            f"longer text or smaller lags",
        )
    return largest, chosen.astype(np.int64)


def _mean_norms(
    network: Network, reading: Encoded, largest: int, positions: int
) -> tuple[np.ndarray, int]:
    """Return the mean norm of each lag from 0 to `largest`, float64, and the number of positions.

    A window begins `step` tokens after the window before it. One pass over the text gives the carry
    before each window.
    """
    positions = checked("positions", positions, Size)
    ids, size = reading.ids, largest + 1
    # A window has `size` tokens to read and one to predict.
    available = len(ids) - size
    count = min(positions, available)
    step = max(1, (available - 1) // max(1, count - 1))
    starts = np.arange(count) * step
    segments = ids[: (count - 1) * step].reshape(count - 1, step)
    carries = _carries(network.params, segments, reading.carry, network.model)
    windows = ids[starts[:, None] + np.arange(size + 1)]
    batches = -(-count * size // TOKENS_IN_BATCH)
    batch = -(-count // batches)
    total = np.zeros(size)
    for first in range(0, count, batch):
        rows = np.minimum(np.arange(first, first + batch), count - 1)
        gradients = _gradients(network.params, windows[rows], carries, rows, network.model)
        real = np.asarray(gradients, np.float64)[: count - first]
        total += np.linalg.norm(real, axis=-1).sum(axis=0)
    # Lag 0 is the last token of a window.
    return total[::-1] / count, count


@functools.partial(jax.jit, static_argnames="model")
def _carries(params: Any, ids_PS: jax.Array, carry: Any, model: NeuralModel) -> Any:
    """Return the carry before each segment of a text and after the last, with rows as first axis.

    ids_PS has the P segments, S tokens each. The result's leaves have P + 1 rows.
    """

    def read(carry: Any, ids_S: jax.Array) -> tuple[Any, Any]:
        _, after = model.apply({"params": params}, ids_S[None], carry, positions="last")
        return after, after

    _, later = jax.lax.scan(read, carry, ids_PS)
    # The carry has one row, and `later` has a leading axis of segments.
    return jax.tree.map(lambda leaf, more: jnp.concatenate([leaf, more[:, 0]]), carry, later)


@functools.partial(jax.jit, static_argnames="model")
def _gradients(
    params: Any, ids_PT: jax.Array, carries: Any, rows_P: jax.Array, model: NeuralModel
) -> jax.Array:
    """Return d loss / d embedding of each token of each window, float32 [P, T - 1, D].

    The loss of a window is the nll of its last token. Windows are rows of a batch, so that the
    gradient of the sum of their losses has the gradient of each window. The carry before window p
    is row rows_P[p] of `carries`.
    """
    carry = jax.tree.map(lambda leaf: leaf[rows_P], carries)
    inputs_PT, targets_P1 = ids_PT[:, :-1], ids_PT[:, -1:]

    def loss(shift_PTD: jax.Array) -> jax.Array:
        shifted: list[str] = []
        with nn.intercept_methods(_shifted_embedding(shift_PTD, shifted)):
            result: Any = model.apply(
                {"params": params}, inputs_PT, targets_P1, carry, positions="last", method="nll"
            )
        if not shifted:
            # The gradient would be 0 at each lag.
            raise UserError(
                f"{type(model).__name__} calls no module of the name `embedding`, so that its word "
                f"features are unknown: make it in `setup` with make_embedding"
            )
        return jnp.sum(result[0])

    return jax.grad(loss)(jnp.zeros((*inputs_PT.shape, model.embedding_size), jnp.float32))


def _shifted_embedding(shift_BTD: jax.Array, shifted: list[str]) -> Any:
    """Return a Flax interceptor that adds `shift_BTD` to the output of the module `embedding`.

    It adds the name of the module to `shifted`.

    A model with a window also looks up the tokens of its carry, or only the last tokens. So the
    last token of the output is the last token of the shift.
    """

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        if context.module.path != ("embedding",) or context.method_name != "__call__":
            return result
        shifted.append(context.module.name)
        more = result.shape[1] - shift_BTD.shape[1]
        shift = jnp.pad(shift_BTD, ((0, 0), (max(0, more), 0), (0, 0)))[:, max(0, -more) :]
        return result + shift.astype(result.dtype)

    return intercept


def _fit(curve: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return the slope of log norm by lag (least squares), and the first and last lag of the fit.

    `curve` has the norms of the lags 0, 1, 2, ...
    """
    usable = np.isfinite(curve) & (curve > 0)
    usable[1:] &= curve[1:] >= FITTED_SHARE * curve[1]
    wrong = np.flatnonzero(~usable[1:])
    last = int(wrong[0]) if len(wrong) else len(curve) - 1
    if last < 2:
        return math.nan, (1, last)
    lags = np.arange(1, last + 1)
    slope = np.polyfit(lags, np.log(curve[lags]), 1)[0]
    return float(slope), (1, last)


def _below(curve: np.ndarray, share: float) -> int | None:
    """Return the first lag after 1 whose norm is below `share` of the norm of lag 1."""
    found = np.flatnonzero(curve[2:] < share * curve[1])
    return int(found[0]) + 2 if len(found) else None


def recurrent_kernels(params: Any, name: str) -> dict[str, jax.Array]:
    """Return the recurrent matrix U [H, G] of each recurrent layer, by its path.

    Raises:
      UserError: if there is no recurrent matrix. `name` is the name of the model.
    """
    leaves = tree_leaves_with_path(params)
    found = {path_of(path): leaf for path, leaf in leaves if _is_recurrent_matrix(path, leaf)}
    if not found:
        raise UserError(
            f"{name} has no recurrent matrix, through which a gradient would go back in time: "
            f"choose a run of rnn, gru, lstm or another cell with a matrix U"
        )
    return found


def _is_recurrent_matrix(path: Sequence[Any], leaf: Any) -> bool:
    # The recurrent weights of an elementwise cell are a vector.
    return path_of(path).endswith("recurrent/kernel") and leaf.ndim == 2


def path_of(path: Sequence[Any]) -> str:
    """Return the path of a parameter, such as "layers_0/recurrent/kernel"."""
    return "/".join(str(part.key) for part in path if isinstance(part, DictKey))


def _blocks(kernel_HG: Any) -> np.ndarray:
    """Return the square blocks of U, one for each gate, float64 [gates, H, H]."""
    kernel_HG = np.asarray(kernel_HG, np.float64)
    return np.stack(np.split(kernel_HG, kernel_HG.shape[1] // kernel_HG.shape[0], axis=1))


def block_radii(kernel_HG: Any) -> list[float]:
    """Return the spectral radius of each block of U."""
    return [float(np.abs(np.linalg.eigvals(block)).max()) for block in _blocks(kernel_HG)]


def scaled_to_radius(params: Any, own: dict[str, list[float]], radius: float) -> Any:
    """Return the parameters with each block of each recurrent matrix scaled to a spectral radius.

    `own` has the radius of each block now, by the path of the matrix.
    """

    def scale(path: Sequence[Any], leaf: Any) -> Any:
        if path_of(path) not in own:
            return leaf
        factors = np.repeat(radius / np.array(own[path_of(path)]), leaf.shape[0])
        return jnp.asarray(np.asarray(leaf, np.float64) * factors, leaf.dtype)

    return tree_map_with_path(scale, params)


def own_radii(kernels: dict[str, jax.Array], name: str) -> dict[str, list[float]]:
    """Return the spectral radius of each block of some recurrent matrices, by path.

    Raises:
      UserError: if a radius is 0 or not finite. `name` is the name of the model.
    """
    for path, kernel in kernels.items():
        if not np.isfinite(kernel).all():
            raise UserError(f"{path} of {name} has NaN or infinite values, and no radius")
    own = {path: block_radii(kernel) for path, kernel in kernels.items()}
    for path, found in own.items():
        if min(found) < 1e-12:
            raise UserError(
                f"{path} has a block whose spectral radius is 0: no factor can change it. Choose "
                f"another run"
            )
    return own


def linear_norms(
    kernels: dict[str, jax.Array],
    own: dict[str, list[float]],
    radii: Sequence[float] | np.ndarray,
    steps: int,
) -> np.ndarray:
    """Return the factor by which products with U multiply a gradient: `GradientThroughTime.linear`.

    Args:
      kernels: the recurrent matrices by path.
      own: the spectral radius of each of their blocks.
      radii: the radii to which they are scaled.
      steps: the largest number of products.
    Returns:
      float64 [R, steps + 1].
    """
    unit = np.mean([_linear_gains(kernels[path], own[path], steps) for path in own], axis=0)
    with np.errstate(over="ignore"):
        return np.asarray(radii, np.float64)[:, None] ** np.arange(steps + 1) * unit


def _linear_gains(kernel_HG: Any, radii: list[float], largest: int) -> np.ndarray:
    """Return the factor by which k products with a matrix of radius 1 multiply a gradient's norm.

    It is the root mean square over gradients of single units, up to 128 evenly spaced units, and
    the mean over the blocks of U: float64, for k from 0 to `largest`.
    """
    gains = []
    for block_HH, own in zip(_blocks(kernel_HG), radii, strict=True):
        size = len(block_HH)
        units = np.unique(np.linspace(0, size - 1, min(size, PROBES)).astype(int))
        probes_UH = np.eye(size)[units]
        for _ in range(largest + 1):
            gains.append(np.sqrt(np.mean(np.sum(probes_UH**2, axis=1))))
            # The gradient of h_{t-1} is the gradient of h_t times U transposed.
            probes_UH = probes_UH @ (block_HH / own).T
    return np.mean(np.reshape(gains, (-1, largest + 1)), axis=0)
