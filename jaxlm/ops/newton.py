"""All time steps of a nonlinear recurrence at once, by Newton's method, with its own gradient."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.ops import affine_scan
from jaxlm.ops.affine_scan import Matrices, Units, Whole
from jaxlm.ops.products import Compute
from jaxlm.ops.recurrence import (
    Carry,
    LoopSettings,
    Step,
    loop_gradients,
    recurrent_gradients,
    recurrent_product,
    through_recurrent,
    values_and_saved,
)

JACOBIANS = ("auto", "full", "diagonal")
LARGEST_FULL = 64
"""Largest number of state elements S · H whose full Jacobian "auto" uses: each time step has
(S · H)² elements, and two steps are composed by a product of such matrices."""
LARGEST_JACOBIANS = 2**26
"""Largest number of elements T · B · (S · H)² of the full Jacobians of all steps that "auto" uses:
256 MiB in float32. Scoring reads chunks of 100,000 steps."""
MOST_ITERATIONS = 100
"""Newton's method stops after this many iterations, or after T + 1: without damping, T iterations
are enough, and the last one finds that the states have converged."""
TOLERANCE = 1e-6
"""The states have converged if no element of F(s_{t-1}) - s_t is larger than this, times the same
element of the states (1 to LARGEST_SCALE); and if the recurrence is not chaotic."""
LARGEST_SCALE = 100.0
"""Full Jacobians without damping can make states of 1e11, beside which an error of 1e5 is small.
The states of a cell grow by at most 1 in a step, so such states have a residual of that size."""
EPSILON = 1.2e-7
"""The distance of neighbouring float32 numbers near 1."""
LARGEST_ERROR = 5e-6
"""A recurrence is chaotic if rounding a state by EPSILON changes a sum of the later states, with
signs, by more than this times √(T / MEMORY). Then it has many solutions up to rounding, and only
the loop over time gives its own."""
MEMORY = 64
"""Time steps over which a recurrence may remember a rounding error. The sum of the signs of a state
that is kept for T steps grows as √T, and so do the rounding errors of the loop over time; in a
chaotic recurrence both grow exponentially."""
WORST_GROWTH = 100.0
"""An iteration is damped if the iteration before it made the largest residual grow by more than
this factor."""
FIRST_DAMPING, LEAST_DAMPING = 1e-2, 1e-4
"""The damping λ after the first growth of the residual; a smaller λ becomes 0."""
FACTOR = 10.0
"""Each growth multiplies λ by this, and every other iteration divides λ by it."""


class Newton(NamedTuple):
    """A report of how the time steps were solved: two float32 scalars.

    iterations: number of evaluations of all time steps. converged: 1 if the states solve the
    recurrence up to the tolerance, 0 if the loop over time had to compute them.
    """

    iterations: jax.Array
    converged: jax.Array


def newton_recurrence(
    step: Step,
    carry: Carry,
    x_TBG: jax.Array,
    kernel: jax.Array,
    bias_G: jax.Array | None = None,
    mask: jax.Array | None = None,
    valid_T: jax.Array | None = None,
    *,
    dtype: Any = jnp.float32,
    jacobian: str = "auto",
    tolerance: float = TOLERANCE,
    most_iterations: int = MOST_ITERATIONS,
    damped: bool = True,
) -> tuple[jax.Array, Carry, Newton]:
    """Run a cell over time like `ops.recurrence.recurrence`, with all time steps at once.

    The states s_1 ... s_T solve s_t = F_t(s_{t-1}). An iteration computes F and its Jacobian J at
    all old states in parallel, and solves the linear recurrence

        s_t = F_t(s'_{t-1}) + J_t (s_{t-1} - s'_{t-1})          s': the states before the iteration

    by a parallel scan. After i iterations at least s_1 ... s_i are exact, so T iterations are
    enough; near the solution each iteration doubles the number of correct digits. With `jacobian`
    diagonal, J keeps only the elements that belong to the same unit (S by S for S state arrays).
    The solution is the same, and the method needs more iterations (quasi-Newton). If U is a vector
    [G], a unit reads no other unit, and both are the same. After an iteration that makes the
    residual much larger, the states are also drawn to s' with weight λ (`affine_scan.damped`).

    The gradient is a linear recurrence too, solved by one parallel scan if J is full:

        dh_t = g_t + J_{t+1}ᵀ dh_{t+1}

    With a diagonal J it is solved by iterations with the diagonal. The products with U are float32
    for every `dtype`: the states could not converge further than these products are exact.

    If the iterations do not converge, or if the recurrence is chaotic, a loop over time computes
    the states and the gradient in their place. The gradient of a sum of the states with signs tells
    whether it is chaotic. If its own iterations do not converge, `converged` is 0 too.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxlm.models.cells import CELLS
      >>> x_TBG, kernel_HG = jnp.zeros((5, 2, 4 * 3)), jnp.zeros((3, 4 * 3))
      >>> carry = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> step = CELLS["lstm"].step
      >>> h_TBH, (h_BH, c_BH), newton = newton_recurrence(step, carry, x_TBG, kernel_HG)
      >>> h_TBH.shape, c_BH[0].tolist(), int(newton.iterations), bool(newton.converged)
      ((5, 2, 3), [0.03125, 0.03125, 0.03125], 3, True)

    Args:
      step: the cell, elementwise in batch and units: (carry, x_BG, u_BG) -> carry.
      carry: initial state, float32 arrays [B, H]; the hidden state h comes first.
      x_TBG: W x + b for all gates and all time steps, float32.
      kernel: recurrent weights U, float32: a matrix [H, G], or a vector whose product with h is
        elementwise (`recurrent_product`).
      bias_G: recurrent bias, float32; None for a cell without it.
      mask: factor of h before the product, [B, H] or [T, B, H]; None for 1. Its gradient is not
        computed.
      valid_T: bool; a step where it is False leaves the carry unchanged. None if all are valid.
      dtype: dtype of the operands of the products in the loop over time.
      jacobian: "full", "diagonal", or "auto": full up to LARGEST_FULL state elements, and up to
        LARGEST_JACOBIANS elements of all Jacobians.
      tolerance: see TOLERANCE.
      most_iterations: see MOST_ITERATIONS.
      damped: whether a failed iteration is followed by damped ones.
    Returns:
      Each hidden state h_TBH, float32, the carry after the last step, and a `Newton`.

    Source: Lim et al., "Parallelizing non-linear sequential models over the sequence length", 2024
    (DEER); Gonzalez et al., "Towards scalable and stable parallelization of nonlinear RNNs", 2024
    (quasi-DEER, ELK); Danieli et al., "ParaRNN", 2025.
    """
    assert jacobian in JACOBIANS, jacobian
    elements = len(carry) * carry[0].shape[-1]
    if kernel.ndim == 1:
        jacobian = "diagonal"
    elif jacobian == "auto":
        total = x_TBG.shape[0] * x_TBG.shape[1] * elements**2
        fits = elements <= LARGEST_FULL and total <= LARGEST_JACOBIANS
        jacobian = "full" if fits else "diagonal"
    bias_G = jnp.zeros((0,), jnp.float32) if bias_G is None else bias_G
    most = min(most_iterations, x_TBG.shape[0] + 1)
    compute = Compute(jnp.float32, "float32")
    loop = LoopSettings(step, Compute.now(dtype), additive=False, unroll=1)
    settings = _Settings(step, compute, loop, jacobian, tolerance, most, damped)
    return _newton(settings, carry, x_TBG, kernel, bias_G, mask, valid_T)


class _Settings(NamedTuple):
    """The static arguments of `newton_recurrence`.

    compute: the products of the iterations. loop: the loop over time that runs if the iterations do
    not converge.
    """

    step: Step
    compute: Compute
    loop: LoopSettings
    jacobian: str
    tolerance: float
    most_iterations: int
    damped: bool

    @property
    def matrices(self) -> Matrices:
        """The arithmetic of the Jacobians."""
        return Whole() if self.jacobian == "full" else Units()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _newton(settings: _Settings, *arrays: Any) -> tuple[jax.Array, Carry, Newton]:
    return _forward(settings, *arrays)[0]


class _Steps(NamedTuple):
    """All time steps as one function of the states before them, flattened to [T · B, H]."""

    settings: _Settings
    x_TBG: jax.Array
    kernel: jax.Array
    bias_G: jax.Array
    mask: jax.Array | None
    valid_T: jax.Array | None

    @property
    def width(self) -> int:
        """The number of elements of all gates."""
        return self.x_TBG.shape[-1]

    def products(self, h_TBH: jax.Array, compute: Compute) -> jax.Array:
        """Return u = (m ⊙ h) U + b of all time steps, [T, B, G]."""
        masked_TBH = h_TBH if self.mask is None else h_TBH * self.mask
        time, batch, size = h_TBH.shape
        flat_NH = masked_TBH.reshape(time * batch, size)
        u_NG = recurrent_product(flat_NH, self.kernel, compute.dtype, self.bias_G, self.width)
        return u_NG.reshape(time, batch, -1)

    def linearise(self, previous: Carry) -> tuple[Carry, Callable[[Carry], tuple[Any, ...]]]:
        """Return the states after all steps, and the pullback of the elementwise step.

        The pullback takes arrays [T, B, H] and returns the gradients of the previous states, of x
        and of u. Invalid steps are steps like the others here.
        """
        u_TBG = self.products(previous[0], self.settings.compute)
        time, batch = self.x_TBG.shape[:2]

        def flat(array: jax.Array) -> jax.Array:
            return array.reshape(time * batch, -1)

        def unflat(array: jax.Array) -> jax.Array:
            return array.reshape(time, batch, -1)

        step = self.settings.step
        after, pullback = jax.vjp(step, tuple(map(flat, previous)), flat(self.x_TBG), flat(u_TBG))

        def pull(gradients: Carry) -> tuple[Any, ...]:
            return jax.tree.map(unflat, pullback(tuple(map(flat, gradients))))

        return tuple(map(unflat, after)), pull

    def valid(self, new: Any, old: Any) -> Any:
        """Return the arrays [T, ...] of `new` where the step is valid, else the arrays of `old`."""
        if self.valid_T is None:
            return new

        def choose(after: jax.Array, before: jax.Array) -> jax.Array:
            assert self.valid_T is not None
            shape = -1, *[1] * (after.ndim - 1)
            return jnp.where(self.valid_T.reshape(shape), after, before)

        return jax.tree.map(choose, new, old)

    def jacobian(self, pull: Callable[[Carry], tuple[Any, ...]], states: Carry) -> jax.Array:
        """Return the Jacobian of each step, as the settings ask.

        The step is elementwise, so one pullback of ones gives the derivatives of an output array
        with respect to each input array. `states` gives the shapes.
        """
        count = len(states)
        zeros = jnp.zeros_like(states[0])
        rows = []
        for index in range(count):
            ones = tuple(zeros + 1.0 if other == index else zeros for other in range(count))
            direct, _, du_TBG = pull(ones)
            rows.append((direct, du_TBG))
        matrices = self.settings.matrices
        jacobian = matrices.make(rows, self.kernel, self.mask, self.width)
        return self.valid(jacobian, matrices.identity_like(jacobian))


def _previous(initial: Carry, states: Carry) -> Carry:
    """Return the state before each step: the initial state, then the states after all but one."""
    return tuple(
        jnp.concatenate([first_BH[None], states_TBH[:-1]])
        for first_BH, states_TBH in zip(initial, states, strict=True)
    )


def _largest(arrays: Carry) -> jax.Array:
    """Return the largest magnitude of the elements of all arrays; inf if one is not finite.

    The maximum of a compiled program may pass over NaN.
    """
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(array)) for array in arrays]))
    finite = functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(array)) for array in arrays])
    return jnp.where(finite, largest, jnp.inf)


def _relative(difference: Carry, states: Carry) -> jax.Array:
    """Return the largest magnitude of the difference, relative to states above 1."""
    return _largest(
        tuple(
            d / jnp.clip(jnp.abs(s), 1.0, LARGEST_SCALE)
            for d, s in zip(difference, states, strict=True)
        )
    )


class _State(NamedTuple):
    """The state of the iterations.

    residual: the residual of the states before the last iteration. small: whether it is at most
    the tolerance.
    """

    states: Carry
    residual: jax.Array
    damping: jax.Array
    iterations: jax.Array
    small: jax.Array


def _solve(settings: _Settings, initial: Carry, steps: _Steps) -> tuple[Carry, Newton]:
    """Return the states of all time steps by Newton's method, and how it went."""
    matrices = settings.matrices

    def body(state: _State) -> _State:
        previous = _previous(initial, state.states)
        after, pull = steps.linearise(previous)
        after = steps.valid(after, previous)
        difference = tuple(a - b for a, b in zip(after, state.states, strict=True))
        residual = _largest(difference)
        jacobian = steps.jacobian(pull, after)
        after_v, previous_v, states_v = map(matrices.pack, (after, previous, state.states))
        offset_v = after_v - matrices.apply(jacobian, previous_v)
        first_v = matrices.pack(tuple(array_BH[None] for array_BH in initial))[0]
        solve = functools.partial(affine_scan.solve, matrices, jacobian, offset_v, first_v)
        damping = state.damping
        if settings.damped:
            grown = residual > WORST_GROWTH * state.residual
            larger = jnp.maximum(FIRST_DAMPING, damping * FACTOR)
            smaller = jnp.where(damping > LEAST_DAMPING, damping / FACTOR, 0.0)
            damping = jnp.where(grown, larger, smaller)
            solved_v = jax.lax.cond(
                damping > 0,
                lambda: affine_scan.damped(
                    matrices, jacobian, offset_v, first_v, states_v, damping
                ),
                solve,
            )
        else:
            solved_v = solve()
        # Later states may overflow while the first states are already exact. They start again from
        # the states of one plain step.
        plain_v = jnp.where(jnp.isfinite(after_v), after_v, 0.0)
        solved_v = jnp.where(jnp.isfinite(solved_v), solved_v, plain_v)
        return _State(
            matrices.unpack(solved_v, after),
            residual,
            damping,
            state.iterations + 1,
            _relative(difference, state.states) <= settings.tolerance,
        )

    def unfinished(state: _State) -> jax.Array:
        return ~state.small & (state.iterations < settings.most_iterations)

    def is_solution() -> jax.Array:
        # The last iteration made these states from states that were small enough. With a part of
        # the Jacobian it may have made them worse.
        previous = _previous(initial, end.states)
        after, pull = steps.linearise(previous)
        after = steps.valid(after, previous)
        difference = tuple(a - b for a, b in zip(after, end.states, strict=True))
        solves = _relative(difference, end.states) <= settings.tolerance
        return solves & _forgets(settings, steps, pull, end.states)

    time = steps.x_TBG.shape[0]
    zeros = tuple(jnp.zeros((time, *array_BH.shape), jnp.float32) for array_BH in initial)
    infinite, nothing = jnp.float32(jnp.inf), jnp.float32(0)
    start = _State(zeros, infinite, nothing, jnp.int32(0), jnp.bool_(False))
    end = jax.lax.while_loop(unfinished, body, start)
    converged = jax.lax.cond(end.small, is_solution, lambda: jnp.bool_(False))
    newton = Newton(end.iterations.astype(jnp.float32), converged.astype(jnp.float32))
    return end.states, newton


def _forgets(
    settings: _Settings, steps: _Steps, pull: Callable[[Carry], tuple[Any, ...]], like: Carry
) -> jax.Array:
    """Return whether the recurrence is not chaotic, by the gradient of Σ ± s over all states."""

    def signs_like(array_TBH: jax.Array) -> jax.Array:
        index = jnp.arange(array_TBH.size, dtype=jnp.float32).reshape(array_TBH.shape)
        return jnp.where(jnp.cos(17.0 * index) < 0, -1.0, 1.0)

    # An invalid step repeats the state before it: its sign would add nothing but a copy.
    signs = steps.valid(tuple(map(signs_like, like)), tuple(map(jnp.zeros_like, like)))
    gradients, converged = _adjoint(settings, steps, pull, signs)
    growth = max(1.0, (steps.x_TBG.shape[0] / MEMORY) ** 0.5)
    return converged & (_largest(gradients) * EPSILON <= growth * LARGEST_ERROR)


def _forward(settings: _Settings, *arrays: Any) -> tuple[Any, Any]:
    carry, x_TBG, kernel, bias_G, mask, valid_T = arrays
    with settings.compute.context():
        steps = _Steps(settings, x_TBG, kernel, bias_G, mask, valid_T)
        states, newton = _solve(settings, carry, steps)

    def loop() -> Carry:
        with settings.loop.compute.context():
            # The carries after all steps.
            return values_and_saved(settings.loop, *arrays)[1][1]

    states = jax.lax.cond(newton.converged > 0, lambda: states, loop)
    last = tuple(array_TBH[-1] for array_TBH in states)
    return (states[0], last, newton), (arrays, states, newton.converged > 0)


def _backward(settings: _Settings, saved: Any, grads: Any) -> tuple[Any, ...]:
    arrays, states, forward_converged = saved
    carry, x_TBG, kernel, bias_G, mask, valid_T = arrays
    dh_TBH, dlast, _ = grads
    with settings.compute.context():
        steps = _Steps(settings, x_TBG, kernel, bias_G, mask, valid_T)
        previous = _previous(carry, states)
        _, pull = steps.linearise(previous)
        # The gradient that reaches each state from outside of the recurrence.
        outer = tuple(
            (dh_TBH if index == 0 else jnp.zeros_like(dh_TBH)).at[-1].add(dlast_BH)
            for index, dlast_BH in enumerate(dlast)
        )
        inner, converged = jax.lax.cond(
            forward_converged,
            lambda: _adjoint(settings, steps, pull, outer),
            lambda: (outer, jnp.bool_(False)),
        )

        def loop() -> tuple[Any, ...]:
            with settings.loop.compute.context():
                stored = x_TBG, steps.products(previous[0], settings.loop.compute)
                saved = carry, states, stored, kernel, bias_G, mask, valid_T
                return loop_gradients(settings.loop, saved, (dh_TBH, dlast))[:4]

        gradients = jax.lax.cond(
            converged, lambda: _gradients(settings, steps, previous, pull, inner), loop
        )
        return *gradients, None, None


def _adjoint(
    settings: _Settings, steps: _Steps, pull: Callable[[Carry], tuple[Any, ...]], outer: Carry
) -> tuple[Carry, jax.Array]:
    """Return the whole gradient that reaches each state, and whether it has converged."""
    matrices = settings.matrices
    jacobian = steps.jacobian(pull, outer)
    # Reversed in time, the factor of the gradient of step t + 1 is the transpose of its Jacobian.
    last = jnp.zeros_like(jacobian[:1])
    transposed = matrices.transpose(jnp.concatenate([jacobian[1:], last]))[::-1]
    outer_v = matrices.pack(outer)
    nothing = jnp.zeros_like(outer_v[0])

    def solve(offset_v: jax.Array) -> jax.Array:
        return affine_scan.solve(matrices, transposed, offset_v[::-1], nothing)[::-1]

    if settings.jacobian == "full" or steps.kernel.ndim == 1:
        return matrices.unpack(solve(outer_v), outer), jnp.bool_(True)

    def through(gradient_v: jax.Array) -> jax.Array:
        """Return what reaches each state from the next step, by the full Jacobian."""
        gradient = matrices.unpack(gradient_v, outer)
        dprevious, _, du_TBG = pull(gradient)
        du_TBG = steps.valid(du_TBG, jnp.zeros_like(du_TBG))
        dprevious = steps.valid(dprevious, gradient)
        through_h = through_recurrent(
            du_TBG, steps.kernel, settings.compute.dtype, outer[0].shape[-1], steps.width
        )
        through_h = through_h if steps.mask is None else through_h * steps.mask
        dprevious = (dprevious[0] + through_h, *dprevious[1:])
        return matrices.pack(
            tuple(jnp.concatenate([d_TBH[1:], jnp.zeros_like(d_TBH[:1])]) for d_TBH in dprevious)
        )

    def body(state: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        gradient_v, iterations, _ = state
        right_v = outer_v + through(gradient_v)
        residual_v = right_v - gradient_v
        residual = _largest((residual_v,))
        converged = jnp.isfinite(residual) & (
            residual <= settings.tolerance * _largest((gradient_v,))
        )
        return gradient_v + solve(residual_v), iterations + 1, converged

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return ~state[2] & (state[1] < settings.most_iterations)

    start = solve(outer_v), jnp.int32(0), jnp.bool_(False)
    gradient_v, _, converged = jax.lax.while_loop(unfinished, body, start)
    return matrices.unpack(gradient_v, outer), converged


def _gradients(
    settings: _Settings,
    steps: _Steps,
    previous: Carry,
    pull: Callable[[Carry], tuple[Any, ...]],
    inner: Carry,
) -> tuple[Any, ...]:
    """Return the gradients of the carry, x, U and its bias, given the gradients of the states."""
    dprevious, dx_TBG, du_TBG = pull(inner)
    dx_TBG, du_TBG = steps.valid((dx_TBG, du_TBG), (jnp.zeros_like(dx_TBG), jnp.zeros_like(du_TBG)))
    dprevious = steps.valid(dprevious, inner)
    dtype = settings.compute.dtype
    first_BH = through_recurrent(
        du_TBG[:1], steps.kernel, dtype, previous[0].shape[-1], steps.width
    )[0]
    if steps.mask is not None:
        first_BH = first_BH * (steps.mask if steps.mask.ndim == 2 else steps.mask[0])
    dinitial = tuple(d_TBH[0] + (first_BH if i == 0 else 0.0) for i, d_TBH in enumerate(dprevious))
    masked_TBH = previous[0] if steps.mask is None else previous[0] * steps.mask
    dkernel, dbias_G = recurrent_gradients(
        masked_TBH, du_TBG, steps.kernel, steps.bias_G, dtype, steps.width
    )
    return dinitial, dx_TBG, dkernel, dbias_G


_newton.defvjp(_forward, _backward)
