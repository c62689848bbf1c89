"""The Mogrifier LSTM: input and state gate each other before each step of the cell."""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import SettingError
from jaxlm.models.cells import Carry, Cell, LSTMCell
from jaxlm.models.layers import DTYPES, Affine, uniform
from jaxlm.models.recurrent.layer import (
    RECORDED,
    draw_masks,
    forget_bias_init,
    shard_over_batch,
    valid_steps,
)
from jaxlm.models.recurrent.model import Recurrent
from jaxlm.ops.products_in_time import Multiply, plain_product, products_in_time
from jaxlm.ops.recurrence import where_valid
from jaxlm.parallel.shard_map import ShardedAxes
from jaxlm.ranges import Range


class CappedLSTMCell(LSTMCell):
    """An LSTM whose input gate is limited to 1 - f. So its cell state stays between -1 and 1.

        c' = f ⊙ c + min(i, 1 - f) ⊙ g

    Source: Melis, Dyer & Blunsom, "On the state of the art of evaluation in neural language
    models", 2018, section 5.1.
    """

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        return super().update(
            carry, gates | {"input": jnp.minimum(gates["input"], 1 - gates["forget"])}
        )


class Mogrifier(Recurrent):
    """A recurrent model of Mogrifier LSTM layers: `Recurrent` with gating rounds before each step.

        xⁱ = 2σ(Qⁱ hⁱ⁻¹) ⊙ xⁱ⁻²     for odd i ∈ 1 ... rounds
        hⁱ = 2σ(Rⁱ xⁱ⁻¹) ⊙ hⁱ⁻²     for even i

    where x⁻¹ = x_t and h⁰ = h_{t-1}. The last xⁱ and hⁱ go into the cell, an LSTM, whose input gate
    is limited to 1 - f with `capped` (CappedLSTMCell). With `rank` k, each Qⁱ and Rⁱ is a product
    of two matrices of rank k.

    Parameters of layers_l, in addition to the parameters of an LSTM: rounds/i is Qⁱ [H, D] for odd
    i, and Rⁱ [D, H] for even i. With `rank` k, rounds/i_left [H or D, k] and rounds/i_right
    [k, D or H] are its factors. The product W x cannot be computed before the loop over time,
    because the state changes the input.

    Source: Melis, Kočiský & Blunsom, "Mogrifier LSTM", 2020, section 2.

    Example:
      >>> Mogrifier(vocab_size=7, rounds=2, rank=1).settings()["rounds"]
      2

    Raises:
      SettingError: for negative rounds or ranks, a cell other than the LSTM, and in the cases of
        `Recurrent`.
    """

    cell: Cell = LSTMCell()
    rounds: Annotated[int, Range(0, 1000)] = 5
    """Gating rounds before each step: odd rounds gate the input, even rounds the state (0: an
    LSTM)."""
    rank: Annotated[int, Range(0)] = 0
    """Rank of the gating matrices (0: full)."""
    capped: bool = True
    """Let the input gate open no further than the forget gate is closed."""

    @nn.nowrap
    def check(self) -> None:
        super().check()
        if self.cell != LSTMCell():
            why = "a mogrifier is an LSTM; leave the setting out (`capped` limits the input gate)"
            raise SettingError("cell", self.cell, why)
        if self.remat:
            raise SettingError("remat", self.remat, "a mogrifier keeps every step; leave it out")
        if self.time_loop in ("cudnn", "newton"):
            raise SettingError("time_loop", self.time_loop, "a mogrifier has scan and fused")

    @nn.nowrap
    def make_layer(self, index: int, size: int) -> nn.Module:
        return MogrifierLayer(
            CappedLSTMCell() if self.capped else LSTMCell(),
            size,
            self.rounds,
            self.rank,
            self.compute_dtype,
            self.init_scale,
            1.0 if self.forget_bias is None else self.forget_bias,
            self.time_loop,
            self.weight_drop,
            self.dropout_state,
            name=f"layers_{index}",
        )

    def layers(self) -> dict[str, str]:
        described: dict[str, str] = {}
        for path, text in super().layers().items():
            described[path] = text
            if path.endswith("/recurrent") and self.rounds:
                through = f", through {self.rank}" if self.rank else ""
                described[path.replace("recurrent", "rounds")] = (
                    f"Q, R of {self.rounds} rounds{through}"
                )
        return described


class Rounds(nn.Module):
    """The parameters of the gating rounds: the matrices Qⁱ and Rⁱ, or their factors."""

    count: int
    """Number of rounds."""
    rank: int
    """Rank of the matrices; 0: full."""
    init_scale: float | None
    """Draw parameters from U(±init_scale). None: a matrix [I, O] from U(±1/√I)."""

    @nn.compact
    def __call__(self, inputs: int, hidden: int) -> dict[str, jax.Array]:
        """Return the matrices by name, for an input of `inputs` and a state of `hidden` numbers.

        The names are "1", "2", ..., or "1_left", "1_right", "2_left", ... with `rank`.
        """
        matrices = {}
        for number in range(1, self.count + 1):
            sizes = (hidden, inputs) if number % 2 else (inputs, hidden)
            shapes_by_name = {f"{number}": sizes}
            if self.rank:
                left, right = (sizes[0], self.rank), (self.rank, sizes[1])
                shapes_by_name = {f"{number}_left": left, f"{number}_right": right}
            for name, shape in shapes_by_name.items():
                init = uniform(self.init_scale or shape[0] ** -0.5)
                matrices[name] = self.param(name, init, shape)
        return matrices


class RecurrentKernel(nn.Module):
    """The recurrent matrix U [H, G].

    The module also records gates and states. So they have the same path as in RecurrentLayer.
    """

    width: int
    """Number of columns of U, G."""
    init_scale: float | None
    """Draw U from U(±init_scale). None: U(±1/√H)."""

    @nn.compact
    def __call__(self, hidden: int) -> jax.Array:
        """Return U for a state of `hidden` numbers."""
        init = uniform(self.init_scale or hidden**-0.5)
        return self.param("kernel", init, (hidden, self.width))

    def record(self, recorded_TBH: dict[str, dict[str, jax.Array]]) -> None:
        """Record the gates and the states of every step, [B, T, H] each.

        `recorded_TBH` has the arrays [T, B, H] by collection and name.
        """
        for collection, arrays in recorded_TBH.items():
            for name, value_TBH in arrays.items():
                self.sow(collection, name, value_TBH.swapaxes(0, 1))


class MogrifierLayer(nn.Module):
    """A Mogrifier layer, run over time. It is called with the arguments of `RecurrentLayer`.

    See `Mogrifier` and `RecurrentLayer` for the fields. `weight_drop` drops elements of U, but not
    of Qⁱ and Rⁱ. `state_dropout` drops units of h_{t-1} before the first round.
    """

    cell: LSTMCell
    hidden_size: int
    rounds: int
    rank: int
    dtype: str
    init_scale: float | None
    forget_bias: float
    time_loop: str
    weight_drop: float
    state_dropout: float

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        carry: Carry,
        deterministic: bool = True,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        batch, time, inputs = x_BTD.shape
        for array in carry:
            shapes.check(array, "BH", B=batch, H=self.hidden_size)
        size, dtype = self.hidden_size, DTYPES[self.dtype]
        bias_init = forget_bias_init(self.cell, size, self.init_scale, self.forget_bias)
        width = len(self.cell.gates) * size
        settings = size, dtype, self.init_scale, bias_init
        kernel_DG, bias_G = Affine(width, *settings, name="input").weights(inputs)
        recurrent = RecurrentKernel(width, self.init_scale, name="recurrent")
        recurrent_HG = recurrent(size)
        kernels = Rounds(self.rounds, self.rank, self.init_scale, name="rounds")(inputs, size)
        mask_HG = mask_BH = None
        if not deterministic:
            rates = self.weight_drop, self.state_dropout
            shapes_of_masks = recurrent_HG.shape, (batch, size)
            mask_HG, mask_BH = draw_masks(lambda: self.make_rng("dropout"), rates, shapes_of_masks)
        if mask_HG is not None:
            recurrent_HG = recurrent_HG * mask_HG
        kernels = kernels | {"input": kernel_DG, "recurrent": recurrent_HG}
        step = functools.partial(_step, self.cell, self.rounds, self.rank > 0)
        records = any(map(self.is_mutable_collection, RECORDED))
        if not (self.time_loop == "scan" or records or self.is_initializing()):
            run = shard_over_batch(functools.partial(_fused, step, dtype))
            return run((kernels, bias_G), x_BTD, carry, mask_BH, length)
        loop_inputs = x_BTD.swapaxes(0, 1).astype(jnp.float32), valid_steps(length, time)
        constants = bias_G, mask_BH
        h_TBH, carry, recorded = self._scan(step, kernels, constants, carry, loop_inputs, records)
        recurrent.record(recorded)
        return h_TBH.swapaxes(0, 1).astype(dtype), carry

    @nn.nowrap
    def _scan(
        self, step: Any, kernels: Any, constants: Any, carry: Carry, inputs: Any, records: bool
    ) -> tuple[jax.Array, Carry, dict[str, dict[str, jax.Array]]]:
        """Run the layer over time by `jax.lax.scan`, with automatic differentiation.

        Args:
          step: `_step` with its first three arguments.
          kernels: the matrices by name.
          constants: bias_G, and mask_BH or None.
          carry: initial (h, c).
          inputs: x_TBD, and valid_T or None.
          records: whether to return the gates and the states.
        Returns:
          Every hidden state [T, B, H], the last carry, and with `records` every gate and state
          [T, B, H], by collection and name.
        """

        def multiply(name: str, a_BF: jax.Array) -> jax.Array:
            return plain_product(kernels[name], a_BF, DTYPES[self.dtype])

        def body(carry: Carry, inputs_t: Any) -> tuple[Carry, Any]:
            carry, gates_BH = step(multiply, carry, inputs_t, constants)
            states_BH = dict(zip(self.cell.carry, carry, strict=True))
            return carry, (carry[0], {"gates": gates_BH, "states": states_BH} if records else {})

        carry, (h_TBH, recorded_TBH) = jax.lax.scan(body, carry, inputs)
        return h_TBH, carry, recorded_TBH


def _fused(
    step: Any,
    dtype: Any,
    sharded: ShardedAxes,
    weights: tuple[Any, jax.Array],
    x_BTD: jax.Array,
    carry: Carry,
    mask_BH: jax.Array | None,
    length: jax.Array | None,
) -> tuple[jax.Array, Carry]:
    """Run the layer over time by `ops.products_in_time`.

    `step` is `_step` with its first three arguments. `shard_over_batch` explains the last six
    arguments; here, `weights` are the matrices by name, and the bias [G].
    """
    (kernels, bias_G), time = weights, x_BTD.shape[1]
    inputs = x_BTD.swapaxes(0, 1).astype(jnp.float32), valid_steps(length, time)
    # Each step gets bias and mask as inputs, so that their gradients are summed over time.
    constants = bias_G, mask_BH
    repeated = jax.tree.map(lambda x: jnp.broadcast_to(x, (time, *x.shape)), constants)

    def fused(multiply: Multiply, carry: Carry, inputs_t: Any) -> Carry:
        return step(multiply, carry, *inputs_t)[0]

    h_TBH, carry = products_in_time(fused, kernels, carry, (inputs, repeated), dtype)
    return h_TBH.swapaxes(0, 1).astype(dtype), carry


def _step(
    cell: LSTMCell,
    rounds: int,
    has_factors: bool,
    multiply: Multiply,
    carry: Carry,
    inputs_t: Any,
    constants: Any,
) -> tuple[Carry, dict[str, jax.Array]]:
    """Return the carry after one time step, and the gates, [B, H] each.

    Args:
      cell: the LSTM cell.
      rounds: number of gating rounds.
      has_factors: whether Qⁱ and Rⁱ are products of two matrices.
      multiply: multiplies by a matrix, by the matrix's name.
      carry: (h, c) before the step.
      inputs_t: x_BD, and whether the step is valid (a bool scalar, or None).
      constants: bias_G, and mask_BH or None.
    """
    (x_BD, valid), (bias_G, mask_BH) = inputs_t, constants
    h_BH = carry[0] if mask_BH is None else carry[0] * mask_BH

    def twice_gate(number: int, a_BF: jax.Array) -> jax.Array:
        if has_factors:
            return 2 * jax.nn.sigmoid(multiply(f"{number}_right", multiply(f"{number}_left", a_BF)))
        return 2 * jax.nn.sigmoid(multiply(f"{number}", a_BF))

    for number in range(1, rounds + 1):
        if number % 2:
            x_BD = twice_gate(number, h_BH) * x_BD
        else:
            h_BH = twice_gate(number, x_BD) * h_BH
    x_BG = multiply("input", x_BD) + bias_G
    gates = cell.activations(carry, x_BG, multiply("recurrent", h_BH))
    return where_valid(valid, cell.update(carry, gates), carry), gates
