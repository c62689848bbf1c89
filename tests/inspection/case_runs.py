"""Runs of the small models of `cases`, with words as tokens."""

from cases import build

import jaxlm
from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, Vocabulary


def run_of(name, options=None, **settings):
    """Return a run of a case over the words w0 ... w11 and <eos>, id 12."""
    model, params = build(name, options or {})
    words = tuple(f"w{index}" for index in range(model.vocab_size - 1))
    tokenizer = Words(Vocabulary((*words, EOS), start=EOS))
    return jaxlm.Run(model, params, tokenizer, settings=settings)
