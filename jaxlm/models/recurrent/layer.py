"""A recurrent layer: a cell, its parameters, and the ways to run it over time."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.models.cells import CELLS, Carry, Cell, ParallelCell
from jaxlm.models.layers import DTYPES, Affine, project, uniform
from jaxlm.ops import cudnn
from jaxlm.ops.dropout import keep_mask
from jaxlm.ops.linear_recurrence import linear_recurrence
from jaxlm.ops.machine import UNROLLED_STEPS, aligned, choose_time_loop, steps_per_iteration
from jaxlm.ops.products import widen, widen_blocks
from jaxlm.ops.recurrence import in_segments, recurrence, where_live
from jaxlm.ops.static import is_zero
from jaxlm.parallel.shard_map import Spread, by_device


class Masks(NamedTuple):
    """What training multiplies the recurrent link by, the same at every step of a sequence: U by
    kernel_HG, h by state_BH. None where nothing is dropped.
    """

    kernel_HG: jax.Array | None = None
    state_BH: jax.Array | None = None


class Recurrence(nn.Module):
    """One time step of a layer: u = U h_{t-1}, then the cell. Owns U (and its bias), where the cell
    wants them.
    """

    cell: Cell
    hidden_size: int
    dtype: Any
    init_scale: float | None
    timescale: float = 1.0

    def setup(self) -> None:
        width = len(self.cell.gates) * self.hidden_size
        init = uniform(self.init_scale or self.hidden_size**-0.5)
        init = fading(init, self.timescale, diagonal=True)
        if self.cell.recurrent:
            self.kernel = self.param("kernel", init, (self.hidden_size, width))
        if self.cell.recurrent_bias:
            self.bias = self.param("bias", uniform(self.init_scale or 0.0), (width,))

    def weights(self, masks: Masks) -> tuple[jax.Array | None, jax.Array | None]:
        """U [H, G], and its bias, where the cell wants them."""
        kernel_HG = self.kernel if self.cell.recurrent else None
        if kernel_HG is not None and masks.kernel_HG is not None:
            kernel_HG = kernel_HG * masks.kernel_HG
        return kernel_HG, self.bias if self.cell.recurrent_bias else None

    def __call__(
        self, carry: Carry, x_BG: jax.Array, masks: Masks, live: jax.Array | None
    ) -> tuple[Carry, jax.Array]:
        u_BG = self._recurrent_part(carry[0], masks)
        gates = self.cell.activations(carry, x_BG.astype(jnp.float32), u_BG)
        for name, value_BH in gates.items():
            self.sow("gates", name, value_BH)
        carry = where_live(live, self.cell.update(carry, gates), carry)
        return carry, carry[0].astype(self.dtype)

    def _recurrent_part(self, h_BH: jax.Array, masks: Masks) -> jax.Array:
        kernel_HG, bias_G = self.weights(masks)
        if kernel_HG is None:
            return jnp.zeros((), jnp.float32)
        h_BH = h_BH if masks.state_BH is None else h_BH * masks.state_BH
        # The product runs in the compute dtype; the elementwise part and the carry are float32, or
        # c would lose its memory.
        low = h_BH.astype(self.dtype), kernel_HG.astype(self.dtype)
        u_BG = jnp.matmul(*low, preferred_element_type=jnp.float32)
        return u_BG if bias_G is None else u_BG + bias_G


class RecurrentLayer(nn.Module):
    """A cell run over time: x_BTG = W x + b of all steps in one product, then the recurrence, by
    `nn.scan` or one of RUNS, which compute the same.

    Parameters: input/kernel [D, G], input/bias [G], recurrent/kernel [H, G] and recurrent/bias [G]
    for cells that need them; the gates are fused side by side in the cell's order, so PyTorch's
    weights are these transposed. Gates are recorded, [B, T, H] each, when "gates" is a mutable
    collection.

    weight_drop: rate at which numbers of U are dropped, the same for all steps and rows
    (DropConnect: Wan et al. 2013; Merity et al. 2018, section 2). state_dropout: rate at which
    units of h_{t-1} are dropped on its way to the gates, the same for all steps of a sequence (Gal
    & Ghahramani 2016). Both in training alone, by rngs={"dropout": key}. timescale: see `fading`.
    """

    cell: Cell
    hidden_size: int
    dtype: str
    init_scale: float | None
    forget_bias: float
    time_loop: str = "auto"
    remat: int = 0
    weight_drop: float = 0.0
    state_dropout: float = 0.0
    timescale: float = 1.0

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        carry: Carry,
        deterministic: bool = True,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        batch, time, _ = x_BTD.shape
        for array in carry:
            shapes.check(array, "BH", B=batch, H=self.hidden_size)
        dtype, width = DTYPES[self.dtype], len(self.cell.gates) * self.hidden_size
        size, scale = self.hidden_size, self.init_scale
        bias_init = forget_bias_init(self.cell, size, scale, self.forget_bias)
        kernel_init = fading(uniform(scale or size**-0.5), self.timescale, diagonal=False)
        inputs = Affine(width, size, dtype, scale, bias_init, kernel_init, name="input")
        settings = (self.cell, size, dtype, scale, self.timescale)
        # The definition draws the parameters, and records gates; the others compute the same.
        defined = self.is_initializing() or self.is_mutable_collection("gates")
        masks = Masks() if deterministic else self._masks(batch, width)
        plain = self.cell == CELLS["lstm"] and is_zero(self.state_dropout)
        kernel = choose_time_loop(self.time_loop, time, plain, self.dtype, self.cell.recurrent)
        if not defined and kernel in RUNS:
            recurrent = Recurrence(*settings, name="recurrent").weights(masks)
            weights = inputs.weights(x_BTD.shape[-1]), recurrent
            run = functools.partial(_run, kernel, self.cell, dtype, self.remat)
            return over_devices(run)(weights, x_BTD, carry, masks.state_BH, length)
        x_BTG = inputs(x_BTD)
        scan = nn.scan(
            Recurrence,
            variable_broadcast="params",
            variable_axes={"gates": 1},
            split_rngs={"params": False},
            in_axes=(1, nn.broadcast, 0),
            out_axes=1,
            unroll=time if time <= UNROLLED_STEPS else 1,
        )
        carry, h_BTH = scan(*settings, name="recurrent")(
            carry, x_BTG, masks, steps_read(length, time)
        )
        return h_BTH, carry

    def _masks(self, batch: int, width: int) -> Masks:
        def draw(rate: float, *shape: int) -> jax.Array | None:
            return None if is_zero(rate) else keep_mask(self.make_rng("dropout"), shape, rate)

        size = self.hidden_size
        return Masks(draw(self.weight_drop, size, width), draw(self.state_dropout, batch, size))


def forget_bias_init(
    cell: Cell, hidden_size: int, init_scale: float | None, forget_bias: float
) -> Any:
    """Initialiser of the gates' bias: 0, or U(±init_scale), and `forget_bias` on top of it where
    there is a forget gate.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        bias_G = uniform(init_scale or 0.0)(key, shape, dtype)
        if "forget" in cell.gates:
            start = cell.gates.index("forget") * hidden_size
            bias_G = bias_G.at[start : start + hidden_size].add(forget_bias)
        return bias_G

    return init


def fading(init: Any, timescale: float, diagonal: bool) -> Any:
    """`init` for a cell of one gate, whose units begin as memories that fade over τ_i steps:

        h'_i = tanh(a_i h_i + √(1 - a_i²) (W x + b + U h)_i)
        a_i = 1 - 1/τ_i      τ_i = timescale^((i - 1) / (H - 1)), i = 1 ... H

    with W and U as `init` draws them: the root keeps every unit's variance what it is without
    memory. `diagonal`: with a on the diagonal, as U has it. A timescale of 1 is `init`. Sources:
    leaky units, Jaeger et al. 2007; units that start as slow ones, Mikolov et al. 2015 and Tallec &
    Ollivier 2018.
    """
    if timescale == 1:
        return init

    def faded(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        a_H = 1 - timescale ** -jnp.linspace(0.0, 1.0, shape[1])
        kernel_FH = init(key, shape, dtype) * jnp.sqrt(1 - a_H**2)
        return kernel_FH + jnp.diag(a_H) if diagonal else kernel_FH

    return faded


Weights = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array | None, jax.Array | None]]
"""(W, b) of the input and (U, its bias) of the recurrent link, None where the cell has none."""


class _How(NamedTuple):
    """What a run over time needs to know besides the weights."""

    cell: Cell
    dtype: Any
    remat: int
    mask_BH: jax.Array | None
    length: jax.Array | None


def over_devices(run: Callable[..., tuple[jax.Array, Carry]]) -> Any:
    """run(spread, weights, x_BTD, carry, mask_BH, length) -> (h_BTH, carry), on each device for its
    streams: what they tell each other is the gradient of the weights, once it is whole.

    Left to the compiler, the products over time and batch as one axis would gather all streams.
    """
    streams = ("batch", None, None), ("batch", None)
    return by_device(run, ((), *streams, ("batch", None), ()), streams)


def _run(
    kernel: str,
    cell: Cell,
    dtype: Any,
    remat: int,
    spread: Spread,
    weights: Weights,
    x_BTD: jax.Array,
    carry: Carry,
    mask_BH: jax.Array | None,
    length: jax.Array | None,
) -> tuple[jax.Array, Carry]:
    how = _How(cell, dtype, remat, mask_BH, length)
    return RUNS[kernel](how, weights, x_BTD, carry)


def steps_read(length: jax.Array | None, time: int) -> jax.Array | None:
    """Which of the steps count, bool [T]; None if all do."""
    return None if length is None else jnp.arange(time) < length


def _fused(how: _How, weights: Weights, x_BTD: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
    cell, dtype, size = how.cell, how.dtype, carry[0].shape[-1]
    # Units that are always zero beside a layer's own, where their number makes slow products.
    wide = functools.partial(widen_blocks, size=size, wide=aligned(size))
    widened: Weights = jax.tree.map(wide, weights)
    inputs, (kernel_HG, recurrent_bias_G) = widened
    assert kernel_HG is not None
    kernel_HG = widen(kernel_HG, aligned(size), axis=0)
    carry, mask_BH = jax.tree.map(wide, (carry, how.mask_BH))

    def run(carry: Carry, steps: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, Carry]:
        x_TBD, live_T = steps
        kernel_DG, bias_G = inputs
        x_TBG = project(x_TBD, kernel_DG, dtype)
        link_bias_G = recurrent_bias_G
        if cell.additive:
            # Added inside the loop: one array of x's size less, and a pass over it.
            link_bias_G = bias_G if link_bias_G is None else bias_G + link_bias_G
        else:
            x_TBG += bias_G
        settings = {"dtype": dtype, "additive": cell.additive, "unroll": steps_per_iteration()}
        link = kernel_HG, link_bias_G, mask_BH, live_T
        return recurrence(cell.step, carry, x_TBG, *link, **settings)

    time = x_BTD.shape[1]
    steps = x_BTD.swapaxes(0, 1), steps_read(how.length, time)
    short = not how.remat or time <= how.remat
    h_TBH, carry = run(carry, steps) if short else in_segments(run, carry, steps, how.remat)
    h_TBH, carry = jax.tree.map(lambda array: array[..., :size], (h_TBH, carry))
    return h_TBH.swapaxes(0, 1).astype(dtype), carry


def _cudnn(how: _How, weights: Weights, x_BTD: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
    (kernel_DG, bias_G), (recurrent_HG, _) = weights
    assert recurrent_HG is not None
    h, c = carry
    weights_of = kernel_DG, bias_G, recurrent_HG
    return cudnn.lstm(x_BTD.astype(how.dtype), (h, c), *weights_of, how.length)


def _parallel(
    how: _How, weights: Weights, x_BTD: jax.Array, carry: Carry
) -> tuple[jax.Array, Carry]:
    cell, ((kernel_DG, bias_G), _), (h_BH,) = how.cell, weights, carry
    assert isinstance(cell, ParallelCell)
    x_TBG = project(x_BTD.swapaxes(0, 1), kernel_DG, how.dtype) + bias_G
    a_TBH, b_TBH = cell.affine(cell.activations(carry, x_TBG, jnp.zeros((), jnp.float32)))
    live_T = steps_read(how.length, x_BTD.shape[1])
    if live_T is not None:
        a_TBH = jnp.where(live_T[:, None, None], a_TBH, 1.0)
        b_TBH = jnp.where(live_T[:, None, None], b_TBH, 0.0)
    h_TBH = linear_recurrence(a_TBH, b_TBH, h_BH)
    return h_TBH.swapaxes(0, 1).astype(how.dtype), (h_TBH[-1],)


RUNS = {"fused": _fused, "cudnn": _cudnn, "parallel": _parallel}
