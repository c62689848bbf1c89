"""What a cell is."""

import abc
from typing import ClassVar

import jax

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
