"""The interface of recurrent cells."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxlm.errors import UserError

Carry = tuple[jax.Array, ...]
"""The state of a cell: arrays [B, H]. The hidden state h comes first."""


class Cell(abc.ABC):
    """The mathematics of one time step: a pure, elementwise function without parameters.

    The recurrent layer owns the matrices. It passes to the cell, for all gates at once,

        x_BG = W x_t + b          u_BG = U h_{t-1} (+ a recurrent bias, if the cell says so)

    where G = len(gates) · H. The gates are concatenated along the last axis, in the order of
    `gates`. A cell may have constants as attributes, such as numbers and tuples. Two instances of
    a class are equal if their attributes are equal, and compiled functions use this.

    Example:
      >>> import jax.numpy as jnp
      >>> class LeakyCell(Cell):
      ...     gates = ("hidden",)
      ...     additive = True
      ...
      ...     def activations(self, carry, x_BG, u_BG):
      ...         return {"hidden": jnp.tanh(x_BG + u_BG)}
      ...
      ...     def update(self, carry, gates):
      ...         (h_BH,) = carry
      ...         return (0.5 * h_BH + 0.5 * gates["hidden"],)
      >>> (h_BH,) = LeakyCell().step((jnp.ones((1, 2)),), jnp.zeros((1, 2)), jnp.zeros((1, 2)))
      >>> h_BH.tolist()
      [[0.5, 0.5]]
    """

    gates: ClassVar[tuple[str, ...]]
    """Names of the gates, in parameter order."""
    carry: ClassVar[tuple[str, ...]] = ("h",)
    """Names of the arrays in the carry. The first is the hidden state."""
    recurrent_bias: ClassVar[bool] = False
    """Whether U h needs its own bias. If the cell only adds u to x, the bias b is enough."""
    additive: ClassVar[bool] = False
    """Whether the cell uses x and u only as their sum x + u. If so, the fused time loop stores the
    sum in place of both for the gradient, and calls the cell with the sum and with zeros for u.
    False is always correct."""

    forget_gate: ClassVar[str | None] = None
    """Name of the gate that keeps the old state if it is 1; None if there is no such gate.
    `forget_bias`, 1 by default, is added to the bias of this gate at the start, so that a new model
    remembers. A gate that erases the old state if it is 1 is not a forget gate here, whatever its
    paper calls the gate."""

    recurrent: ClassVar[bool] = True
    """Whether the gates depend on h_{t-1}, through a matrix U. If not, and a step is affine in h,
    see ParallelCell. A Cell without U that is no ParallelCell runs by `nn.scan`."""

    elementwise: ClassVar[bool] = False
    """Whether U is a vector [G] in place of a matrix: the unit i of each gate reads only h_i, by
    u = (h, h, ...) ⊙ U. Then Newton's method solves all time steps exactly (`ops.newton`)."""

    weights: ClassVar[tuple[str, ...]] = ()
    """Names of learned vectors [H] of an elementwise cell, such as peepholes. They are the last
    elements of U. The cell gets them after the gates in u_BG, without a factor h."""

    @abc.abstractmethod
    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        """Return the value of each gate, [B, H], by the gate's name.

        Args:
          carry: the state before the step, arrays [B, H].
          x_BG: W x_t + b for all gates, float32.
          u_BG: U h_{t-1} for all gates, float32; a scalar 0 for a cell without U.
        """

    @abc.abstractmethod
    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        """Return the carry after the step, given the values of the gates."""

    def step(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> Carry:
        """Return the carry after one time step: `activations`, then `update`."""
        return self.update(carry, self.activations(carry, x_BG, u_BG))

    @property
    def has_matrix(self) -> bool:
        """True if U is a matrix: each unit reads all units of its layer."""
        return self.recurrent and not self.elementwise

    def __eq__(self, other: object) -> bool:
        # Cells are static arguments of compiled functions, and fields of modules. Equal cells
        # share what is compiled, so cells with other constants must differ.
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), tuple(sorted(vars(self).items()))))

    def __repr__(self) -> str:
        constants = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({constants})"

    def check(self) -> None:
        """Raise UserError for attributes without a hash, or that exclude each other."""
        kind = type(self).__name__
        if self.weights and not self.elementwise:
            raise UserError(
                f"{kind} has `weights` but is not `elementwise`: set it, or leave them out"
            )
        if self.weights and (self.recurrent_bias or self.additive):
            other = "recurrent_bias" if self.recurrent_bias else "additive"
            raise UserError(f"{kind} has `weights`, which exclude `{other}`: leave one of them out")
        for name, value in vars(self).items():
            try:
                hash(value)
            except TypeError:
                raise UserError(
                    f"the attribute `{name}` of {kind} is {value!r}, which cannot "
                    f"be hashed: use a number, a text or a tuple"
                ) from None


class ParallelCell(Cell):
    """A cell whose gates depend only on the input, so that it can train in parallel over time.

        h_t = a_t ⊙ h_{t-1} + b_t

    Such a cell has no matrix U, and a step is affine in h. `ops.linear_recurrence` computes all
    time steps at once. For it, `activations` and `affine` also get the arrays of all time steps:
    x [T, B, G] in place of x_BG, and gates [T, B, H]. So gates are split along the last axis.
    """

    recurrent = False
    additive = True

    @abc.abstractmethod
    def affine(self, gates: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Return a and b, given the values of the gates. All have the shape [B, H] or [T, B, H]."""

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        (h,) = carry
        a, b = self.affine(gates)
        return (a * h + b,)


def positive(s: jax.Array) -> jax.Array:
    """Return g(s) = s + ½ for s ≥ 0, else σ(s), elementwise.

    The function is increasing, continuous and positive.

    Source: Feng et al. 2024, appendix B.2.
    """
    return jnp.where(s >= 0, s + 0.5, jax.nn.sigmoid(s))
