"""The Mogrifier LSTM: input and state gate each other before each step of the cell."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import shapes
from jaxlm.errors import SettingError, check_at_least
from jaxlm.models.cells import Carry, Cell, LSTMCell
from jaxlm.models.layers import DTYPES, Affine, uniform
from jaxlm.models.recurrent.layer import forget_bias_init, shard_over_batch, valid_steps
from jaxlm.models.recurrent.model import Recurrent
from jaxlm.ops.dropout import keep_mask
from jaxlm.ops.products_in_time import Multiply, plain_product, products_in_time
from jaxlm.ops.recurrence import where_valid
from jaxlm.ops.static import is_zero
from jaxlm.parallel.shard_map import ShardedAxes


class CappedLSTMCell(LSTMCell):
    """An LSTM whose cell state stays between -1 and 1.

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
    is limited with `capped`. With `rank` k, each Qⁱ and Rⁱ is a product of two matrices of rank k.

    Parameters of layers_l, in addition to an LSTM's: rounds/1 ... rounds/r, [F, O]; with `rank`
    rounds/i_left [F, k] and rounds/i_right [k, O]. The product W x cannot be computed before the
    loop over time, because the state changes the input.

    Source: Melis, Kočiský & Blunsom, "Mogrifier LSTM", 2020, section 2.

    Example:
      >>> Mogrifier(vocab_size=7, rounds=2, rank=1).settings()["rounds"]
      2

    Raises:
      SettingError: for negative rounds or ranks, and in the cases of `Recurrent`.
    """

    cell: Cell = LSTMCell()
    rounds: int = 5
    """Gating rounds before each step: odd rounds gate the input, even rounds the state (0: an
    LSTM)."""
    rank: int = 0
    """Rank of the gating matrices (0: full)."""
    capped: bool = True
    """Let the input gate open no further than the forget gate is closed."""

    @nn.nowrap
    def check(self) -> None:
        super().check()
        for name in ("rounds", "rank"):
            check_at_least(name, getattr(self, name), 0)
        if self.remat:
            raise SettingError("remat", self.remat, "a mogrifier keeps every step; leave it out")
        if self.time_loop == "cudnn":
            raise SettingError("time_loop", "cudnn", "a mogrifier has scan and fused")

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
    """The matrices Qⁱ and Rⁱ by name."""

    count: int
    rank: int
    init_scale: float | None

    @nn.compact
    def __call__(self, inputs: int, hidden: int) -> dict[str, jax.Array]:
        """Return the matrices for an input of `inputs` numbers and a state of `hidden` numbers."""
        found = {}
        for number in range(1, self.count + 1):
            sizes = (hidden, inputs) if number % 2 else (inputs, hidden)
            parts = {f"{number}": sizes}
            if self.rank:
                left, right = (sizes[0], self.rank), (self.rank, sizes[1])
                parts = {f"{number}_left": left, f"{number}_right": right}
            for name, shape in parts.items():
                init = uniform(self.init_scale or shape[0] ** -0.5)
                found[name] = self.param(name, init, shape)
        return found


class RecurrentKernel(nn.Module):
    """The recurrent matrix U [H, G], U(±1/√H) at the start."""

    width: int
    init_scale: float | None

    @nn.compact
    def __call__(self, hidden: int) -> jax.Array:
        init = uniform(self.init_scale or hidden**-0.5)
        return self.param("kernel", init, (hidden, self.width))

    def record(self, gates_TBH: dict[str, jax.Array]) -> None:
        """Record the gates of every step, [B, T, H] each, in the collection "gates"."""
        for name, value_TBH in gates_TBH.items():
            self.sow("gates", name, value_TBH.swapaxes(0, 1))


class MogrifierLayer(nn.Module):
    """One layer, run over time; it is called like `RecurrentLayer`.

    weight_drop drops numbers of U; state_dropout drops units of h before the first round.
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
        mask_BH = None
        if not (deterministic or is_zero(self.weight_drop)):
            drawn = keep_mask(self.make_rng("dropout"), recurrent_HG.shape, self.weight_drop)
            recurrent_HG = recurrent_HG * drawn
        if not (deterministic or is_zero(self.state_dropout)):
            mask_BH = keep_mask(self.make_rng("dropout"), (batch, size), self.state_dropout)
        kernels = kernels | {"input": kernel_DG, "recurrent": recurrent_HG}
        step = functools.partial(_step, self.cell, self.rounds, self.rank > 0)
        records = self.is_mutable_collection("gates")
        if not (self.time_loop == "scan" or records or self.is_initializing()):
            run = shard_over_batch(functools.partial(_fused, step, dtype))
            return run((kernels, bias_G), x_BTD, carry, mask_BH, length)
        at = x_BTD.swapaxes(0, 1).astype(jnp.float32), valid_steps(length, time)
        consts = bias_G, mask_BH
        h_TBH, carry, gates = self._scan(step, kernels, consts, carry, at, records)
        recurrent.record(gates)
        return h_TBH.swapaxes(0, 1).astype(dtype), carry

    @nn.nowrap
    def _scan(
        self, step: Any, kernels: Any, consts: Any, carry: Carry, at: Any, records: bool
    ) -> tuple[jax.Array, Carry, dict[str, jax.Array]]:
        """Run the definition (a scan).

        Returns:
          Every hidden state [T, B, H], the last carry, and with `records` every gate [T, B, H].
        """

        def multiply(name: str, a_BF: jax.Array) -> jax.Array:
            return plain_product(kernels[name], a_BF, DTYPES[self.dtype])

        def body(carry: Carry, at_t: Any) -> tuple[Carry, Any]:
            carry, gates = step(multiply, carry, at_t, consts)
            return carry, (carry[0], gates if records else {})

        carry, (h_TBH, gates) = jax.lax.scan(body, carry, at)
        return h_TBH, carry, gates


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
    (kernels, bias_G), time = weights, x_BTD.shape[1]
    at = x_BTD.swapaxes(0, 1).astype(jnp.float32), valid_steps(length, time)
    # Bias and mask are given to every step, so that their gradients are summed.
    consts = bias_G, mask_BH
    same = jax.tree.map(lambda one: jnp.broadcast_to(one, (time, *one.shape)), consts)

    def fused(multiply: Multiply, carry: Carry, at_t: Any) -> Carry:
        return step(multiply, carry, *at_t)[0]

    h_TBH, carry = products_in_time(fused, kernels, carry, (at, same), dtype)
    return h_TBH.swapaxes(0, 1).astype(dtype), carry


def _step(
    cell: LSTMCell,
    rounds: int,
    ranked: bool,
    multiply: Multiply,
    carry: Carry,
    at_t: Any,
    consts: Any,
) -> tuple[Carry, dict[str, jax.Array]]:
    """Return the carry after one time step, and the gates."""
    (x_BD, live), (bias_G, mask_BH) = at_t, consts
    h_BH = carry[0] if mask_BH is None else carry[0] * mask_BH

    def twice_gate(number: int, a_BF: jax.Array) -> jax.Array:
        if ranked:
            return 2 * jax.nn.sigmoid(multiply(f"{number}_right", multiply(f"{number}_left", a_BF)))
        return 2 * jax.nn.sigmoid(multiply(f"{number}", a_BF))

    for number in range(1, rounds + 1):
        if number % 2:
            x_BD = twice_gate(number, h_BH) * x_BD
        else:
            h_BH = twice_gate(number, x_BD) * h_BH
    x_BG = multiply("input", x_BD) + bias_G
    gates = cell.activations(carry, x_BG, multiply("recurrent", h_BH))
    return where_valid(live, cell.update(carry, gates), carry), gates
