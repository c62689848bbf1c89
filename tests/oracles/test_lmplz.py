"""Discounts against the output of KenLM's lmplz, which was run once: lmplz -o 4 -S 200M < text."""

import random

import numpy as np
import pytest

import jaxlm
from jaxlm.errors import SettingError
from jaxlm.ngrams.counts import Sequences, count_ngrams
from jaxlm.ngrams.lmplz import last_ngrams
from jaxlm.ngrams.smoothing import modified_kneser_ney

INSIDE = [["w0", "w1", "last"]] * 2 + [["w2", "w0", "w1", "last"]]
AT_START = [["last"]] * 3
LMPLZ = {
    "inside": [
        [0.274336, 1.15692, 2.4252],
        [0.782394, 1.16782, 1.95681],
        [0.938217, 1.59791, 1.49885],
        [0.984127, 1.15646, 3.0],
    ],
    "at the start of a line": [
        [0.274336, 1.15692, 2.4252],
        [0.782394, 1.16782, 1.95681],
        [0.939876, 1.66828, 1.12025],
        [0.986333, 1.50683, 3.0],
    ],
}


def sentences(end):
    """Return 300 random sentences, then the sentences `end`, whose last word is new."""
    draw = random.Random(1)

    def line():
        return [f"w{int(200 * draw.random() ** 3)}" for _ in range(draw.randint(1, 7))]

    return [line() for _ in range(300)] + end


@pytest.mark.parametrize(
    ("end", "name"), [(INSIDE, "inside"), (AT_START, "at the start of a line")]
)
def test_discounts_equal_those_of_lmplz(end, name):
    lines = [[*line, "</s>"] for line in sentences(end)]
    # The ids are in another order than lmplz's.
    ids = {word: index for index, word in enumerate(sorted({w for line in lines for w in line}))}
    end_id, V = ids["</s>"], len(ids) + 1
    text = Sequences.lines(np.array([ids[w] for line in lines for w in line]), end_id, V)
    counts = count_ngrams(text, 4, V)
    raw = last_ngrams(text, counts, end_id, unk_id=V - 1)
    found = np.array(modified_kneser_ney(counts, raw=raw).discounts)
    np.testing.assert_allclose(found, LMPLZ[name], atol=6e-6)
    by_definition = np.array(modified_kneser_ney(counts).discounts)
    assert np.abs(by_definition - found).max() > 0.01


def test_like_lmplz_is_a_setting_of_counting(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(" ".join(line) + "\n" for line in sentences(INSIDE)))
    text = jaxlm.read_corpus(path, fractions=(1.0,))
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
    plain = jaxlm.fit(model, text)
    like = jaxlm.fit(model, text, like_lmplz=True, folder=tmp_path / "run")
    assert jaxlm.load(tmp_path / "run").settings["counting"]["like_lmplz"]
    with pytest.raises(jaxlm.UserError, match="counted with `like_lmplz` True, not False"):
        jaxlm.fit(model, text, folder=tmp_path / "run", resume=True)
    scores = [jaxlm.perplexity(run, "train").nats_per_token for run in (plain, like)]
    assert 0 < abs(scores[0] - scores[1]) < 0.05


@pytest.mark.parametrize(
    "options", [{"smoothing": "witten-bell"}, {"stream": True}, {"order": 2, "eos": False}]
)
def test_like_lmplz_needs_what_lmplz_estimates(options):
    eos = options.pop("eos", True)
    text = jaxlm.read_corpus(["a b c", "a b d"], fractions=(1.0,), eos=eos)
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, **options)
    with pytest.raises(SettingError, match="`like_lmplz`"):
        jaxlm.fit(model, text, like_lmplz=True)
