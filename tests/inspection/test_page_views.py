"""What the views of a page collect, against the functions of jaxlm.inspection that compute it."""

import base64
import json
import random
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from cases import SIZES, START, V, cases
from numpy.testing import assert_allclose, assert_array_equal

import jaxlm
from jaxlm import inspection
from jaxlm.inspection.pages import (
    view_backoff,
    view_counts,
    view_exploding,
    view_gradients,
    view_learning,
    view_senses,
    view_surprise,
    view_unrolled,
    view_vectors,
)
from jaxlm.inspection.pages.html import asset
from jaxlm.inspection.pages.numbers import write_numbers
from jaxlm.inspection.pages.views import VIEWS, Options
from jaxlm.inspection.word_senses import senses
from jaxlm.inspection.word_vectors import map2d, neighbours, vectors
from jaxlm.models import MODELS, make_model
from jaxlm.runs.log import SAMPLES, read_records

LINES = (
    "the red apple fell on the old horse",
    "the old horse ate a red apple",
    "a red bird saw the apple",
)
TEXT = "\n".join(LINES)
OTHERS = (
    "gradients",
    "exploding",
    "unrolled",
    "vectors",
    "senses",
    "counts",
    "backoff",
    "learning",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(1)
    words = ["the", "a", "red", "old", "apple", "horse", "bird", "saw", "ate", "fell", "on"]
    for split, count in (("train", 60), ("valid", 10)):
        lines = [" ".join(draw.choices(words, k=draw.randint(4, 8))) for _ in range(count)]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return jaxlm.read_corpus(folder)


@pytest.fixture(scope="module")
def lstm(corpus, tmp_path_factory):
    vocabulary = corpus.vocabulary
    model = jaxlm.LSTM(
        len(vocabulary), vocabulary.start_id, embedding_size=3, hidden_size=4, num_layers=2
    )
    settings = {"batch_size": 4, "bptt": 8, "steps": 20, "log_every": 5, "eval_every": 10}
    folder = tmp_path_factory.mktemp("runs") / "lstm"
    return jaxlm.fit(model, corpus, folder=folder, quiet=True, **settings)


@pytest.fixture(scope="module")
def ngram(corpus):
    vocabulary = corpus.vocabulary
    model = jaxlm.NGram(len(vocabulary), vocabulary.start_id, order=4)
    return jaxlm.fit(model, corpus, quiet=True)


@pytest.fixture(scope="module")
def options():
    return Options(labels=("lstm", "ngram"))


def unpacked(packed):
    raw = base64.b64decode(packed["data"])
    return np.frombuffer(raw, np.dtype(packed["dtype"])).reshape(packed["shape"])


def only(found):
    """Return the one run of a view, whose other run is explained in both languages."""
    (shown,) = found["runs"]
    (why,) = found["without"]
    assert why["en"] and re.search("[\u4e00-\u9fff]", why["zh"])
    return shown


@pytest.mark.full
def test_gradients_are_those_of_gradient_by_lag(lstm, ngram, options):
    shown = only(view_gradients.collect([lstm, ngram], TEXT, options))
    lags = len(lstm.tokenizer.encode_context(TEXT)) // 2
    settings = {"positions": view_gradients.POSITIONS}
    trained = inspection.gradient_by_lag(lstm, TEXT, lags, **settings)
    untrained = inspection.gradient_by_lag(lstm, TEXT, lags, key=jax.random.key(0), **settings)
    for name, found in (("trained", trained), ("untrained", untrained)):
        assert_array_equal(shown[name]["lags"], np.arange(1, lags + 1))
        assert_array_equal(shown[name]["norms"], found.norms[1:])
        assert shown[name]["below"] == found.below_one_percent
    assert shown["name"] == "lstm" and shown["index"] == 0


@pytest.mark.full
def test_the_curves_of_each_radius_are_those_of_gradient_through_time(lstm, ngram, options):
    found = view_exploding.collect([ngram, lstm], TEXT, replace(options, labels=("ngram", "lstm")))
    (shown,) = found["runs"]
    assert shown["name"] == "lstm" and shown["index"] == 1 and shown["gated"]
    expected = inspection.gradient_through_time(
        lstm,
        TEXT,
        view_exploding.RADII,
        int(shown["lags"][-1]),
        start="fresh",
        positions=view_exploding.POSITIONS,
    )
    assert_array_equal(shown["norms"], expected.norms[:, 1:])
    steps = expected.linear.shape[1]
    assert_allclose(shown["linear"][:, :steps], expected.linear, rtol=1e-12)
    assert shown["linear"].shape[1] == view_exploding.STEPS + 1 > steps
    radii = np.array(found["radii"])
    assert (radii.min(), radii.max()) == (0.5, 1.5)
    kinds = dict(zip(radii.tolist(), shown["kinds"], strict=True))
    assert (kinds[0.9], kinds[1.0], kinds[1.1]) == ("vanishes", "kept", "explodes")
    assert view_exploding._kind(np.array([1.0, 101.0])) == "explodes"
    # The matrix alone needs no text.
    (short,) = view_exploding.collect([lstm], "the", options)["runs"]
    assert_array_equal(short["linear"], shown["linear"])
    assert short["kinds"] == shown["kinds"] and not len(short["lags"])


@pytest.mark.full
def test_the_unrolled_network_is_that_of_bptt(lstm, ngram, options):
    shown = only(view_unrolled.collect([lstm, ngram], TEXT, options))
    row = " ".join(TEXT.split()[:2])
    assert view_unrolled.row_of(lstm, row) == (row, 2)
    tokens = view_unrolled.MOST_TOKENS
    assert (shown["tokens"], shown["of_tokens"]) == (tokens, 23)
    unrolled = inspection.bptt(lstm, view_unrolled.row_of(lstm, TEXT)[0])
    assert shown["inputs"] == unrolled.inputs and len(shown["inputs"]) == tokens
    assert_array_equal(shown["losses"], unrolled.losses)
    assert shown["total"] == unrolled.total
    whole = np.concatenate([value.reshape(-1) for value in unrolled.gradient.values()])
    assert_allclose(shown["gradient_norm"], np.linalg.norm(whole), rtol=1e-6)
    both = np.sqrt(sum(np.square(pairs) for pairs in unrolled.pairs.values()))
    assert_allclose(shown["gradients"], both, rtol=1e-6)
    assert_array_equal(shown["states"], unrolled.states["layers_1/h"])
    # Without a cut nothing is left out; with a cut after one step, more than with a longer one.
    assert shown["left_out"][-1] == 0 and shown["left_out"][0] > shown["left_out"][4] > 0


def test_gradients_of_a_run_that_reads_lines_stay_within_a_line(lstm):
    text = "the bird\nthe horse fell on the apple on the bird\na bird"
    by_lines = jaxlm.by_lines(lstm)
    assert view_gradients.part_of(lstm, text) == text
    assert view_gradients.part_of(by_lines, text) == text.splitlines()[1]
    assert view_gradients.largest_lag(by_lines, text) == 4
    reason = view_gradients.reason(by_lines, "a red\nthe old")["en"]
    assert "the longest line of the text has 2" in reason
    last = replace(by_lines, protocol=replace(by_lines.protocol, last_only=True))
    assert "last token of each line alone" in view_gradients.reason(last, text)["en"]


def test_a_large_network_is_unrolled_over_fewer_steps(lstm, monkeypatch):
    kernels = inspection.gradients.recurrent_kernels(lstm.params, "lstm")
    weights = sum(kernel.size for kernel in kernels.values())
    monkeypatch.setattr(inspection.unrolled, "MOST_NUMBERS", 5 * weights)
    row, tokens = view_unrolled.row_of(lstm, TEXT)
    assert tokens == 5 and len(inspection.bptt(lstm, row).inputs) == 5


def test_runs_too_large_for_the_radii_are_named(lstm, monkeypatch):
    monkeypatch.setattr(view_exploding, "MOST_WEIGHTS", 0)
    names = replace(Options(), labels=("one", "two"))
    found = view_exploding.collect([lstm, lstm], "the", names)
    assert [run["name"] for run in found["runs"]] == ["one"]
    assert found["without"][0]["en"].startswith("two: ")


@pytest.mark.full
def test_a_run_that_reads_lines_is_unrolled_over_one_line(lstm):
    by_lines = jaxlm.by_lines(lstm)
    assert view_unrolled.row_of(by_lines, f"horse\n{LINES[1]}\n{LINES[0]}") == (LINES[1], 7)


def test_the_map_and_the_neighbours_are_those_of_the_vectors(lstm, ngram, options, monkeypatch):
    # With few frequent words some neighbours are not on the map.
    monkeypatch.setattr(view_vectors, "FREQUENT", 4)
    monkeypatch.setattr(view_vectors, "OF_TEXT", 3)
    shown = only(view_vectors.collect([lstm, ngram], TEXT, options))
    words, vectors_VD = vectors(lstm)
    names = shown["words"] + shown["others"]
    assert set(shown["words"]) >= {*words[:4], "the", "red", "apple"} and shown["others"]
    assert [word for word, of_text in zip(shown["words"], shown["in_text"], strict=True) if of_text]
    ids = [words.index(word) for word in shown["words"]]
    assert_allclose(unpacked(shown["xy"]), map2d(vectors_VD[ids]), atol=1e-6)
    for row, word in enumerate(shown["words"]):
        expected = neighbours(lstm, word, view_vectors.NEIGHBOURS)
        near = [names[index] for index in unpacked(shown["neighbours"])[row]]
        assert near == [name for name, _ in expected]
        assert_allclose(unpacked(shown["cosines"])[row], [c for _, c in expected], atol=1e-6)


def test_vectors_of_two_numbers_are_shown_as_they_are(corpus):
    model = jaxlm.LSTM(len(corpus.vocabulary), embedding_size=2, hidden_size=2)
    table = np.random.default_rng(0).normal(size=(model.vocab_size, 2)).astype(np.float32)
    run = jaxlm.Run(model, {"embedding": {"embedding": table}}, corpus.tokenizer)
    shown = view_vectors.map_of(run, np.array([1, 2]))
    assert shown["plane"] and shown["share"] == pytest.approx(1)
    # The word that is shown at first is the most frequent one of the text.
    for ids, first in (([1, 2, 2], 2), ([1, 2, 1], 1)):
        shown = view_vectors.map_of(run, np.array(ids))
        assert shown["words"][shown["first"]] == corpus.tokenizer.token_text(first)
    assert_array_equal(unpacked(shown["xy"]), vectors(run)[1])


@pytest.mark.full
def test_the_senses_are_those_of_the_occurrences_in_the_text(lstm, ngram, options):
    shown = only(view_senses.collect([lstm, ngram], TEXT, options))
    names = [one["word"] for one in shown["words"]]
    assert {"apple", "red", "horse"} <= set(names) and "bird" not in names
    apple = shown["words"][names.index("apple")]
    expected = senses(lstm, "apple", [TEXT])
    assert len(apple["occurrences"]) == 3
    assert_allclose(unpacked(apple["similarities"]), expected.similarities, atol=1e-5)
    assert_allclose(unpacked(apple["xy"]), map2d(expected.vectors), atol=1e-5)
    assert_allclose(apple["static"], expected.static[: view_senses.STATIC_NUMBERS])
    use = apple["occurrences"][1]
    assert use["before"] + use["word"] + use["after"] == LINES[1]
    assert {use["group"] for use in apple["occurrences"]} == {0, 1}


@pytest.mark.full
def test_the_lines_of_the_corpus_apple_have_their_senses(lstm, options, monkeypatch):
    line = view_senses.LINES[1]
    senses_of_lines = {LINES[0]: "company", LINES[1]: "fruit", LINES[2]: "fruit"}
    assert view_senses.SENSE_OF_LINE[line.text] == line.sense
    monkeypatch.setattr(view_senses, "SENSE_OF_LINE", senses_of_lines)
    found = view_senses.uses_of(lstm, TEXT, "apple", options)
    assert [use["label"] for use in found["occurrences"]] == ["company", "fruit", "fruit"]
    assert [use["group"] for use in found["occurrences"]] == [1, 0, 0]


def test_words_of_a_run_by_characters_are_words_and_pairs_of_chinese_characters():
    text = jaxlm.read_corpus(["苹果好吃 apple ale", "买苹果手机 apple ale"], tokens="chars")
    run = jaxlm.Run(None, None, text.tokenizer)
    found = view_senses.repeated_words(run, "苹果好吃 apple ale\n买苹果手机 apple ale")
    assert found == ["apple", "苹果", "ale"]
    assert view_senses.repeated_words(run, "ale ale ale apple apple") == ["apple", "ale"]


def test_a_word_that_is_asked_for_must_occur_twice(lstm, options):
    asked = replace(options, labels=("lstm",), word="bird")
    assert "'bird' fewer than twice" in view_senses.collect([lstm], TEXT, asked)["missing"]["en"]
    asked = replace(options, labels=("lstm",), word="horse")
    (shown,) = view_senses.collect([lstm], TEXT, asked)["runs"]
    assert [one["word"] for one in shown["words"]] == ["horse"]


def test_the_ladders_are_those_of_backoff(lstm, ngram, options):
    shown = only(view_backoff.collect([lstm, ngram], TEXT, options))
    trace = inspection.trace(ngram, TEXT)
    assert_allclose(shown["answers"], 2**-trace.surprisal, rtol=1e-9)
    context, contribution = unpacked(shown["context"]), unpacked(shown["numbers"]["contribution"])
    assert_allclose(np.nansum(contribution, axis=1), shown["answers"], rtol=1e-5)
    for place, (start, end) in enumerate(trace.spans):
        word = trace.tokens[place]
        if word == "<eos>":
            continue
        ladder = inspection.backoff(ngram, TEXT[:start], TEXT[start:end])
        for rung in ladder.rungs:
            column = shown["orders"].index(rung.order)
            assert unpacked(shown["numbers"]["weight"])[place, column] == np.float32(rung.weight)
            if rung.order:
                assert unpacked(shown["counts"]["pair"])[place, column] == rung.pair_count
                assert unpacked(shown["counts"]["context"])[place, column] == rung.context_count
        words = [shown["words"][index] for index in context[place] if index >= 0]
        assert tuple(words) == ladder.rungs[0].context
        rungs = int(np.isfinite(contribution[place]).sum())
        assert rungs == len(ladder.rungs)


def test_a_run_that_reads_lines_has_the_ladders_of_each_line(ngram):
    by_lines = jaxlm.by_lines(ngram)
    (shown,) = view_backoff.collect([by_lines], TEXT, Options(labels=("lines",)))["runs"]
    trace = inspection.trace(by_lines, TEXT)
    assert "<eos>" in trace.tokens
    assert_allclose(shown["answers"], 2**-trace.surprisal, rtol=1e-9)
    # A line break at the end of the text begins no line.
    (same,) = view_backoff.collect([by_lines], f"{TEXT}\n", Options(labels=("lines",)))["runs"]
    assert same["answers"][: len(shown["answers"])] == shown["answers"]


def test_bits_per_character_are_those_of_evaluate(tmp_path):
    """Only predicted tokens count: not the first word of a line where no start token is."""
    lines = ["the cat sat\n", "a dog saw the cat\n"]
    path = tmp_path / "text.txt"
    path.write_text("".join(lines))
    text = jaxlm.read_corpus(lines * 3, eos=False, fractions=(1.0,))
    model = jaxlm.LSTM(len(text.vocabulary), embedding_size=2, hidden_size=3)
    run = jaxlm.fit(model, text, batching="rows", steps=2, batch_size=2, quiet=True)
    (shown,) = view_surprise.collect([run], "".join(lines), Options(labels=("run",)))["runs"]
    found = jaxlm.perplexity(run, text=path)
    assert shown["predicted"] == found.tokens == 6
    expected = found.bits / found.size.characters
    assert_allclose(shown["bits_per_character"], expected, rtol=1e-5)


def test_the_vocabulary_of_the_numbers_has_the_texts_of_the_tokens(tmp_path):
    text = jaxlm.read_corpus(["我爱你\n", "你爱我\n"] * 3, tokens="bytes", fractions=(1.0,))
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    write_numbers(tmp_path / "n.json", [run], "我爱", Options(labels=("run",)))
    numbers = json.loads((tmp_path / "n.json").read_text("utf-8"))["run"]
    assert [numbers["vocabulary"][index] for index in numbers["ids"]] == numbers["tokens"]


def test_counts_are_those_of_the_training_text(lstm, ngram, corpus, options):
    shown = only(view_counts.collect([lstm, ngram], TEXT, options))
    arrays = {name: unpacked(packed) for name, packed in shown["arrays"].items()}
    trace = inspection.trace(ngram, TEXT)
    zeros = []
    for place, word in enumerate(trace.tokens):
        context = arrays["context_of"][place]
        before = [shown["words"][index] for index in arrays["contexts"][context]]
        inside = trace.tokens[max(0, place - 2) : place]
        assert (context >= 0) == (len(inside) == 2 and "<eos>" not in inside)
        if context < 0:
            continue
        assert before == inside
        expected = inspection.counts(corpus, " ".join(before))
        count, _ = expected.of(word)
        zeros += [place] * (count == 0)
        assert arrays["actual_times"][place] == count
        assert (arrays["total"][context], arrays["kinds"][context]) == (
            expected.total,
            len(expected.words),
        )
        listed = arrays["next"][context]
        top = tuple(shown["words"][index] for index in listed if index >= 0)
        assert top == expected.words[: view_counts.SHOWN]
        assert tuple(arrays["times"][context][: len(top)]) == expected.counts[: len(top)]
        p_V = view_counts.distribution(ngram, ngram.vocabulary.ids(before))
        seen = ngram.vocabulary.ids(expected.words)
        assert arrays["unseen"][context] == pytest.approx(1 - p_V[seen].sum(), abs=1e-6)
    assert zeros and shown["zeros"].tolist() == zeros


def test_a_smoothed_count_is_the_answer_to_two_words_alone(ngram):
    ids = ngram.tokenizer.encode_context("red apple")
    p_V = view_counts.distribution(ngram, ids)
    assert p_V.sum() == pytest.approx(1) and p_V.min() > 0
    # As the rungs of orders 3 and shorter say it, if no word stands before.
    third = next(rung for rung in inspection.backoff(ngram, "the red apple", "fell").rungs[1:])
    assert (third.order, third.context) == (3, ("red", "apple"))
    assert p_V[ngram.vocabulary.ids(["fell"])[0]] == pytest.approx(third.smoothed)


def test_contexts_stay_within_a_line(corpus):
    rows = jaxlm.read_corpus(corpus.name, eos=False)
    run = jaxlm.fit(jaxlm.NGram(len(rows.vocabulary), order=3), rows, quiet=True)
    (shown,) = view_counts.collect([run], TEXT, Options(labels=("rows",)))["runs"]
    context_of = unpacked(shown["arrays"]["context_of"])
    starts = [0, *np.cumsum([len(line.split()) for line in LINES])[:-1]]
    early = [start + offset for start in starts for offset in (0, 1)]
    assert np.flatnonzero(context_of < 0).tolist() == early


def test_a_run_without_its_text_has_no_counts():
    text = jaxlm.read_corpus(["a b c", "c a b"], fractions=(1.0,))
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
    found = view_counts.collect([run], "a b c", Options(labels=("kept",)))
    assert "keeps no text" in found["missing"]["en"]


def test_the_learning_curve_is_that_of_the_log(lstm, ngram, options):
    samples = [{"step": step, "text": f"the red {step}"} for step in range(30)]
    lines = [json.dumps(sample) for sample in samples]
    (lstm.folder / SAMPLES).write_text("\n".join(lines) + "\n")
    shown = only(view_learning.collect([lstm, ngram], TEXT, options))
    records = read_records(lstm.folder / "metrics.jsonl")
    train = [record for record in records if record["split"] == "train"]
    valid = [record for record in records if record["split"] == "valid"]
    assert [point["step"] for point in shown["train"]] == [5, 10, 15, 20]
    assert [point["loss"] for point in shown["train"]] == [record["loss"] for record in train]
    assert [point["norm"] for point in shown["train"]] == [record["grad_norm"] for record in train]
    assert_allclose(
        np.exp([point["loss"] for point in shown["valid"]]), [r["ppl"] for r in valid], rtol=1e-9
    )
    best = min(valid, key=lambda record: record["ppl"])
    assert shown["best"]["step"] == best["step"]
    assert len(shown["samples"]) == view_learning.MOST_SAMPLES
    assert (shown["samples"][0], shown["samples"][-1]) == (samples[0], samples[-1])


def test_a_long_log_is_thinned_out_between_its_ends():
    points = [{"step": step} for step in range(1000)]
    thinned = view_learning._thinned(points)
    assert len(thinned) == view_learning.MOST_POINTS
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])


def test_a_view_that_has_nothing_says_why_and_what_to_do(ngram, lstm):
    options = Options(labels=("it",))
    for name in ("gradients", "exploding", "unrolled", "vectors", "senses", "learning"):
        missing = VIEWS[name].collect([ngram], TEXT, options)["missing"]
        assert re.search(r"\b[Aa]dd a\b", missing["en"]), name
        assert "请加上一个" in missing["zh"], name
    for name in ("counts", "backoff"):
        missing = VIEWS[name].collect([lstm], TEXT, options)["missing"]
        assert "Add an n-gram" in missing["en"] and "请加上一个" in missing["zh"], name
    run = replace(lstm, folder=None)
    assert "Train" in VIEWS["learning"].collect([run], TEXT, options)["missing"]["en"]
    for name in ("gradients", "unrolled", "senses"):
        missing = VIEWS[name].collect([lstm], "the", options)["missing"]
        assert "text" in missing["en"] and "文本" in missing["zh"], name


@pytest.mark.parametrize("name", [*OTHERS, "charts"])
def test_every_text_of_a_script_is_there_in_both_languages(name):
    texts = json.loads(asset(f"text_{name}.json"))
    for key, both in texts.items():
        assert set(both) == {"en", "zh"} and all(both.values()), key
        assert set(re.findall(r"{(\w+)}", both["en"])) >= set(re.findall(r"{(\w+)}", both["zh"]))
    script = asset(f"{name}.js" if name == "charts" else VIEWS[name].script)
    used = set(re.findall(rf'"({name}\.\w+)"', script))
    assert used <= set(texts)


@pytest.mark.full
def test_the_words_of_each_table_of_layers_have_a_translation():
    terms = [key.removeprefix("about.term.") for key in json.loads(asset("text_about.json"))]
    longest_first = "|".join(sorted(terms, key=len, reverse=True))
    for case in cases():
        name, options = case.values
        fields = {size: n for size, n in SIZES.items() if size in MODELS[name].settings}
        table = make_model(name, fields | options, V, START).summary()
        for meaning in table.columns[-1].cells:
            rest = re.sub(rf"\b({longest_first})\b", "", meaning)
            words = set(re.findall("[a-z]{3,}", rest))
            assert words <= {"tanh", "softmax"}, f"{case.id}: {meaning}"
