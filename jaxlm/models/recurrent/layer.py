"""A recurrent layer: a cell, its parameters, and its time loops."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.models.cells import CELLS, Carry, Cell, ParallelCell
from jaxlm.models.layers import DTYPES, MEASURED, Affine, project, uniform
from jaxlm.ops import cudnn
from jaxlm.ops.dropout import keep_mask
from jaxlm.ops.linear_recurrence import linear_recurrence
from jaxlm.ops.machine import UNROLLED_STEPS, choose_time_loop
from jaxlm.ops.newton import Newton, newton_recurrence
from jaxlm.ops.products import pad_units
from jaxlm.ops.recurrence import recurrence, recurrent_product, run_in_segments, where_valid
from jaxlm.ops.static import is_zero
from jaxlm.parallel.shard_map import ShardedAxes, on_each_device

RECORDED = ("gates", "states")
"""The collections that a recurrent layer records, if they are mutable: the value of each gate, and
each array of the carry after the step, [B, T, H], by the names that the cell gives them."""
NEWTON = ("newton_iterations", "newton_fallbacks")
"""What a layer records of `time_loop` newton: the number of iterations, and 1 if they did not
converge and a loop over time computed the states."""


class DropoutMasks(NamedTuple):
    """Dropout masks of U and of h_{t-1}, the same at each time step. None means no dropout."""

    kernel: jax.Array | None = None
    state_BH: jax.Array | None = None


class Recurrence(nn.Module):
    """One time step of a layer: u = U h_{t-1}, then the cell.

    The module owns U and its bias, if the cell has them. See `RecurrentLayer` for the fields; here
    `dtype` is a JAX dtype.
    """

    cell: Cell
    hidden_size: int
    dtype: Any
    init_scale: float | None
    timescale: float = 1.0

    def setup(self) -> None:
        width = len(self.cell.gates) * self.hidden_size
        # A unit of an elementwise cell has one recurrent input for each gate.
        inputs = 1 if self.cell.elementwise else self.hidden_size
        init = uniform(self.init_scale or inputs**-0.5)
        init = timescale_init(init, self.timescale, diagonal=True)
        if self.cell.recurrent:
            self.kernel = self.param("kernel", init, recurrent_shape(self.cell, self.hidden_size))
        if self.cell.recurrent_bias:
            self.bias = self.param("bias", uniform(self.init_scale or 0.0), (width,))

    def weights(self, masks: DropoutMasks) -> tuple[jax.Array | None, jax.Array | None]:
        """Return U, after dropout, and its bias [G]. A cell without U or bias gets None."""
        kernel = self.kernel if self.cell.recurrent else None
        if kernel is not None and masks.kernel is not None:
            kernel = kernel * masks.kernel
        return kernel, self.bias if self.cell.recurrent_bias else None

    def __call__(
        self, carry: Carry, x_BG: jax.Array, masks: DropoutMasks, valid: jax.Array | None
    ) -> tuple[Carry, jax.Array]:
        """Return the carry after the step, and the hidden state h [B, H] in `dtype`.

        Args:
          carry: state before the step, float32 arrays [B, H].
          x_BG: W x + b for all gates.
          masks: dropout masks.
          valid: bool scalar; False leaves the carry unchanged. None means True.
        """
        u_BG = self._recurrent_product(carry[0], masks, x_BG.shape[-1])
        gates = self.cell.activations(carry, x_BG.astype(jnp.float32), u_BG)
        for name, value_BH in gates.items():
            self.sow("gates", name, value_BH)
        carry = where_valid(valid, self.cell.update(carry, gates), carry)
        for name, state_BH in zip(self.cell.carry, carry, strict=True):
            self.sow("states", name, state_BH)
        return carry, carry[0].astype(self.dtype)

    def _recurrent_product(self, h_BH: jax.Array, masks: DropoutMasks, width: int) -> jax.Array:
        """Return u = U h and its bias, [B, G] float32; a scalar 0 for a cell without U."""
        kernel, bias_G = self.weights(masks)
        if kernel is None:
            return jnp.zeros((), jnp.float32)
        h_BH = h_BH if masks.state_BH is None else h_BH * masks.state_BH
        # Only the operands of the product have the compute dtype. The gates and the carry are
        # float32: in bfloat16, c would lose its memory.
        bias_G = jnp.zeros((0,), jnp.float32) if bias_G is None else bias_G
        return recurrent_product(h_BH, kernel, self.dtype, bias_G, width)


def recurrent_shape(cell: Cell, hidden_size: int) -> tuple[int, ...]:
    """Return the shape of a cell's recurrent weights U: [H, G], or a vector if elementwise."""
    width = len(cell.gates) * hidden_size
    if cell.elementwise:
        return (width + len(cell.weights) * hidden_size,)
    return hidden_size, width


class RecurrentLayer(nn.Module):
    """A cell run over time.

    First x_BTG = W x + b is computed for all time steps in one product. Then the cell runs over
    time, by `nn.scan` or by a function of TIME_LOOP_FUNCTIONS. All share the parameters, and agree
    in values and gradients.

    Parameters: input/kernel W [D, G], input/bias b [G], and for cells that need them
    recurrent/kernel U [H, G] (a vector for elementwise cells) and recurrent/bias [G]. The gates are
    concatenated in the cell's order, so PyTorch's matrices are the transposes of these. If "gates"
    is a mutable collection, the layer records each gate, [B, T, H]; if "states" is mutable, each
    array of the carry; if "measured" is, what the time loop measures.

    Dropout is active in training only, with a key from rngs={"dropout": key}.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> layer = RecurrentLayer(CELLS["lstm"], 4, "float32", init_scale=None, forget_bias=1.0)
      >>> x_BTD, carry = jnp.ones((2, 7, 3)), (jnp.zeros((2, 4)), jnp.zeros((2, 4)))
      >>> (h_BTH, carry), _ = layer.init_with_output(jax.random.key(0), x_BTD, carry)
      >>> h_BTH.shape, [array.shape for array in carry]
      ((2, 7, 4), [(2, 4), (2, 4)])
    """

    cell: Cell
    """The mathematics of one time step."""
    hidden_size: int
    """Number of units H."""
    dtype: str
    """Compute dtype of the products' operands and of the output: float32, tf32 or bfloat16."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: W and U from U(±1/√H), an elementwise U from
    U(±1), and zero biases."""
    forget_bias: float
    """Initial value added to the bias of the forget gate, if the cell has one."""
    time_loop: str = "auto"
    """How the layer runs over time; see `ops.machine.choose_time_loop`."""
    remat: int = 0
    """Time steps in a rematerialised segment; 0 stores all steps. See `run_in_segments`."""
    weight_drop: float = 0.0
    """Rate at which elements of U are dropped, the same for all time steps and rows (DropConnect:
    Wan et al. 2013; Merity et al. 2018, section 2)."""
    state_dropout: float = 0.0
    """Rate at which units of h_{t-1} are dropped before the product with U, the same for all time
    steps of a sequence (Gal & Ghahramani 2016)."""
    timescale: float = 1.0
    """Decay time of an Elman layer's slowest unit at the start of training, in time steps; see
    `timescale_init`."""

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        carry: Carry,
        deterministic: bool = True,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        """Run the layer over time.

        Args:
          x_BTD: input, any float dtype.
          carry: initial state, float32 arrays [B, H].
          deterministic: False draws dropout masks.
          length: number of valid time steps, int32 scalar; None if all are valid. The other steps
            leave the carry unchanged, and their outputs have no meaning.
        Returns:
          h_BTH in the compute dtype, and the carry after the last valid step.
        """
        batch, time, _ = x_BTD.shape
        for array in carry:
            shapes.check(array, "BH", B=batch, H=self.hidden_size)
        dtype, width = DTYPES[self.dtype], len(self.cell.gates) * self.hidden_size
        size, scale = self.hidden_size, self.init_scale
        bias_init = forget_bias_init(self.cell, size, scale, self.forget_bias)
        kernel_init = uniform(scale or size**-0.5)
        kernel_init = timescale_init(kernel_init, self.timescale, diagonal=False)
        inputs = Affine(width, size, dtype, scale, bias_init, kernel_init, name="input")
        settings = (self.cell, size, dtype, scale, self.timescale)
        # Only `nn.scan` creates parameters and records gates and states.
        needs_scan = self.is_initializing() or any(map(self.is_mutable_collection, RECORDED))
        masks = DropoutMasks() if deterministic else self._draw_masks(batch)
        plain_lstm = self.cell == CELLS["lstm"] and is_zero(self.state_dropout)
        recurrent = self.cell.recurrent
        time_loop = choose_time_loop(self.time_loop, time, plain_lstm, self.dtype, recurrent)
        is_measured = self.is_mutable_collection(MEASURED)
        if time_loop == "newton" and time <= UNROLLED_STEPS and not is_measured:
            # A step of generation needs no iterations.
            time_loop = "scan"
        if time_loop == "parallel" and not isinstance(self.cell, ParallelCell):
            # The cell does not say how its steps could run in parallel.
            time_loop = "scan"
        if not needs_scan and time_loop in TIME_LOOP_FUNCTIONS:
            recurrent_weights = Recurrence(*settings, name="recurrent").weights(masks)
            weights = inputs.weights(x_BTD.shape[-1]), recurrent_weights
            run = functools.partial(_run, time_loop, self.cell, dtype, self.remat)
            measured = dict.fromkeys(NEWTON, ()) if time_loop == "newton" else {}
            arguments = weights, x_BTD, carry, masks.state_BH, length
            h_BTH, carry, scalars = shard_over_batch(run, measured)(*arguments)
            for name, value in scalars.items():
                self.sow(MEASURED, name, value)
            return h_BTH, carry
        kernel_DG, bias_G = inputs.weights(x_BTD.shape[-1])
        # float32 in every dtype, as in the other time loops.
        x_BTG = project(x_BTD, kernel_DG, dtype) + bias_G
        scan = nn.scan(
            Recurrence,
            variable_broadcast="params",
            variable_axes=dict.fromkeys(RECORDED, 1),
            split_rngs={"params": False},
            in_axes=(1, nn.broadcast, 0),
            out_axes=1,
            unroll=time if time <= UNROLLED_STEPS else 1,
        )
        carry, h_BTH = scan(*settings, name="recurrent")(
            carry, x_BTG, masks, valid_steps(length, time)
        )
        return h_BTH, carry

    def _draw_masks(self, batch: int) -> DropoutMasks:
        """Return masks of U and of h [batch, H], each None if its rate is 0."""
        shapes_of_masks = recurrent_shape(self.cell, self.hidden_size), (batch, self.hidden_size)
        rates = self.weight_drop, self.state_dropout
        return draw_masks(lambda: self.make_rng("dropout"), rates, shapes_of_masks)


def draw_masks(
    make_key: Callable[[], jax.Array],
    rates: tuple[float, float],
    shapes_of_masks: tuple[tuple[int, ...], tuple[int, ...]],
) -> DropoutMasks:
    """Return masks of U and of h, each None if its rate is 0.

    Both come from one key, so a rate of 0 for U does not change the mask of h. In a sweep, a rate
    is an array, of which nobody knows whether it is 0.

    Args:
      make_key: returns the key; it is called only if a rate is above 0.
      rates: the rates of U and of h.
      shapes_of_masks: the shapes of U and of h.
    """
    if all(map(is_zero, rates)):
        return DropoutMasks(None, None)
    key = make_key()
    keys = key, jax.random.fold_in(key, 1)
    masks = [
        None if is_zero(rate) else keep_mask(one, shape, rate)
        for one, shape, rate in zip(keys, shapes_of_masks, rates, strict=True)
    ]
    return DropoutMasks(*masks)


def forget_bias_init(
    cell: Cell, hidden_size: int, init_scale: float | None, forget_bias: float
) -> Any:
    """Return an initialiser of the gates' bias [G].

    Args:
      cell: the cell, which names the gates.
      hidden_size: number of units H; the bias has H elements per gate.
      init_scale: draw the bias from U(±init_scale). None: zeros.
      forget_bias: value added to the bias of the forget gate, if the cell has one.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        bias_G = uniform(init_scale or 0.0)(key, shape, dtype)
        if cell.forget_gate is not None:
            start = cell.gates.index(cell.forget_gate) * hidden_size
            bias_G = bias_G.at[start : start + hidden_size].add(forget_bias)
        return bias_G

    return init


def timescale_init(init: Any, timescale: float, diagonal: bool) -> Any:
    """Return `init` changed so that the units of an Elman layer start as leaky units.

        h'_i = tanh(a_i h_i + √(1 - a_i²) (W x + U h)_i + b_i)
        a_i = 1 - 1/τ_i      τ_i = timescale^((i - 1) / (H - 1)), i = 1 ... H

    `init` draws W and U, and the memory of unit i decays over τ_i time steps. The square root keeps
    each unit's variance equal to its variance without memory.

    Args:
      init: initialiser of a matrix [F, H].
      timescale: decay time of the slowest unit, in time steps. 1 returns `init` itself.
      diagonal: whether to add a_1 ... a_H to the diagonal: True for U, False for W.

    Source: leaky units, Jaeger et al. 2007; layers that start with slow units, Mikolov et al. 2015
    and Tallec & Ollivier 2018.
    """
    if timescale == 1:
        return init

    def leaky(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        a_H = 1 - timescale ** -jnp.linspace(0.0, 1.0, shape[1])
        kernel_FH = init(key, shape, dtype) * jnp.sqrt(1 - a_H**2)
        return kernel_FH + jnp.diag(a_H) if diagonal else kernel_FH

    return leaky


Weights = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array | None, jax.Array | None]]
"""(W, b) of the input, and (U, recurrent bias). U or its bias is None if the cell has none."""


class TimeLoopOptions(NamedTuple):
    """The arguments of a time loop other than weights, input and carry."""

    cell: Cell
    dtype: Any
    """dtype of the products' operands and of the output."""
    remat: int
    """Time steps in a rematerialised segment, or 0."""
    mask_BH: jax.Array | None
    """Dropout mask of h_{t-1}, the same at each time step."""
    length: jax.Array | None
    """Number of valid time steps, int32 scalar; None if all are valid."""


def shard_over_batch(run: Callable[..., tuple[Any, ...]], *more: Any) -> Any:
    """Return a function that runs `run` on each device, for the device's rows of the batch.

    Devices do not communicate inside the time loop. Gradients of the weights are summed once, after
    the loop. Without this function, the compiler would gather the whole batch for the products that
    merge time and batch into one axis.

    `run` is called as run(sharded, weights, x_BTD, carry, mask_BH, length), and returns (h_BTH,
    carry), and then a tree for each tree of axes in `more`. The returned function has the same
    arguments without `sharded`.
    """
    batch_axes = ("batch", None, None), ("batch", None)
    outputs = (*batch_axes, *more)
    return on_each_device(run, ((), *batch_axes, ("batch", None), ()), outputs)


def _run(
    time_loop: str,
    cell: Cell,
    dtype: Any,
    remat: int,
    sharded: ShardedAxes,
    weights: Weights,
    x_BTD: jax.Array,
    carry: Carry,
    mask_BH: jax.Array | None,
    length: jax.Array | None,
) -> tuple[jax.Array, Carry, dict[str, jax.Array]]:
    """Run a time loop by name; `shard_over_batch` explains the last six arguments.

    The third result has the scalars that the loop measures, the largest of all devices.
    """
    options = TimeLoopOptions(cell, dtype, remat, mask_BH, length)
    h_BTH, carry, *measured = TIME_LOOP_FUNCTIONS[time_loop](options, weights, x_BTD, carry)
    # A maximum over devices has no gradient.
    scalars = jax.lax.stop_gradient(measured[0]) if measured else {}
    return h_BTH, carry, sharded.max_over_batch(scalars) if scalars else {}


def valid_steps(length: jax.Array | None, time: int) -> jax.Array | None:
    """Return a bool mask [T] of the first `length` time steps; None if all are valid."""
    return None if length is None else jnp.arange(time) < length


def _fused(
    options: TimeLoopOptions, weights: Weights, x_BTD: jax.Array, carry: Carry
) -> tuple[jax.Array, Carry]:
    """Run a cell by `ops.recurrence`."""
    cell, dtype, size = options.cell, options.dtype, carry[0].shape[-1]
    # Products with some sizes are slow. H and G include units whose weights are all zero, up to the
    # end of the loop.
    (kernel_DG, bias_G), (kernel, recurrent_bias_G) = weights
    assert kernel is not None
    kernel = pad_units(kernel, size, rows=not cell.elementwise)
    pad = functools.partial(pad_units, units=size)
    kernel_DG, bias_G, recurrent_bias_G = jax.tree.map(pad, (kernel_DG, bias_G, recurrent_bias_G))
    carry, mask_BH = jax.tree.map(pad, (carry, options.mask_BH))

    def run(carry: Carry, steps: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, Carry]:
        x_TBD, valid_T = steps
        x_TBG = project(x_TBD, kernel_DG, dtype)
        loop_bias_G = recurrent_bias_G
        if cell.additive:
            # The bias is added inside the loop. This saves an array of x's size and a pass over it.
            loop_bias_G = bias_G if loop_bias_G is None else bias_G + loop_bias_G
        else:
            x_TBG += bias_G
        recurrent = kernel, loop_bias_G, mask_BH, valid_T
        settings = {"dtype": dtype, "additive": cell.additive}
        return recurrence(cell.step, carry, x_TBG, *recurrent, **settings)

    time = x_BTD.shape[1]
    steps = x_BTD.swapaxes(0, 1), valid_steps(options.length, time)
    if not options.remat or time <= options.remat:
        h_TBH, carry = run(carry, steps)
    else:
        h_TBH, carry = run_in_segments(run, carry, steps, options.remat)
    h_TBH, carry = jax.tree.map(lambda array: array[..., :size], (h_TBH, carry))
    return h_TBH.swapaxes(0, 1).astype(dtype), carry


def _newton(
    options: TimeLoopOptions, weights: Weights, x_BTD: jax.Array, carry: Carry
) -> tuple[jax.Array, Carry, dict[str, jax.Array]]:
    """Run a cell by `ops.newton`."""
    (kernel_DG, bias_G), (kernel, recurrent_bias_G) = weights
    assert kernel is not None
    x_TBG = project(x_BTD.swapaxes(0, 1), kernel_DG, options.dtype) + bias_G
    valid_T = valid_steps(options.length, x_BTD.shape[1])
    recurrent = kernel, recurrent_bias_G, options.mask_BH, valid_T
    found: tuple[jax.Array, Carry, Newton] = newton_recurrence(
        options.cell.step, carry, x_TBG, *recurrent, dtype=options.dtype
    )
    h_TBH, carry, newton = found
    values = newton.iterations, 1 - newton.converged
    scalars = dict(zip(NEWTON, values, strict=True))
    return h_TBH.swapaxes(0, 1).astype(options.dtype), carry, scalars


def _cudnn(
    options: TimeLoopOptions, weights: Weights, x_BTD: jax.Array, carry: Carry
) -> tuple[jax.Array, Carry]:
    """Run an LSTM by `ops.cudnn`."""
    (kernel_DG, bias_G), (recurrent_HG, _) = weights
    assert recurrent_HG is not None
    h_BH, c_BH = carry
    x_BTD = x_BTD.astype(options.dtype)
    return cudnn.lstm(x_BTD, (h_BH, c_BH), kernel_DG, bias_G, recurrent_HG, options.length)


def _parallel(
    options: TimeLoopOptions, weights: Weights, x_BTD: jax.Array, carry: Carry
) -> tuple[jax.Array, Carry]:
    """Run a ParallelCell by `ops.linear_recurrence`."""
    cell, ((kernel_DG, bias_G), _), (h_BH,) = options.cell, weights, carry
    assert isinstance(cell, ParallelCell)
    x_TBG = project(x_BTD.swapaxes(0, 1), kernel_DG, options.dtype) + bias_G
    a_TBH, b_TBH = cell.affine(cell.activations(carry, x_TBG, jnp.zeros((), jnp.float32)))
    valid_T = valid_steps(options.length, x_BTD.shape[1])
    if valid_T is not None:
        # a = 1 and b = 0 leave h unchanged.
        a_TBH = jnp.where(valid_T[:, None, None], a_TBH, 1.0)
        b_TBH = jnp.where(valid_T[:, None, None], b_TBH, 0.0)
    h_TBH = linear_recurrence(a_TBH, b_TBH, h_BH)
    return h_TBH.swapaxes(0, 1).astype(options.dtype), (h_TBH[-1],)


# Functions (options, weights, x_BTD, carry) -> (h_BTH, carry), by name. A third result is a dict of
# scalars that the loop measures.
TIME_LOOP_FUNCTIONS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "fused": _fused,
    "newton": _newton,
    "cudnn": _cudnn,
    "parallel": _parallel,
}
