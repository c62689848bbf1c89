"""Linear recurrences with matrices, v_t = A_t v_{t-1} + b_t, and their damped form (ELK)."""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.ops.machine import computes_time_steps_in_sequence

Carry = tuple[jax.Array, ...]
"""The state: arrays [B, H], or [T, B, H] for all time steps."""
Rows = Sequence[tuple[Carry, jax.Array]]
"""For each array of the state after a step: its derivative with respect to each array of the state
before, [T, B, H] each, and with respect to u = U h, [T, B, G]. Both are elementwise."""


class Matrices(abc.ABC):
    """Arithmetic of the Jacobians of a recurrence, and of states as vectors.

    `pack` makes a vector of the S arrays of a state, and `unpack` makes the arrays again.
    """

    @abc.abstractmethod
    def pack(self, arrays: Carry) -> jax.Array:
        """Return the arrays [T, B, H] as vectors with a leading axis T."""

    @abc.abstractmethod
    def unpack(self, v: jax.Array, like: Carry) -> Carry:
        """Return vectors as arrays [T, B, H], as many as `like` has."""

    @abc.abstractmethod
    def make(self, rows: Rows, kernel: jax.Array, mask: jax.Array | None, width: int) -> jax.Array:
        """Return the Jacobian of each time step.

        Args:
          rows: see `Rows`.
          kernel: recurrent weights, a matrix [H, G], or a vector (`ops.recurrence`).
          mask: factor of h before the product, [B, H] or [T, B, H]; None for 1.
          width: number of elements of all gates.
        """

    @abc.abstractmethod
    def identity_like(self, a: jax.Array) -> jax.Array:
        """Return identity matrices of the shape of `a`."""

    @abc.abstractmethod
    def multiply(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Return the matrix product a b."""

    @abc.abstractmethod
    def apply(self, a: jax.Array, v: jax.Array) -> jax.Array:
        """Return the product of a matrix and a vector."""

    @abc.abstractmethod
    def transpose(self, a: jax.Array) -> jax.Array:
        """Return the transposed matrix."""

    @abc.abstractmethod
    def inverse(self, a: jax.Array) -> jax.Array:
        """Return the inverse matrix."""


class Units(Matrices):
    """A matrix [S, S] for each unit: elements that belong to two units are zero.

    Matrices are [..., S, S, B, H], and vectors [..., S, B, H]. The small axes come first, so that
    each operation runs over contiguous units.
    """

    def pack(self, arrays: Carry) -> jax.Array:
        return jnp.stack(arrays, axis=-3)

    def unpack(self, v: jax.Array, like: Carry) -> Carry:
        return tuple(v[..., index, :, :] for index in range(len(like)))

    def make(self, rows: Rows, kernel: jax.Array, mask: jax.Array | None, width: int) -> jax.Array:
        size = rows[0][0][0].shape[-1]
        gates = width // size
        # The elements of U from a unit to itself, one for each gate.
        if kernel.ndim == 1:
            own_G = kernel[:width]
        else:
            own_G = jnp.diagonal(kernel.reshape(size, gates, size), axis1=0, axis2=2).reshape(-1)
        jacobian = []
        for direct, du_TBG in rows:
            through_TBH = (
                (du_TBG[..., :width] * own_G).reshape(*du_TBG.shape[:-1], gates, size).sum(-2)
            )
            through_TBH = through_TBH if mask is None else through_TBH * mask
            jacobian.append(jnp.stack([direct[0] + through_TBH, *direct[1:]], axis=-3))
        return jnp.stack(jacobian, axis=-4)

    def identity_like(self, a: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.eye(a.shape[-3])[:, :, None, None], a.shape)

    def multiply(self, a: jax.Array, b: jax.Array) -> jax.Array:
        count = a.shape[-3]
        # A sum of elementwise products: XLA fuses it, and has no fast product of tiny matrices.
        columns = a[..., :, :, None, :, :] * b[..., None, :, :, :, :]
        return sum(columns[..., :, index, :, :, :] for index in range(count))  # type: ignore[return-value]

    def apply(self, a: jax.Array, v: jax.Array) -> jax.Array:
        return sum(  # type: ignore[return-value]
            a[..., :, index, :, :] * v[..., None, index, :, :] for index in range(a.shape[-3])
        )

    def transpose(self, a: jax.Array) -> jax.Array:
        return jnp.swapaxes(a, -4, -3)

    def inverse(self, a: jax.Array) -> jax.Array:
        if a.shape[-3] == 1:
            return 1 / a
        inner = jnp.moveaxis(a, (-4, -3), (-2, -1))
        return jnp.moveaxis(jnp.linalg.inv(inner), (-2, -1), (-4, -3))


class Whole(Matrices):
    """A matrix of all N = S · H state elements: [..., B, N, N], and vectors [..., B, N]."""

    def pack(self, arrays: Carry) -> jax.Array:
        return jnp.concatenate(arrays, axis=-1)

    def unpack(self, v: jax.Array, like: Carry) -> Carry:
        return tuple(jnp.split(v, len(like), axis=-1))

    def make(self, rows: Rows, kernel: jax.Array, mask: jax.Array | None, width: int) -> jax.Array:
        size = rows[0][0][0].shape[-1]
        kernel_HKH = kernel.reshape(size, -1, size)
        blocks = []
        for direct, du_TBG in rows:
            du_TBKH = du_TBG.reshape(*du_TBG.shape[:-1], -1, size)
            # Row i, column j: the derivative of unit i after the step by unit j before it.
            through = jnp.einsum("tbki,jki->tbij", du_TBKH, kernel_HKH)
            if mask is not None:
                through = through * jnp.broadcast_to(mask, direct[0].shape)[..., None, :]
            own = [jnp.eye(size) * d_TBH[..., :, None] for d_TBH in direct]
            blocks.append(jnp.concatenate([own[0] + through, *own[1:]], axis=-1))
        return jnp.concatenate(blocks, axis=-2)

    def identity_like(self, a: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.eye(a.shape[-1]), a.shape)

    def multiply(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b)

    def apply(self, a: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.matmul(a, v[..., None])[..., 0]

    def transpose(self, a: jax.Array) -> jax.Array:
        return jnp.swapaxes(a, -2, -1)

    def inverse(self, a: jax.Array) -> jax.Array:
        return jnp.linalg.inv(a)


def solve(matrices: Matrices, a: jax.Array, b: jax.Array, first: jax.Array) -> jax.Array:
    """Return v_t = A_t v_{t-1} + b_t for every time step, where `first` is v_0.

    Two steps compose into one, (A₂ A₁, A₂ b₁ + b₂), so an associative scan needs log T parallel
    rounds (Blelloch 1990). A CPU has few cores, and runs the T steps in sequence.

    Example:
      >>> import jax.numpy as jnp
      >>> half, one = jnp.full((3, 1, 1, 1, 1), 0.5), jnp.ones((3, 1, 1, 1))
      >>> solve(Units(), half, one, jnp.zeros((1, 1, 1))).ravel().tolist()
      [1.0, 1.5, 1.75]

    Args:
      matrices: the arithmetic of A and v.
      a: A of each time step, with a leading axis T.
      b: b of each time step.
      first: v_0.
    """
    if computes_time_steps_in_sequence():

        def body(v: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            v = matrices.apply(step[0], v) + step[1]
            return v, v

        return jax.lax.scan(body, first, (a, b))[1]
    return parallel_solve(matrices, a, b, first)


def parallel_solve(matrices: Matrices, a: jax.Array, b: jax.Array, first: jax.Array) -> jax.Array:
    """Return v_t = A_t v_{t-1} + b_t for every time step, by an associative scan.

    The values are those of `solve`, up to the order of summation.

    Args:
      matrices: the arithmetic of A and v.
      a: A of each time step, with a leading axis T.
      b: b of each time step.
      first: v_0.
    """
    Pair = tuple[jax.Array, jax.Array]

    def compose(one: Pair, two: Pair) -> Pair:
        return matrices.multiply(two[0], one[0]), matrices.apply(two[0], one[1]) + two[1]

    b = b.at[0].add(matrices.apply(a[0], first))
    return jax.lax.associative_scan(compose, (a, b))[1]


def damped(
    matrices: Matrices,
    a: jax.Array,
    b: jax.Array,
    first: jax.Array,
    old: jax.Array,
    damping: jax.Array,
) -> jax.Array:
    """Return v_t = A_t v_{t-1} + b_t with each v_t drawn to `old`, by a Kalman filter.

        v_t ~ N(A_t v_{t-1} + b_t, I)        old_t ~ N(v_t, I / λ)

    The result is the mean of v_t given old_1 ... old_t. With λ = 0 it is `solve`. If the matrices
    are so large that `solve` overflows, a λ > 0 bounds the states.

    Example:
      >>> import jax.numpy as jnp
      >>> twice, zero = jnp.full((3, 1, 1, 1, 1), 2.0), jnp.zeros((3, 1, 1, 1))
      >>> first, near = jnp.ones((1, 1, 1)), jnp.float32(1e6)
      >>> damped(Units(), twice, zero, first, zero, near).ravel().round(3).tolist()
      [0.0, 0.0, 0.0]

    Args:
      matrices: the arithmetic of A and v.
      a: A of each time step.
      b: b of each time step.
      first: v_0, which is known.
      old: the vectors that the result is drawn to.
      damping: λ > 0, float32 scalar.

    Source: Gonzalez et al., "Towards scalable and stable parallelization of nonlinear RNNs", 2024,
    section 4 (ELK); the parallel filter is of Särkkä & García-Fernández 2021.
    """
    scan = _filter_in_sequence if computes_time_steps_in_sequence() else _filter_in_parallel
    return scan(matrices, a, b, first, old, damping)


def _filter_in_sequence(
    matrices: Matrices, a: jax.Array, b: jax.Array, first: jax.Array, old: jax.Array, damping: Any
) -> jax.Array:
    """Run the Kalman filter step by step."""
    identity = matrices.identity_like(a)[0]

    def body(state: tuple[jax.Array, jax.Array], step: tuple[jax.Array, ...]) -> Any:
        mean, covariance = state
        a, b, old = step
        mean = matrices.apply(a, mean) + b
        covariance = matrices.multiply(matrices.multiply(a, covariance), matrices.transpose(a))
        covariance = covariance + identity
        # The gain is λ P (I + λ P)⁻¹, and the new covariance P (I + λ P)⁻¹.
        covariance = matrices.multiply(
            covariance, matrices.inverse(identity + damping * covariance)
        )
        mean = mean + damping * matrices.apply(covariance, old - mean)
        return (mean, covariance), mean

    return jax.lax.scan(body, (first, jnp.zeros_like(identity)), (a, b, old))[1]


def _filter_in_parallel(
    matrices: Matrices, a: jax.Array, b: jax.Array, first: jax.Array, old: jax.Array, damping: Any
) -> jax.Array:
    """Run the Kalman filter by an associative scan over conditional distributions."""
    m, identity = matrices, matrices.identity_like(a)
    gain = damping / (1 + damping)
    transposed = m.transpose(a)
    # An element is p(v_t | v_{t-1}, old_t), with weights, mean and covariance; and the likelihood
    # of old_t given v_{t-1}, with its information vector and matrix.
    weights = (1 - gain) * a
    mean = b + gain * (old - b)
    covariance = (1 - gain) * identity
    vector = gain * m.apply(transposed, old - b)
    information = gain * m.multiply(transposed, a)
    # v_0 is known, so the first element does not depend on it.
    predicted = m.apply(a[0], first) + b[0]
    weights = weights.at[0].set(0.0)
    mean = mean.at[0].set(predicted + gain * (old[0] - predicted))
    vector, information = vector.at[0].set(0.0), information.at[0].set(0.0)
    Element = tuple[jax.Array, ...]

    def compose(one: Element, two: Element) -> Element:
        a1, b1, c1, e1, j1 = one
        a2, b2, c2, e2, j2 = two
        eye = m.identity_like(a1)
        forward = m.multiply(a2, m.inverse(eye + m.multiply(c1, j2)))
        backward = m.multiply(m.transpose(a1), m.inverse(eye + m.multiply(j2, c1)))
        return (
            m.multiply(forward, a1),
            m.apply(forward, b1 + m.apply(c1, e2)) + b2,
            m.multiply(m.multiply(forward, c1), m.transpose(a2)) + c2,
            m.apply(backward, e2 - m.apply(j2, b1)) + e1,
            m.multiply(m.multiply(backward, j2), a1) + j1,
        )

    elements = weights, mean, covariance, vector, information
    return jax.lax.associative_scan(compose, elements)[1]
