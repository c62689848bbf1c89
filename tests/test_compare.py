"""The comparison of two runs: bits line by line, interval, p, and what is refused."""

import importlib
import itertools
import math
import tracemalloc
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from cases import build
from scipy import stats

import jaxlm
from jaxlm.data.tokenizers import Characters, Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.comparing import bootstrap_interval, permutation_p
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.starts import by_lines
from jaxlm.training.state import init_params

TEXT = "the cat sat on the mat\nthe dog sat on the log\na cat saw the dog\na dog\n" * 8
LINES = ["the cat sat", "a dog saw the cat", "", "on the mat", "the dog", "a log sat on the cat"]
QUICK = {"resamples": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "train.txt").write_text(TEXT)
    (folder / "test.txt").write_text("\n".join(LINES) + "\n")
    return folder


def ngram(folder, name="run", order=3, **options):
    """Return an n-gram over the text, with the name of a folder."""
    own = {key: options.pop(key) for key in ("stream", "smoothing") if key in options}
    text = jaxlm.read_corpus(folder / "train.txt", **options)
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=order, **own)
    return replace(jaxlm.fit(model, text, quiet=True), folder=folder / name)


def neural(name="lstm", seed=None, stretch=(3, 5, 12, 1, 0, 7, 12)):
    """Return a network with random parameters over the words w0 ... w11 and <eos>, id 12."""
    model, params = build(name, {})
    if seed is not None:
        noise = np.random.default_rng(seed)
        params = jax.tree.map(lambda a: a + noise.normal(0, 0.1, a.shape).astype("f"), params)
    words = tuple(f"w{index}" for index in range(model.vocab_size - 1))
    tokenizer = Words(Vocabulary((*words, EOS), start=EOS))
    settings = {"warm_start": list(stretch)} if stretch else {}
    return jaxlm.Run(model, params, tokenizer, settings=settings)


WORDS = ["w1 w2 w3", "w0", "w1 w2 w3", "w7 w7 w2 w4 w1 w8 w9 w3 w1", "w5 w6"]


@pytest.mark.parametrize("options", [{}, {"tokens": "chars"}, {"eos": False}])
def test_the_bits_are_those_of_perplexity(folder, options):
    a, b = (ngram(folder, f"{order}", order, **options) for order in (1, 3))
    found = jaxlm.compare(a, b, text=folder / "test.txt", **QUICK)
    for run, side in ((a, found.a), (b, found.b)):
        report = jaxlm.perplexity(by_lines(run), text=folder / "test.txt")
        assert side.bits.sum() == pytest.approx(report.bits, rel=1e-6)
        assert side.tokens_L.sum() == report.tokens
        assert side.bits_per_token == [pytest.approx(report.bits / report.tokens, rel=1e-6)]
        assert found.unit == "word" and found.units == report.size.words
        assert side.per(found.units)[0] == pytest.approx(report.bits / report.size.words)
    assert found.numbers == [1, 2, 4, 5, 6]
    assert found.mean == pytest.approx((found.b.bits - found.a.bits).mean())
    assert found.interval[0] < found.mean < found.interval[1]


@pytest.mark.parametrize("start", ["fresh", "warm"])
def test_the_bits_of_a_network_are_those_of_perplexity(start, tmp_path):
    a, b = neural("lstm"), neural("nplm")
    (tmp_path / "text.txt").write_text("\n".join(WORDS) + "\n")
    found = jaxlm.compare(a, b, text=WORDS, start=start, **QUICK)
    for run, side in ((a, found.a), (b, found.b)):
        report = jaxlm.perplexity(by_lines(run, start), text=tmp_path / "text.txt")
        assert side.bits.sum() == pytest.approx(report.bits, rel=1e-6)
    assert f"each line from the {start} state" in found.protocol


def test_words_and_characters_are_compared_by_line(folder):
    words, characters = ngram(folder, "words"), ngram(folder, "chars", tokens="chars")
    found = jaxlm.compare(words, characters, text=LINES, **QUICK)
    assert found.a.tokens_L.tolist() == [4, 6, 4, 3, 7]
    assert found.b.tokens_L.tolist() == [len(line) + 1 for line in LINES if line]
    assert found.units == 19


def test_a_run_does_not_differ_from_itself(folder):
    run = ngram(folder)
    found = jaxlm.compare(run, run, text=LINES, **QUICK)
    assert not found.difference.any()
    assert (found.mean, found.interval, found.p) == (0, (0, 0), 1)
    assert found.better is None and found.meaning.startswith("No difference is shown")
    assert found.largest("A") == found.largest("B") == []


def test_the_better_run_is_named(folder):
    a, b = ngram(folder, "one", 1), ngram(folder, "three", 3)
    lines = TEXT.splitlines()
    assert jaxlm.compare(a, b, text=lines).meaning.startswith("B is better: it needs ")
    found = jaxlm.compare(b, a, text=lines)
    assert found.better == "A" and found.mean > 0 and found.p == pytest.approx(1 / 10_001)
    # Of equal lines, the first stands for all.
    assert sorted(found.largest("A")) == [0, 1, 2]
    assert found.largest("B") == []


@pytest.mark.parametrize("seed", range(3))
def test_p_is_the_share_of_all_signs_that_are_as_extreme(seed):
    difference = np.random.default_rng(seed).normal(0.5, 1, 9)
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    means = signs @ difference / 9
    expected = np.mean(np.abs(means) >= abs(difference.mean()) - 1e-12)
    assert permutation_p(difference) == pytest.approx(expected)
    by_scipy = stats.permutation_test((difference,), np.mean, permutation_type="samples").pvalue
    assert permutation_p(difference) == pytest.approx(by_scipy)
    # With fewer draws than signs, the share is an estimate, and never 0.
    assert permutation_p(difference, resamples=400, seed=seed) == pytest.approx(expected, abs=0.1)
    assert permutation_p(np.arange(1.0, 40.0), resamples=200) == pytest.approx(1 / 201)


def test_the_interval_is_that_of_resampled_lines():
    generator = np.random.default_rng(1)
    difference, words = generator.exponential(2, 60), generator.integers(1, 9, 60)
    rows = generator.integers(0, 60, (20_000, 60))
    width = np.ptp(np.quantile(difference[rows].mean(1), [0.025, 0.975]))
    for found, values in (
        (bootstrap_interval(difference), difference[rows].mean(1)),
        (bootstrap_interval(difference, words), difference[rows].sum(1) / words[rows].sum(1)),
    ):
        assert found == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.05 * width)
    assert bootstrap_interval(difference, seed=1) == bootstrap_interval(difference, seed=1)
    assert bootstrap_interval(difference, seed=1) != bootstrap_interval(difference, seed=2)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.normal(0.3, 1, 40), resamples=300)
        inside += low <= 0.3 <= high
    assert 175 <= inside <= 199


def test_random_signs_give_the_p_of_scipy():
    difference = np.random.default_rng(3).normal(0.15, 1, 100)
    options = {"permutation_type": "samples", "n_resamples": 5000, "rng": 1}
    by_scipy = stats.permutation_test((difference,), np.mean, **options).pvalue
    assert 0.01 < by_scipy < 0.5
    assert permutation_p(difference) == pytest.approx(by_scipy, rel=0.15)


def test_the_arrays_of_resamples_are_bounded():
    """Of 40,000 lines, 200 resamples at once would take 64 MB, and 10,000 resamples 3 GB."""
    difference = np.random.default_rng(0).normal(0, 1, 40_000)
    for function in (bootstrap_interval, permutation_p):
        function(difference[:9], resamples=100)
        tracemalloc.start()
        function(difference, resamples=200)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50e6


@pytest.mark.full
def test_seeds_have_a_mean_and_a_deviation():
    seeds, other = [neural("nplm", seed) for seed in range(3)], neural("lstm")
    found = jaxlm.compare(other, seeds, text=WORDS, **QUICK)
    alone = [jaxlm.compare(other, run, text=WORDS, **QUICK) for run in seeds]
    each = [item.b.bits_per_token[0] for item in alone]
    assert found.b.bits_per_token == pytest.approx(each)
    mean, deviation = found.b.per(found.b.tokens_L.sum())
    assert (mean, deviation) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    assert found.a.per(1)[1] is None
    assert found.difference == pytest.approx(np.mean([item.difference for item in alone], axis=0))


def test_one_side_has_runs_of_one_setting(folder):
    a, b = ngram(folder, "one", 1), ngram(folder, "three", 3)
    with pytest.raises(UserError, match=r"side B must differ by .*one and .*three differ in "):
        jaxlm.compare(a, [a, b], text=LINES)
    with pytest.raises(UserError, match="is twice on side A: give each run once"):
        jaxlm.compare([a, a], b, text=LINES)
    with pytest.raises(UserError, match="side B has no run"):
        jaxlm.compare(a, [], text=LINES)


def unequal(a, b, text=LINES, **options):
    """Return the message of the refusal; both orders are refused, in one line with both names."""
    texts = []
    for runs in ((a, b), (b, a)):
        with pytest.raises(UserError) as error:
            jaxlm.compare(*runs, text=text, **options)
        message = str(error.value)
        assert "\n" not in message and "the protocols are unequal" in message
        assert a.name in message and b.name in message
        texts.append(message)
    return texts[0]


def test_the_last_token_alone_is_not_compared_with_all(folder):
    run = ngram(folder, "all")
    last = replace(run, protocol=Protocol(True, True), folder=folder / "last")
    assert "last predicts the last token of each line alone, and " in unequal(run, last)
    found = jaxlm.compare(last, last, text=LINES, **QUICK)
    assert found.units is None and found.unit_interval is None
    assert found.a.tokens_L.tolist() == [1] * 5


def test_the_first_token_must_be_predicted_by_both_or_by_none(folder):
    run, without = ngram(folder, "start"), ngram(folder, "none", eos=False)
    message = unequal(run, without)
    assert "start predicts the first word of line 1 ('the cat sat')" in message
    assert "none predicts only what follows 'the'" in message
    # Without a start token, the context is the first character or the first word.
    characters = ngram(folder, "chars", tokens="chars")
    plain = Characters(Vocabulary(characters.vocabulary.tokens))
    characters = replace(characters, tokenizer=plain)
    assert "predicts only what follows 't'" in unequal(characters, without)
    # The first words have one letter, so that both predict the same words; but one has no end.
    message = unequal(characters, without, ["a cat", "a dog"])
    assert "chars predicts the end of each line, and " in message


def test_a_fresh_start_is_not_compared_with_a_warm_one(folder):
    warm, fresh = neural(), replace(neural(stretch=None), folder=folder / "fresh")
    message = unequal(warm, fresh, WORDS)
    assert "fresh starts each line fresh, and LSTM starts each line warm" in message or (
        "LSTM starts each line warm, and " in message
    )
    assert "give `start` fresh for both" in message
    found = jaxlm.compare(warm, fresh, text=WORDS, start="fresh", **QUICK)
    assert found.mean == 0 and "from the fresh state" in found.protocol


def test_unknown_words_must_be_the_same(folder):
    few = ngram(folder, "few", vocab_size=6)
    more = ngram(folder, "more", vocab_size=8)
    every = ngram(folder, "every", unk="always")
    characters = ngram(folder, "chars", tokens="chars")
    message = unequal(few, characters)
    assert "tokens as <unk>, and " in message and "give `known_only`" in message
    assert "tokens as <unk>" in unequal(few, more)
    lines = [*LINES, "the dog sat on the dog", "a dog sat"]
    known = [line for line in lines if line and {*line.split()} <= {*few.vocabulary.tokens}]
    found = jaxlm.compare(few, characters, text=lines, known_only=True, **QUICK)
    assert 2 <= len(known) < 7 and found.lines == known
    assert f"{7 - len(known)} with <unk>" in found.protocol and "; 0 <unk>;" in found.protocol
    # The same words are unknown, but the vocabularies differ.
    lines = ["the zebra", "zebra the"]
    assert "<unk> stands for different words" in unequal(few, every, lines)
    # One vocabulary: <unk> is a word like others.
    other = replace(ngram(folder, "few", 2, vocab_size=6), folder=folder / "other")
    assert jaxlm.compare(few, other, text=LINES, **QUICK).a.tokens_L.sum() == 24


def test_as_many_other_unknown_words_are_refused(folder):
    def run(*words):
        text = jaxlm.read_corpus([" ".join(words)] * 9, unk="always")
        model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=1)
        return replace(jaxlm.fit(model, text, quiet=True), folder=folder / "-".join(words))

    message = unequal(run("a", "b"), run("a", "c"), ["a b", "a c"])
    assert "read different words as <unk>, 1 each" in message


def test_white_space_that_one_run_skips_is_refused(folder):
    words, characters = ngram(folder, "words"), ngram(folder, "chars", tokens="chars")
    for line in ("the  cat", " the cat", "the cat "):
        message = unequal(words, characters, ["a dog", line])
        assert f"predicts all the white space of line 2 ({line!r})" in message
    assert jaxlm.compare(characters, characters, text=["a dog", "the  cat"], **QUICK).mean == 0


def test_infinite_bits_are_refused(folder):
    plain, exact = ngram(folder, "plain"), ngram(folder, "exact", smoothing="maximum-likelihood")
    with pytest.raises(UserError, match=r"exact gives \d+ lines? probability 0"):
        jaxlm.compare(plain, exact, text=LINES)


def test_bad_settings_are_refused(folder):
    run = ngram(folder)
    for text in (["the cat"], ["the cat", ""]):
        with pytest.raises(UserError, match="at least 2 lines"):
            jaxlm.compare(run, run, text=text)
    with pytest.raises(UserError, match="choose one of fresh, warm"):
        jaxlm.compare(run, run, text=LINES, start="carried")
    for name, value in {"resamples": 9, "seed": -1, "encoding": "utf-8"}.items():
        with pytest.raises(SettingError, match=name):
            jaxlm.compare(run, run, text=LINES, **{name: value})


def command(*argv):
    return importlib.import_module("jaxlm.compare").main([str(word) for word in argv])


@pytest.fixture(scope="module")
def saved(folder):
    """Folders of two n-grams, and a folder with three untrained NPLMs by their seeds."""
    for order in (1, 3):
        found = ngram(folder, "x", order)
        found.save(folder / f"saved-{order}")
    vocabulary = found.vocabulary
    model = jaxlm.NPLM(
        len(vocabulary), vocabulary.start_id, n_step=2, embedding_size=4, hidden_size=4
    )
    for seed in range(3):
        params = init_params(model, jax.random.key(seed))
        run = jaxlm.Run(model, params, found.tokenizer, settings={"text": {}})
        run.save(folder / f"seeds/seed-{seed}")
    return folder


@pytest.mark.full
def test_the_folder_of_seeds_is_read(folder, tmp_path):
    text = jaxlm.read_corpus(folder / "train.txt")
    model = jaxlm.NPLM(len(text.vocabulary), text.vocabulary.start_id, n_step=2)
    sweep = {"lr": [0.1, 0.2]}
    options = {"steps": 2, "batch_size": 2, "bptt": 4, "quiet": True}
    jaxlm.fit_many(model, text, seeds=2, sweep=sweep, folder=tmp_path / "runs", **options)
    text = ("--text", folder / "test.txt", "--resamples", 200)
    one = f"{tmp_path}/runs/lr-0.1-*"
    assert command(one, f"{tmp_path}/runs/lr-0.2-*", *text) == 0
    with pytest.raises(UserError, match="differ in optimizer"):
        command(one, tmp_path / "runs", *text)


def test_the_command_prints_80_columns_and_writes_the_lines(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    out = tmp_path / "differences.tsv"
    (tmp_path / "text.txt").write_text(f"{TEXT}{' '.join(['the cat sat'] * 9)}\n")
    a, b = saved / "saved-1", saved / "saved-3"
    assert command(a, b, "--text", tmp_path / "text.txt", "--out", out, "--resamples", 200) == 0
    printed = capsys.readouterr().out
    assert (
        "B is better: it needs" in printed
        and "│ per word  │" in printed
        and "Counted: 33 lines" in printed
    )
    # Sentences and paths are not cut, so that a terminal wraps them.
    whole = ("A:", "B:", "text:", "B is", "Counted:", "differences:")
    table = [line for line in printed.splitlines() if not line.startswith(whole)]
    assert len(table) > 10 and max(map(len, table)) <= 80
    number, bits, *words = next(line for line in table if line.rstrip().endswith("…")).split()
    assert int(number) == 33 and words[:3] == ["the", "cat", "sat"]
    found = pd.read_csv(out, sep="\t")
    assert list(found.columns) == [
        "line", "text", "tokens_a", "tokens_b", "bits_a", "bits_b", "difference",
    ]  # fmt: skip
    assert len(found) == 33
    assert float(bits) == pytest.approx(abs(found.difference[32]), abs=0.006)
    assert np.allclose(found.difference, found.bits_b - found.bits_a, atol=2e-6)
    report = jaxlm.perplexity(by_lines(jaxlm.load(a)), text=tmp_path / "text.txt")
    assert math.isclose(found.bits_a.sum(), report.bits, rel_tol=1e-5)


def test_lines_are_printed_as_they_are(tmp_path, capsys):
    lines = ["a [red] cat", "a [/] dog", "a\tcat"]
    text = jaxlm.read_corpus(lines * 4)
    for order in (1, 2):
        model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=order)
        jaxlm.fit(model, text, quiet=True).save(tmp_path / f"{order}")
    (tmp_path / "text.txt").write_text("\n".join(lines))
    command(tmp_path / "1", tmp_path / "2", "--text", tmp_path / "text.txt")
    printed = capsys.readouterr().out
    assert "a [red] cat" in printed and "a [/] dog" in printed and r"a\tcat" in printed


@pytest.mark.full
@pytest.mark.parametrize("form", ["folder", "pattern", "commas"])
def test_the_command_takes_seeds(saved, form, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folder = saved / "seeds"
    name = {
        "folder": folder,
        "pattern": f"{folder}/seed-*",
        "commas": ",".join(f"{folder}/seed-{seed}" for seed in range(3)),
    }[form]
    text = ("--text", saved / "test.txt", "--start", "fresh", "--resamples", 200)
    assert command(saved / "saved-3", name, *text) == 0
    printed = capsys.readouterr().out
    assert "(3 runs)" in printed and "±" in printed
    assert len(printed.split("B: bits per token by run: ")[1].splitlines()[0].split()) == 3


def test_the_command_refuses_what_it_cannot_compare(saved):
    run, text = saved / "saved-3", ("--text", saved / "test.txt")
    for argv, message in {
        (run, *text): "name two runs, not 1",
        (run, run): "give the text",
        (run, f"{saved}/none-*", *text): "no run has a folder like",
        (
            ",".join(f"{'很长的名字' * 4}-{number}" for number in range(9)),
            run,
            *text,
        ): "is not a run",
        (run, run, *text, "--out", saved): "no file",
        (run, run, *text, "--out", saved / "no/x.tsv"): "no folder",
        (run, saved, *text): "must differ by their seeds alone",
    }.items():
        with pytest.raises(UserError, match=message):
            command(*argv)
