"""Log-likelihoods of continuations and documents, by the sum over their tokens; stop texts."""

import itertools
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.continuations import Generation, continuations, continued, documents
from jaxlm.models import make_model

LINES = ["the cat sat on the mat", "the dog sat on the log", "a cat saw the dog's tail."]
TEXT = "".join(f"{line}\n" for line in LINES * 3)
UNITS = ("words", "chars", "bytes", "bpe")


def text_of(tokens, **options):
    options |= {"vocab_size": 300} if tokens == "bpe" else {}
    options |= {"unk": "always"} if tokens in ("words", "chars") else {}
    return jaxlm.read_corpus(TEXT.splitlines(), tokens=tokens, fractions=(1.0,), **options)


def counted(tokens="words", stream=True, **options):
    text = text_of(tokens, **options)
    model = jaxlm.NGram(len(text.vocabulary), order=3, stream=stream)
    return jaxlm.fit(model, text, quiet=True)


def neural(kind="lstm", tokens="words", rows=False, **options):
    """Return a run with random parameters, which keeps a stretch of text."""
    text = text_of(tokens)
    settings = {"embedding_size": 4, "hidden_size": 5} | options
    model = make_model(kind, settings, len(text.vocabulary), text.vocabulary.start_id)
    params = model.init(jax.random.key(1), np.zeros((1, 2), np.int32))["params"]
    params = jax.tree.map(lambda leaf: 5 * leaf, params)
    ids = text.tokenizer.encode([f"{LINES[1]}\n"])
    return jaxlm.Run(
        model, params, text.tokenizer, jaxlm.Protocol(rows), {"warm_start": ids.tolist()}
    )


RUNS = {
    **{f"ngram {tokens}": lambda tokens=tokens: counted(tokens) for tokens in UNITS},
    "lstm words": neural,
    "lstm bytes": lambda: neural(tokens="bytes"),
    "nplm bpe": lambda: neural("nplm", "bpe", n_step=3),
}


@pytest.fixture(params=RUNS, scope="module")
def run(request):
    return RUNS[request.param]()


def word_by_word(run, context, continuation, start):
    """Return the log-likelihood and the greediness, by a session that reads token by token."""
    session = jaxlm.Session(run, start)
    border = len(context.rstrip())
    total, greedy = 0.0, True
    whole = context + continuation
    ids = run.tokenizer.encode_context(whole)
    for id_, (_, end) in zip(ids, run.tokenizer.spans(whole), strict=True):
        log_probs_V = session._log_probs_V
        if end > border:
            total += float(log_probs_V[id_])
            greedy &= int(np.argmax(log_probs_V)) == id_
        session._read(int(id_))
    return total, greedy


@pytest.mark.quick_for("ngram words", "lstm bytes")
def test_a_continuation_is_the_sum_over_its_tokens(run):
    requests = [
        ("the cat", " sat on"),
        ("the cat ", "sat on"),
        ("", "the mat\n"),
        ("the dog sat\nthe c", "at"),
        ("a cat saw\n", "the dog"),
        ("the cat sat on the", " mat\n"),
    ]
    for start in ("fresh", "warm"):
        found = continuations(run, requests, start=start)
        for request, item in zip(requests, found, strict=True):
            total, greedy = word_by_word(run, *request, start)
            assert item.log_prob == pytest.approx(total, abs=1e-5)
            assert item.greedy == greedy
    # White space at the end of the context belongs to the continuation.
    assert found[0] == found[1]


@pytest.mark.parametrize("run", [f"ngram {unit}" for unit in UNITS] + ["lstm words"], indirect=True)
@pytest.mark.quick_for("ngram words")
def test_greedy_decoding_writes_what_is_said_to_be_greedy(run):
    (text,) = continued(run, [("the cat", Generation(length=6))])
    other = text[:-1] + ("z" if text[-1] != "z" else "y")
    requests = [("the cat", text), ("the cat", ""), ("the cat", other)]
    whole, nothing, wrong = continuations(run, requests)
    assert whole.greedy and not wrong.greedy and nothing == (0.0, True)


def test_of_two_likeliest_tokens_greedy_decoding_chooses_the_first():
    run = neural()
    run = replace(run, params=jax.tree.map(np.zeros_like, run.params))
    words = run.vocabulary.tokens
    found = continuations(run, [("the cat", f" {word}") for word in words[:3]])
    assert [item.greedy for item in found] == [True, False, False]
    assert {round(item.log_prob, 5) for item in found} == {round(-math.log(len(words)), 5)}


@pytest.mark.quick_for("ngram words")
def test_the_parts_of_a_document_sum_to_the_document(run):
    lines = TEXT.splitlines()[:4]
    first, rest = "\n".join(lines[:2]), "\n" + "\n".join(lines[2:]) + "\n"
    for start in ("fresh", "warm"):
        (whole,) = documents(run, [first + rest], start=start)
        parts = continuations(run, [("", first), (first, rest)], start=start)
        assert sum(part.log_prob for part in parts) == pytest.approx(whole, abs=1e-4)


@pytest.mark.quick_for("ngram words")
def test_a_document_has_the_bits_that_perplexity_reports(run, tmp_path):
    texts = [TEXT, "the cat\n\n  the dog\n", "the mat"]
    found = documents(run, [*texts, "", " "], start="fresh")
    for text, value in zip(texts, found, strict=False):
        (tmp_path / "text.txt").write_text(text)
        report = jaxlm.perplexity(run, text=tmp_path / "text.txt")
        assert -value == pytest.approx(report.nll, rel=1e-6)
    assert found[3] == 0
    for start in ("fresh", "warm"):
        by_line = jaxlm.by_lines(run, start)
        (tmp_path / "text.txt").write_text(f"{LINES[0]}\n")
        report = jaxlm.perplexity(by_line, text=tmp_path / "text.txt")
        (value,) = documents(run, [f"{LINES[0]}\n"], start=start)
        assert -value == pytest.approx(report.nll, rel=1e-6)


@pytest.mark.full
def test_a_run_by_lines_reads_each_line_from_the_start():
    run = neural(rows=True)
    alone, after, carried = (
        continuations(item, [(context, " sat")], start="fresh")[0]
        for item, context in (
            (run, "the cat"),
            (run, "a dog\n\nthe cat"),
            (neural(), "a dog\n\nthe cat"),
        )
    )
    assert alone == after and after.log_prob != pytest.approx(carried.log_prob, abs=1e-4)
    (both,) = documents(run, ["the cat\n\nthe dog\n"], start="fresh")
    parts = documents(run, ["the cat", "the dog"], start="fresh")
    assert both == pytest.approx(sum(parts), abs=1e-5)
    prompts = [(context, Generation(length=40)) for context in ("a dog\nthe cat", "the cat")]
    first, second = continued(run, prompts, start="fresh")
    assert first == second and "\n" not in first


@pytest.mark.quick_for("ngram words")
def test_scores_are_those_of_pairs(run):
    pairs = [("the cat sat on the mat", "the cat sat the on mat"), ("a dog", "a dog")]
    for start in ("fresh", "warm"):
        scores = jaxlm.pairs(run, pairs, start=start)
        asked = [("", f"{text}\n") for pair in pairs for text in pair]
        found = [item.log_prob for item in continuations(run, asked, start=start)]
        assert found == list(itertools.chain(*zip(scores.good[0], scores.bad[0], strict=True)))


@pytest.mark.full
def test_split_words_as_the_training_text_is_split():
    pytest.importorskip("nltk")
    run = counted(stream=False)
    split, plain = (
        continuations(run, [("a cat saw the dog", text)], split=name)[0].log_prob
        for text, name in (("'s tail.", "treebank"), (" 's tail .", "none"))
    )
    assert split == plain


@pytest.mark.quick_for("ngram words")
def test_a_continuation_stops_before_the_first_stop_text(run):
    (long,) = continued(run, [("the", Generation(length=70))])
    stop = long[5:7]
    how = Generation(length=70, until=("never there", stop, ""))
    found = continued(run, [("the", how), ("the", Generation(length=3)), ("the", how)])
    assert found[0] == found[2] == long[: long.index(stop)]
    assert long.startswith(found[1])


def test_samples_depend_on_the_seed_alone():
    run = counted("chars")
    requests = [("the cat", Generation(length=20, temperature=1.0))] * 3
    first, again, other = (continued(run, requests, seed=seed) for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 3
    cold = replace(requests[0][1], top_k=1)
    greedy = replace(requests[0][1], temperature=0.0)
    assert len(set(continued(run, [("the cat", cold), ("the cat", greedy)]))) == 1


@pytest.mark.quick_for("ngram words", "lstm words")
def test_a_sample_does_not_depend_on_the_other_requests(run):
    # Contexts of other lengths and of the same length, and more tokens than one piece.
    warm = Generation(length=40, temperature=1.0, top_p=0.9)
    contexts = ["the cat", "a", "the dog", "a cat sat on the mat", "the", "the cat"]
    together = continued(run, [(context, warm) for context in contexts], seed=3)
    alone = [continued(run, [(context, warm)], seed=3)[0] for context in contexts]
    assert together[:5] == alone[:5]
    assert together[5] != together[0] == alone[5]


def test_a_first_token_without_a_start_token_is_context():
    run = counted(eos=False, stream=False)
    with pytest.raises(UserError, match="predicts no token of 'the'"):
        continuations(run, [("", "the")])
    first, second = continuations(run, [("", "the cat"), ("the", " cat")])
    assert first.log_prob == second.log_prob < 0


def test_refusals():
    last = replace(neural(), protocol=jaxlm.Protocol(rows=True, last_only=True))
    for ask in (continuations, documents, continued):
        with pytest.raises(UserError, match="last word of each line alone"):
            ask(last, [])
    run = replace(neural(), settings={})
    with pytest.raises(SettingError, match="keeps none"):
        continuations(run, [("a", " b")], start="warm")
    with pytest.raises(UserError, match="unknown split"):
        documents(run, ["a"], split="ptb")
    with pytest.raises(SettingError, match="temperature"):
        continued(run, [("a", Generation(temperature=-1.0))])
    damaged = replace(run, params=jax.tree.map(lambda leaf: leaf * np.nan, run.params))
    with pytest.raises(UserError, match="damaged"):
        continuations(damaged, [("a", " cat")])
    assert continuations(run, []) == [] and documents(run, []) == [] and continued(run, []) == []
