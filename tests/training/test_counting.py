"""Settings of n-grams that the text does not allow."""

import pytest

import jaxlm
from jaxlm.errors import SettingError, UserError


def fit(text, **options):
    return jaxlm.fit(jaxlm.NGram(len(text.vocabulary), **options), text, quiet=True)


def test_a_stream_needs_a_token_that_ends_lines():
    text = jaxlm.read_corpus("toy", eos=False)
    with pytest.raises(SettingError, match="`stream` True: needs a token that ends each line: use"):
        fit(text, order=2, stream=True)
    run = fit(jaxlm.read_corpus("toy"), order=2, stream=True)
    assert jaxlm.perplexity(run).tokens == 12


@pytest.mark.parametrize(
    ("eos", "options", "helps"),
    [
        (True, {"order": 6}, True),  # the longest line has 5 tokens, its start included
        (True, {"order": 9}, True),
        (False, {"order": 5}, False),
        (True, {"order": 9, "stream": True}, None),
    ],
)
def test_the_error_suggests_stream_if_it_helps(eos, options, helps):
    text = jaxlm.read_corpus("toy", eos=eos)
    if helps is None:
        fit(text, **options)
        return
    with pytest.raises(SettingError, match="is larger than any line") as caught:
        fit(text, **options)
    assert ("or `stream`" in str(caught.value)) == helps


@pytest.mark.parametrize("stream", [False, True])
def test_the_error_does_not_suggest_stream_for_a_short_text(stream):
    text = jaxlm.read_corpus(["a", "b"])
    with pytest.raises(SettingError, match=r"use `order` [35] or less$"):
        fit(text, order=6, stream=stream)


def test_a_full_memory_is_one_line_and_frees_the_folder(tmp_path, monkeypatch):
    text = jaxlm.read_corpus("toy")
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)

    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("jaxlm.training.counting.count_within", full)
        with pytest.raises(UserError, match="the memory is full: count on disk with `memory`"):
            jaxlm.fit(model, text, folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
