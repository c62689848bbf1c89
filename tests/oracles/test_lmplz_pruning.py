"""Pruned ARPA files against those of KenLM's lmplz, which was run once on an invented text.

lmplz -o 3 --discount_fallback --prune 0 0 1 < text.txt > order3-prune-0-0-1.arpa
lmplz -o 4 --discount_fallback --prune 0 1 1 2 < text.txt > order4-prune-0-1-1-2.arpa
lmplz -o 3 --discount_fallback --limit_vocab_file words.txt < text.txt > order3-limit-vocab.arpa
"""

from pathlib import Path

import numpy as np
import pytest

import jaxlm
from jaxlm.interop.arpa import read_arpa
from jaxlm.interop.arpa_runs import export_arpa

FOLDER = Path(__file__).parent / "lmplz"


def ngrams(path):
    """Return probability and back-off weight of each n-gram of an ARPA file by its words."""
    arpa, found = read_arpa(path), {}
    tables, names = arpa.tables, [*arpa.tokens, "<s>"]
    for order in range(1, tables.order + 1):
        weights = tables.backoffs[order - 1] if order < tables.order else tables.probabilities[-1]
        rows = zip(tables.words(order), tables.probabilities[order - 1], weights, strict=True)
        for words, *numbers in rows:
            found[tuple(names[word] for word in words)] = numbers
    return found


@pytest.mark.parametrize(
    ("name", "order", "prune", "vocabulary_file"),
    [
        ("order3-prune-0-0-1", 3, (0, 0, 1), None),
        ("order4-prune-0-1-1-2", 4, (0, 1, 1, 2), None),
        ("order3-limit-vocab", 3, None, str(FOLDER / "words.txt")),
    ],
)
def test_the_arpa_file_equals_that_of_lmplz(name, order, prune, vocabulary_file, tmp_path):
    text = jaxlm.read_corpus(
        FOLDER / "text.txt", fractions=(1.0,), unk="always", vocabulary_file=vocabulary_file
    )
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=order)
    run = jaxlm.fit(model, text, like_lmplz=True, prune=prune, quiet=True)
    export_arpa(run, tmp_path / "ours.arpa")
    ours, theirs = ngrams(tmp_path / "ours.arpa"), ngrams(FOLDER / f"{name}.arpa")
    assert ours.keys() == theirs.keys()
    keys = list(theirs)
    found = np.array([ours[key] for key in keys])
    np.testing.assert_allclose(found, [theirs[key] for key in keys], rtol=2e-6)
    # The answers after a context that was pruned away, too.
    seen = ["every quiet lamp finds", "the boat sees the", "a river"]
    for context in seen:
        assert sum(p for _, p in jaxlm.next_words(run, context, 100)) == pytest.approx(1, abs=1e-9)
