"""Small models with parameters, for the laws: every model in MODELS, in each variant of its wiring.

A new model or cell is covered as soon as it is registered in MODELS.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxlm.models import MODELS, make_model
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.smoothing import SMOOTHINGS

V, B, T = 13, 3, 7
START = V - 1
VARIANTS = {
    "plain": {},
    "tied two layers": {"tied": True, "hidden_size": 6, "num_layers": 2},
    "tied, projected": {"tied": True, "hidden_size": 4},
    "stack": {
        "layer_sizes": (5, 6, 6),
        "tied": True,
        "residual": True,
        "layer_norm": True,
    },
    "regularised": {
        "num_layers": 2,
        "dropout": 0.2,
        "dropout_words": 0.1,
        "dropout_state": 0.3,
        "weight_drop": 0.4,
        "variational": True,
        "activation_penalty": 2.0,
        "temporal_penalty": 1.0,
    },
    "learned start": {"learned_start": True, "layer_sizes": (5, 6)},
    "low rank, uncapped": {"rounds": 4, "rank": 3, "capped": False, "hidden_size": 4},
    "deep": {"num_layers": 3, "residual": True, "layer_norm": True, "hidden_size": 4},
    "no far words": {"far_windows": 0, "tied": True, "num_layers": 1},
    "direct": {"direct": True},
    "direct, no hidden": {"direct": True, "hidden_size": 0},
    "bfloat16": {"dtype": "bfloat16"},
    "adaptive": {"softmax": "adaptive", "cutoffs": (4, 9)},
    "adaptive, tied": {"softmax": "adaptive", "cutoffs": (4, 9), "tied": True},
    "adaptive input": {"softmax": "adaptive", "cutoffs": (4, 9), "adaptive_input": True},
    "adaptive input, tied": {
        "softmax": "adaptive",
        "cutoffs": (4, 9),
        "adaptive_input": True,
        "tied": True,
    },
    "sampled": {"softmax": "sampled", "sampled_words": 5},
    "mixture": {"softmax": "mixture", "softmaxes": 3},
    "mixture, tied": {"softmax": "mixture", "softmaxes": 2, "tied": True},
    "newton": {"time_loop": "newton"},
    "stream": {"stream": True},
    "unigram": {"order": 1},
    "bigram": {"order": 2},
} | {smoothing: {"smoothing": smoothing} for smoothing in SMOOTHINGS}
# Models that are tested in a variant, if not all models. The output layer is the same module in
# every model, so a variant of it is tested with a single model: nplm, if the variant is not listed.
ONLY = {
    "tied two layers": ("lstm",),
    # The start belongs to the model, not to its cell.
    "learned start": ("lstm", "mingru"),
    "low rank, uncapped": ("mogrifier",),
    # ops/test_newton.py compares Newton's method with the loop for every cell.
    "newton": ("gru", "paralstm"),
    "adaptive input": ("modern-nplm",),
    "adaptive input, tied": ("gru",),
    "deep": ("nplm",),
    "mixture, tied": ("rnn",),
    "tied, projected": ("nplm",),
    "stack": ("gru",),
    "regularised": ("lstm",),
    # bfloat16 arithmetic belongs to the layer, and is the same for every cell.
    "bfloat16": ("nplm", "transformer", "lstm", "mogrifier"),
}
# Models that differ from lstm or mingru by their cell only. The full tier tests their laws. Tests
# of a part that never sees the cell leave them out.
OTHER_CELLS = ("rnn", "gru", "minlstm", "paragru", "paralstm")
# Models whose programs take longest to compile. The full tier tests them, as it does the variants.
LARGE = ("modern-nplm", "transformer")
SIZES = {
    "embedding_size": 6,
    "hidden_size": 5,
    "n_step": 3,
    "inner_size": 7,
    "far_windows": 2,
    "far_size": 2,
    "num_heads": 2,
}


def cases(trained_by=("gradient", "counting"), exact=False, outputs=True):
    """Yield the parameters (name, options) of a test.

    Args:
      trained_by: include models that are trained by these methods.
      exact: leave out variants of reduced precision.
      outputs: include variants of the output layer; False for laws about time.
    """
    for name, entry in MODELS.items():
        settings = set(entry.settings)
        for variant, options in VARIANTS.items():
            fits = entry.kind.trained_by in trained_by and set(options) <= settings
            is_output = "softmax" in options
            fits &= name in ONLY.get(variant, ("nplm",) if is_output else (name,))
            fits &= outputs or not is_output
            if fits and not (exact and "dtype" in options):
                case = f"{name}-{variant}"
                # A single worker runs all tests of a case, because they share compiled programs.
                marks = [pytest.mark.xdist_group(case)]
                slow = variant != "plain" or name in LARGE or name in OTHER_CELLS
                if entry.kind.trained_by == "gradient" and slow:
                    marks.append(pytest.mark.full)
                yield pytest.param(name, options, id=case, marks=marks)


NEURAL = [name for name, entry in MODELS.items() if entry.kind.trained_by == "gradient"]


def build(name, options, **more):
    """Return a model and parameters: random parameters, or tables of counts."""
    return _build_once(name, tuple((options | more).items()))


@functools.cache
def _build_once(name, options):
    settings = MODELS[name].settings
    sizes = {size: value for size, value in SIZES.items() if size in settings}
    model = make_model(name, sizes | dict(options), V, START)
    return model, PARAMETERS[model.trained_by](model)


def _random_params(model):
    """Draw parameters by NumPy, because the initialisers take long to compile.

    No bias is 0 and no scale is 1, so a missing bias or scale changes the result.
    """
    shapes = jax.eval_shape(lambda key: model.init(key, tokens()), jax.random.key(0))["params"]
    generator = np.random.default_rng(3)
    return jax.tree.map(lambda a: jnp.float32(generator.normal(0, 0.5, a.shape)), shapes)


def _counted_tables(model):
    ids = np.random.default_rng(2).integers(0, V, 400)
    # Add a blank line, and repeat the first 150 tokens, so that long n-grams occur twice.
    ids = np.concatenate([ids, [START, START], ids[:150]])
    text = Sequences.stream(ids, START) if model.stream else Sequences.lines(ids, START, V)
    counts = count_ngrams(text, model.order, V)
    return SMOOTHINGS[model.smoothing](counts, add_k=0.1).tables


PARAMETERS = {"gradient": _random_params, "counting": _counted_tables}


def tokens(batch=B, time=T, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, time)).astype(np.int32)


def tolerance(options):
    return {"atol": 0.05, "rtol": 0.05} if options.get("dtype") else {"atol": 2e-5, "rtol": 2e-5}


@functools.partial(jax.jit, static_argnames=("model", "positions"))
def hidden(model, params, tokens_BT, carry=None, positions="all"):
    return model.apply({"params": params}, tokens_BT, carry, positions=positions)


@functools.partial(jax.jit, static_argnames="model")
def logits(model, params, tokens_BT, carry=None, length=None):
    hidden_BTF, carry = model.apply({"params": params}, tokens_BT, carry, length=length)
    return model.apply({"params": params}, hidden_BTF, method="logits"), carry


def assert_trees_close(found, expected, **limits):
    jax.tree.map(lambda a, b: assert_allclose(*map(np.float32, (a, b)), **limits), found, expected)
