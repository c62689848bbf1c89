"""What a cell is."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

Carry = tuple[jax.Array, ...]
"""A cell's memory: arrays [B, H], the hidden state h first."""


class Cell(abc.ABC):
    """A pure function of one time step, elementwise; it knows nothing of time, batches or matrices.

    The layer around it owns the matrices, and hands the cell, for all gates at once,

        x_BG = W x_t + b          u_BG = U h_{t-1} (+ a recurrent bias, if the cell says so)

    with G = len(gates) · H, the gates side by side in the order of `gates`.
    """

    gates: ClassVar[tuple[str, ...]]
    """Names of the gates, in parameter order."""
    carry: ClassVar[tuple[str, ...]] = ("h",)
    """Names of the arrays in the carry; the first is the hidden state."""
    recurrent_bias: ClassVar[bool] = False
    """Whether U h needs a bias of its own. Where u only ever adds to x, one bias serves for both.
    """

    additive: ClassVar[bool] = False
    """Whether x and u are only ever added to each other: then their sum is all that the gradient
    needs to keep of them. False is always right.
    """

    recurrent: ClassVar[bool] = True
    """Whether the gates see h_{t-1}, through a matrix U. Where they do not, see ParallelCell."""

    @abc.abstractmethod
    def activations(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> dict[str, jax.Array]:
        """The value of every gate, [B, H] each."""

    @abc.abstractmethod
    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        """The carry that follows from the gates."""

    def step(self, carry: Carry, x_BG: jax.Array, u_BG: jax.Array) -> Carry:
        """One time step: `update` after `activations`."""
        return self.update(carry, self.activations(carry, x_BG, u_BG))

    def __eq__(self, other: object) -> bool:
        # A cell has no state, so two of a class are the same cell: modules that hold one compare
        # and hash as equal.
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ParallelCell(Cell):
    """A cell whose gates see the input alone. There is no U, and a step is affine in h,

        h_t = a_t ⊙ h_{t-1} + b_t

    so that all steps can be computed side by side (`ops.linear_recurrence`).
    """

    recurrent = False
    additive = True

    @abc.abstractmethod
    def affine(self, gates: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """a and b, from the gates."""

    def update(self, carry: Carry, gates: dict[str, jax.Array]) -> Carry:
        (h,) = carry
        a, b = self.affine(gates)
        return (a * h + b,)


def positive(s: jax.Array) -> jax.Array:
    """g(s) = s + ½ for s ≥ 0, else σ(s): increasing, continuous and above 0 (Feng et al. 2024,
    appendix B.2).
    """
    return jnp.where(s >= 0, s + 0.5, jax.nn.sigmoid(s))
