"""Small texts and their batches, for the tests of batching."""

import numpy as np

from jaxlm.data.batching import BatchingConfig, make_batches
from jaxlm.data.encoding import Split
from jaxlm.data.sources import EmbeddedText
from jaxlm.data.tokenizers import TOKENIZERS, VocabularyConfig, Words
from jaxlm.data.vocabulary import EOS, Vocabulary

POEM = "a b c\nd\ne f g h\ni j\nk l m\n"


def numbered(size, dtype=np.int32):
    """Return a split whose token at position p is p, so that tokens in a batch show their place."""
    vocabulary = Vocabulary((*map(str, range(size)), EOS), start=EOS)
    return Split("train", np.arange(size, dtype=dtype), EmbeddedText(""), Words(vocabulary))


def split_of(text, name="words", folder=None, **config):
    source = EmbeddedText(text)
    tokenizer = TOKENIZERS[name].fit(source.lines(), VocabularyConfig(**config), False)
    return Split.encode("train", source, tokenizer, lambda: folder, 0 if folder else 1 << 20)


def batches_of(split, batching, n_step=1, seed=0, **config):
    return make_batches(split, BatchingConfig(batching=batching, **config), n_step, seed)


def epoch(batches, number=0):
    steps = batches.steps_per_epoch
    return batches.block(number * steps, steps, steps)
