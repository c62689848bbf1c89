"""Run by test_sharding.py in a process of its own: models trained on one device and on meshes.

    python tests/on_devices.py '[["cpu", "lstm", "regularised", ["data=2", "data=4,model=2"]]]'

prints a line of JSON for each mesh of each case: the case with the mesh, and [largest relative
difference of a loss, of a parameter]. On the meshes a model is compiled as for the machine that is
named first.
"""

import json
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)


import numpy as np  # noqa: E402
from cases import SIZES, VARIANTS  # noqa: E402

from jaxlm.data.batching import Block  # noqa: E402
from jaxlm.models import MODELS, make_model  # noqa: E402
from jaxlm.ops.machine import compiling_for  # noqa: E402
from jaxlm.parallel.mesh import make_mesh, parse_mesh  # noqa: E402
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer  # noqa: E402
from jaxlm.training.state import init_state  # noqa: E402
from jaxlm.training.step import make_train_block  # noqa: E402

V, B, T, STEPS = 16, 8, 5, 20


def trained(model, mesh):
    """The state after 20 steps, on the host, and the loss of each."""
    # Small steps: at larger ones training itself makes more of a rounding error in every step (ten
    # times as much at 0.02, in the models with layer norms). Not Adam's, whose steps are as large
    # where a gradient is nothing but such errors.
    config = OptimizerConfig(optimizer="momentum", lr=0.004, clip=1.0, weight_decay=0.01)
    optimizer = make_optimizer(config, Horizon(10, 10))
    # The same batch in every step, so that there is something to learn.
    drawn = np.random.default_rng(0).integers(0, V, (2, 1, B, T)).astype(np.int32)
    drawn = np.repeat(drawn, STEPS, axis=1)
    ones = np.ones(STEPS, np.float32)
    fresh = np.arange(STEPS) % 10 == 0
    weights = np.ones((STEPS, B, T), np.float32)
    block = Block(*drawn, weights, ones * B * T, fresh, np.full(STEPS, T, np.int32), ones)
    key = jax.random.key(1)
    state = init_state(model, optimizer, key, B, mesh=mesh)
    step = make_train_block(model, optimizer, key, "all", mesh=mesh)
    state, metrics = step(state, block, STEPS)
    return jax.tree.map(np.asarray, state), np.asarray(metrics.nll_K)


def compare(machine, name, variant, meshes):
    known = MODELS[name].settings
    sizes = {size: value for size, value in SIZES.items() if size in known}
    model = make_model(name, sizes | VARIANTS[variant], V, V - 1)
    expected, losses = trained(model, None)
    # The same batch and carry, but other parameters.
    assert abs(losses[10] - losses[0]) > 1e-3 * losses[0]
    for mesh in meshes:
        with compiling_for(machine):
            state, other = trained(model, make_mesh(parse_mesh(mesh)))
        apart = jax.tree.map(
            lambda a, b: float(np.max(np.abs(a - b)) / np.max(np.abs(b))),
            (state.params, state.opt_state[1:3]),
            (expected.params, expected.opt_state[1:3]),
        )
        largest = max(jax.tree.leaves(apart))
        loss = float(np.max(np.abs(other - losses) / losses))
        print(json.dumps([[machine, name, variant, mesh], [loss, largest]]), flush=True)


for case in json.loads(sys.argv[1]):
    compare(*case)
