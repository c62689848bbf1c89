"""The ladder of an n-gram's answer, and plain counts, against their definitions."""

import random

import numpy as np
import pytest
from rich.cells import cell_len

import jaxlm
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import encode_context
from jaxlm.inspection import backoff, counts, ladders
from jaxlm.inspection.backing_off import CONTINUATION_COUNT, COUNT, recount, token_ladders
from jaxlm.interop.arpa_runs import export_arpa, import_arpa
from jaxlm.ngrams.counts import count_ngrams
from jaxlm.ngrams.smoothing import SMOOTHINGS, modified_kneser_ney
from jaxlm.training.counting import sequences

# Contexts that were seen and not seen, at the start of a line, over a line end, and too long.
CONTEXTS = ("", "a", "b a", "e e e", "a b\nc", "c a b c a")
KINDS = {
    "lines": ({"eos": True}, {}),
    "stream": ({"eos": True}, {"stream": True}),
    "rows": ({"eos": False}, {}),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    draw = random.Random(3)
    lines = [" ".join(draw.choices("aaabbcde", k=draw.randint(4, 9))) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def trained(path, kind="lines", **settings):
    text_settings, more = KINDS[kind]
    text = jaxlm.read_corpus(path, fractions=(1.0,), **text_settings)
    vocabulary = text.vocabulary
    k = {"add_k": 0.3} if settings.get("smoothing") == "add-k" else {}
    model = jaxlm.NGram(
        len(vocabulary), vocabulary.start_id, **({"order": 4} | k | more | settings)
    )
    return jaxlm.fit(model, text, quiet=True)


def words_of(path, kind):
    """Return the words of the text as n-grams read it, with <s> at the start of each line."""
    lines = path.read_text().splitlines()
    if kind == "stream":
        return ["<eos> " + " <eos> ".join(lines) + " <eos>"]
    return [f"<s> {line}" + " <eos>" * (kind == "lines") for line in lines]


def occurrences(path, kind, ngram):
    """Return the tokens before each occurrence of an n-gram; "" at the beginning of a text."""
    found = []
    for line in words_of(path, kind):
        words = line.split()
        for start in range(len(words) - len(ngram) + 1):
            if tuple(words[start : start + len(ngram)]) == tuple(ngram):
                found.append(words[start - 1] if start else "")
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_contributions_sum_to_the_probability_of_every_next_word(path, smoothing, kind):
    run = trained(path, kind, smoothing=smoothing)
    for context in CONTEXTS:
        if kind == "rows" and "\n" in context:
            continue
        for word, probability in jaxlm.next_words(run, context, len(run.vocabulary)):
            ladder = backoff(run, context, word)
            assert abs(ladder.probability - probability) < 1e-9
            total = sum(rung.weight * rung.probability for rung in ladder.rungs)
            assert abs(total - probability) < 1e-9
            assert ladder.rungs[-1].order == 0 and not ladder.note.startswith("counts")
            assert all(rung.probability >= 0 and rung.weight >= 0 for rung in ladder.rungs)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_unigram_and_a_bigram_have_ladders_too(path, smoothing):
    for order in (1, 2):
        run = trained(path, smoothing=smoothing, order=order)
        for word, probability in jaxlm.next_words(run, "b a", len(run.vocabulary)):
            ladder = backoff(run, "b a", word)
            assert abs(ladder.probability - probability) < 1e-9
            assert [rung.order for rung in ladder.rungs] == list(range(order, -1, -1))
            assert ladders(run, f"b a {word}")[-1].rungs == ladder.rungs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", ["kneser-ney", "modified-kneser-ney", "witten-bell"])
def test_counts_are_those_of_the_text(path, smoothing, kind):
    run = trained(path, kind, smoothing=smoothing)
    kinds = set()
    for context in ("a b", "b a c", "a", ""):
        for word in ("a", "b"):
            for rung in backoff(run, context, word).rungs[:-1]:
                before = occurrences(path, kind, (*rung.context, word))
                if rung.kind == CONTINUATION_COUNT:
                    # A text begins with no word before it, which counts as no different word.
                    assert rung.pair_count == len(set(before) - {""})
                else:
                    assert rung.pair_count == len(before)
                kinds.add(rung.kind)
    expected = {COUNT} if smoothing == "witten-bell" else {COUNT, CONTINUATION_COUNT}
    assert kinds == expected


def test_discounts_and_terms_are_those_of_the_smoothing(path):
    run = trained(path, smoothing="modified-kneser-ney")
    text = jaxlm.read_corpus(path, fractions=(1.0,))
    found = count_ngrams(sequences(run.model, text), 4, len(run.vocabulary))
    discounts = modified_kneser_ney(found).discounts
    seen = 0
    for word in ("a", "b", "c", "d", "e"):
        for rung in backoff(run, "b a a", word).rungs[:-1]:
            if rung.pair_count:
                D = discounts[rung.order - 1][min(rung.pair_count, 3) - 1]
                assert abs(rung.discount - D) < 1e-9
                own = (rung.pair_count - D) / rung.context_count
                assert abs(rung.probability - own) < 1e-12
                seen += 1
            else:
                assert rung.discount == rung.probability == 0
    assert seen > 10


def test_a_ladder_says_which_orders_saw_the_pair(path):
    run = trained(path)
    ladder = backoff(run, "e e e", "a")
    assert [rung.order for rung in ladder.rungs] == [4, 3, 2, 1, 0]
    assert [len(rung.context) for rung in ladder.rungs] == [3, 2, 1, 0, 0]
    assert ladder.rungs[0].context == ("e", "e", "e") and not ladder.rungs[0].listed
    assert ladder.order == next(rung.order for rung in ladder.rungs if rung.listed)
    # Without a word, the ladder is that of the most probable word.
    assert backoff(run, "e e e").word == jaxlm.next_words(run, "e e e", 1)[0][0]
    # The start of a line has no rung for words before it.
    assert [rung.context for rung in backoff(run, "a").rungs] == [("<s>", "a"), ("a",), (), ()]


def test_a_run_of_an_arpa_file_has_probabilities_and_weights_without_counts(path, tmp_path):
    run = trained(path)
    export_arpa(run, tmp_path / "run.arpa")
    read = import_arpa(tmp_path / "run.arpa")
    for context in CONTEXTS:
        for word, probability in jaxlm.next_words(read, context, len(read.vocabulary)):
            ladder = backoff(read, context, word)
            assert abs(ladder.probability - probability) < 1e-9
            assert "ARPA" in ladder.note and "interpolates" in ladder.note
            for rung in ladder.rungs:
                assert rung.context_count is rung.pair_count is rung.discount is None
            # The longest listed n-gram gives the whole answer.
            giving = [rung.order for rung in ladder.rungs if rung.contribution]
            assert giving == [ladder.order]
    found = token_ladders(read, encode_context(read, "a b c").text_ids)
    assert np.isnan(found.count).all() and np.isnan(found.discount).all()


def test_counts_are_unknown_if_the_text_is_missing_or_changed(path, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text(path.read_text())
    trained(own).save(tmp_path / "run")
    run = jaxlm.load(tmp_path / "run")
    assert backoff(run, "a").rungs[0].pair_count > 0
    own.write_text(path.read_text() + "a a a a a\n")
    ladder = backoff(jaxlm.load(tmp_path / "run"), "a")
    assert "not the text of the training" in ladder.note
    own.unlink()
    run = jaxlm.load(tmp_path / "run")
    ladder = backoff(run, "a")
    # A long path is cut short.
    assert ladder.note.startswith("counts are unknown: ") and str(own)[:30] in ladder.note
    assert ladder.rungs[0].pair_count is None
    probability = jaxlm.next_words(run, "a", 1)[0][1]
    assert abs(ladder.probability - probability) < 1e-9
    # The text may be given.
    text = jaxlm.read_corpus(path, fractions=(1.0,), tokenizer=run.tokenizer)
    assert backoff(run, "a", text=text).rungs[0].pair_count > 0
    wrong = jaxlm.read_corpus(["a b c d e a b"], fractions=(1.0,), tokenizer=run.tokenizer)
    assert "not the text" in backoff(run, "a", text=wrong).note
    other = jaxlm.read_corpus(["a b c d e f g h i j"], fractions=(1.0,))
    assert "another vocabulary" in backoff(run, "a", text=other).note


def test_plain_counts_of_a_changed_text_are_an_error(path, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text(path.read_text())
    text = jaxlm.read_corpus(own, fractions=(1.0,))
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    run = jaxlm.fit(model, text, quiet=True, folder=tmp_path / "run")
    assert counts(run, "a") == counts(text, "a")
    own.write_text(path.read_text() + "a a a a a\n")
    # Plain counts have no note that says so.
    with pytest.raises(UserError, match=r"own\.txt was changed since"):
        counts(jaxlm.load(tmp_path / "run"), "a")
    assert "was changed since" in backoff(jaxlm.load(tmp_path / "run"), "a").note


def test_a_text_is_counted_once_for_a_run(path):
    run = trained(path)
    assert recount(run)[0] is recount(run)[0]


def test_a_text_is_counted_only_for_counts_and_only_if_it_is_short(path, monkeypatch):
    run = trained(path)
    found = jaxlm.inspection.trace(run, "a b c", counts=False).ngram
    assert np.isnan(found.count).all() and "not asked for" in found.note
    assert (
        found.order.tolist() == jaxlm.inspection.trace(trained(path), "a b c").ngram.order.tolist()
    )
    monkeypatch.setattr("jaxlm.inspection.backing_off.MOST_TOKENS", 3)
    assert "tokens, more than 3: give it as `text`" in backoff(run, "a").note
    assert not backoff(run, "a", text=jaxlm.read_corpus(path, fractions=(1.0,))).note


def test_counts_are_known_for_discounts_of_lmplz(path):
    text = jaxlm.read_corpus(path, fractions=(1.0,), unk="always")
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
    run = jaxlm.fit(model, text, quiet=True, like_lmplz=True)
    ladder = backoff(run, "a b", "c")
    assert not ladder.note and ladder.rungs[-1].order == 0
    known, note = recount(run)
    assert known is not None and not note
    # A word that never occurred has the uniform part alone.
    unseen = run.params.probabilities[0][run.vocabulary.unk_id]
    assert abs(unseen - known.uniform_weight / len(run.vocabulary)) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", ["modified-kneser-ney", "add-k"])
def test_the_ladders_of_a_text_are_those_of_each_context(path, smoothing, kind):
    run = trained(path, kind, smoothing=smoothing)
    words = list("bacabaeed")
    found = token_ladders(run, run.vocabulary.ids(words))
    assert not found.note and len(found.order) == len(words)
    whole = ladders(run, " ".join(words))
    assert len(whole) == len(words)
    for place, word in enumerate(words):
        ladder = backoff(run, " ".join(words[:place]), word)
        rung = next(rung for rung in ladder.rungs if rung.listed)
        assert whole[place].rungs == ladder.rungs and whole[place].word == word
        assert found.order[place] == rung.order
        assert found.count[place] == rung.pair_count
        np.testing.assert_allclose(found.discount[place], rung.discount, atol=1e-9)
        np.testing.assert_allclose(found.backoff_weight[place], rung.weight, atol=1e-12)


@pytest.mark.parametrize("kind", ["lines", "rows"])
def test_plain_counts_are_those_of_the_text(path, kind):
    text = jaxlm.read_corpus(path, fractions=(1.0,), **KINDS[kind][0])
    for context in ("", "a", "a b", "b a a", "e e e e e"):
        found = counts(text, context)
        wanted = tuple(context.split())
        for word in text.vocabulary.tokens:
            expected = len(occurrences(path, kind, (*wanted, word)))
            assert found.of(word)[0] == expected
        assert list(found.counts) == sorted(found.counts, reverse=True)
        assert found.never_seen == sum(
            not occurrences(path, kind, (*wanted, word)) for word in text.vocabulary.tokens
        )
        assert not found.total or abs(sum(found.frequencies) - 1) < 1e-12
    assert counts(trained(path, kind), "a") == counts(text, "a")


def test_a_context_that_never_occurred_has_no_frequency(path):
    text = jaxlm.read_corpus(path, fractions=(1.0,))
    found = counts(text, "e e e e e")
    assert found.of("a") == (0, None) and not found.total
    assert "0 / 0" in str(found)


def test_tables_fit_into_80_columns():
    lines = ["北风 與 太陽 " + "verylongword" * 3 + f" w{number}" for number in range(30)]
    text = jaxlm.read_corpus(lines, fractions=(1.0,))
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=6)
    run = jaxlm.fit(model, text, quiet=True)
    context = " ".join(lines[0].split()[:-1])
    printed = str(backoff(run, context, text=text)) + "\n" + str(counts(text, context))
    assert max(map(cell_len, printed.splitlines())) <= 80
    assert "…" in printed and "20 more" in printed


def test_a_text_with_another_vocabulary_gives_no_counts():
    text, other = (jaxlm.read_corpus(name, eos=False) for name in ("toy", "apple"))
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    ladder = backoff(run, "我", text=other)
    assert "apple has another vocabulary" in ladder.note and ladder.rungs[0].pair_count is None
    assert backoff(run, "我", text=text).rungs[0].pair_count == 1


def test_wrong_questions_are_answered_in_one_line(path):
    text = jaxlm.read_corpus(["a b", "b a"], fractions=(1.0,))
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    run = jaxlm.fit(model, text, quiet=True)
    with pytest.raises(UserError, match="keeps no text"):
        counts(run, "a")
    assert "keeps no text" in backoff(run, "a").note
    for word in ("a b", ""):
        with pytest.raises(UserError, match="tokens"):
            backoff(run, "a", word)
    with pytest.raises(UserError, match="'z' is not among"):
        backoff(run, "z")
    neural = jaxlm.Run(jaxlm.NPLM(len(text.vocabulary)), None, text.tokenizer)
    with pytest.raises(UserError, match="the model NPLM: only n-grams back off"):
        backoff(neural, "a")


def test_an_order_without_ngrams_has_ladders():
    """`--prune` leaves out every trigram of a small text; the report reads it all the same."""
    text = jaxlm.read_corpus("toy", eos=False)
    model = jaxlm.NGram(len(text.vocabulary), order=4)
    run = jaxlm.fit(model, text, prune=(0, 0, 1), quiet=True)
    assert run.params.sizes[1:] == (run.params.sizes[1], 0, 0)
    ids = run.vocabulary.ids(["我", "讨厌", "挨打"])
    found = token_ladders(run, ids)
    assert found.order.tolist() == [2, 2, 2]
    assert np.isfinite(found.count).all()
    ladder = backoff(run, "我 讨厌", "挨打")
    assert max(rung.order for rung in ladder.rungs if rung.pair_count) == 2
