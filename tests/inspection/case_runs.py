"""Runs of the small models of `cases`, with words as tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import build

import jaxlm
from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.models.neural import param_shapes


def run_of(name, options=None, **settings):
    """Return a run of a case over the words w0 ... w11 and <eos>, id 12."""
    model, params = build(name, options or {})
    words = tuple(f"w{index}" for index in range(model.vocab_size - 1))
    tokenizer = Words(Vocabulary((*words, EOS), start=EOS))
    return jaxlm.Run(model, params, tokenizer, settings=settings)


def random_run(model, text):
    """Return a run with random parameters by NumPy: the initialisers take long to compile."""
    draw = np.random.default_rng(0)
    shapes = param_shapes(model)
    params = jax.tree.map(lambda leaf: jnp.float32(draw.normal(0, 0.5, leaf.shape)), shapes)
    return jaxlm.Run(model, params, text.tokenizer)
