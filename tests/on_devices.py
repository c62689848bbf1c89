"""Train models on one device and on meshes, and print the differences, for test_sharding.py.

    python tests/on_devices.py '[["cpu", "lstm", "regularised", ["data=2", "data=4,model=2"]]]'

prints a line of JSON for each mesh of each case: the case with the mesh, and the largest relative
differences of a loss and of a parameter. On a mesh, the model is compiled with the choices for the
platform that the case names first.
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
    """Train for 20 steps. Return the state, on the host, and the loss of each step."""
    # The rate is small, because training amplifies rounding errors at a higher rate: ten times as
    # much at 0.02, in models with layer norms. The optimizer is not Adam, whose steps are just as
    # large if a gradient consists of rounding errors.
    config = OptimizerConfig(optimizer="momentum", lr=0.004, clip=1.0, weight_decay=0.01)
    optimizer = make_optimizer(config, Horizon(10, 10))
    # Every step has the same batch, so that the model can learn it.
    drawn = np.random.default_rng(0).integers(0, V, (2, 1, B, T)).astype(np.int32)
    drawn = np.repeat(drawn, STEPS, axis=1)
    ones = np.ones(STEPS, np.float32)
    fresh = np.repeat((np.arange(STEPS) % 10 == 0)[:, None], B, axis=1)
    weights = np.ones((STEPS, B, T), np.float32)
    block = Block(*drawn, weights, ones * B * T, fresh, np.full(STEPS, T, np.int32), ones)
    key = jax.random.key(1)
    state = init_state(model, optimizer, key, B, mesh=mesh)
    step = make_train_block(model, optimizer, key, "all", mesh=mesh)
    state, metrics = step(state, block, STEPS)
    return jax.tree.map(np.asarray, state), np.asarray(metrics.nll_K)


def compare(machine, name, variant, meshes):
    settings = MODELS[name].settings
    sizes = {size: value for size, value in SIZES.items() if size in settings}
    model = make_model(name, sizes | VARIANTS[variant], V, V - 1)
    expected, losses = trained(model, None)
    # Steps 0 and 10 have the same batch and carry, so the loss differs only by training.
    assert abs(losses[10] - losses[0]) > 1e-3 * losses[0]
    for mesh in meshes:
        with compiling_for(machine):
            state, sharded_losses = trained(model, make_mesh(parse_mesh(mesh)))
        differences = jax.tree.map(
            lambda a, b: float(np.max(np.abs(a - b)) / np.max(np.abs(b))),
            (state.params, state.opt_state[1:3]),
            (expected.params, expected.opt_state[1:3]),
        )
        largest = max(jax.tree.leaves(differences))
        loss = float(np.max(np.abs(sharded_losses - losses) / losses))
        print(json.dumps([[machine, name, variant, mesh], [loss, largest]]), flush=True)


for case in json.loads(sys.argv[1]):
    compare(*case)
