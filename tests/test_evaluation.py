"""Reports of perplexity: counts, units and the protocol."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.data.encoding import Split
from jaxlm.data.sources import EmbeddedText
from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import Vocabulary
from jaxlm.evaluation.perplexity import open_split, report, score, write_per_token
from jaxlm.evaluation.scoring import TokenScores
from jaxlm.runs.protocol import Protocol
from jaxlm.training.state import init_params

TEXT = "the cat <unk> on\n\nthe mat\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(TEXT * (3 if split == "train" else 1))
    return folder


def untrained(folder, **options):
    text = jaxlm.read_corpus(str(folder), **options)
    model = jaxlm.GRU(vocab_size=len(text.vocabulary), embedding_size=4, hidden_size=4)
    params = init_params(model, jax.random.key(0))
    return jaxlm.Run(model, params, text.tokenizer, settings={"text": {"corpus": str(folder)}})


def test_a_report_has_exact_sums_and_counts(folder):
    run = untrained(folder)
    split = open_split(run)
    assert split.name.endswith("test")
    scores = score(run, split)
    found = report(run, split, scores)
    assert found.tokens == len(scores.log_prob) == 9  # 6 words and 3 line ends
    assert found.unknown == 1
    assert found.nll == pytest.approx(-np.float64(scores.log_prob).sum())
    assert found.perplexity == pytest.approx(math.exp(found.nll / 9))
    assert float(jaxlm.perplexity(run)) == found.perplexity
    assert found.bits == pytest.approx(found.nll / math.log(2))
    assert (found.size.words, found.size.lines) == (6, 3)
    assert found.size.characters == found.size.bytes == len(TEXT)


def test_bits_per_character_are_computed_from_bits_per_token(folder):
    """A uniform model over V tokens has log2 V bits per token, for every unit of tokens."""
    for tokens, count in (("chars", len(TEXT)), ("bytes", len(TEXT.encode()))):
        run = untrained(folder, tokens=tokens)
        zero = jax.tree.map(np.zeros_like, run.params)
        found = jaxlm.perplexity(dataclasses.replace(run, params=zero))
        assert found.tokens == count
        assert found.bits / found.size.characters == pytest.approx(
            math.log2(len(run.vocabulary)) * count / len(TEXT), rel=1e-5
        )


def test_a_report_prints_its_protocol(folder):
    printed = str(jaxlm.perplexity(untrained(folder)))
    for part in (
        "9 tokens, each once, the first included",
        "one stream",
        "<eos> counted",
        "1 <unk>",
    ):
        assert part in printed


@pytest.mark.quick_for("all")
@pytest.mark.parametrize("positions", ["all", "last"])
def test_rows_are_scored_independently(folder, positions):
    run = untrained(folder)
    run = dataclasses.replace(run, protocol=Protocol(rows=True, last_only=positions == "last"))
    found = jaxlm.perplexity(run)
    by_hand = []
    for line in ("the cat <unk> on <eos>", "the mat <eos>"):
        ids = run.vocabulary.ids(line.split())
        inputs = np.concatenate([[run.vocabulary.start_id], ids[:-1]])[None]
        variables = {"params": run.params}
        nll_1T, _ = run.model.apply(variables, inputs, ids[None], method="nll")
        by_hand.extend(np.asarray(nll_1T)[0, -1 if positions == "last" else 0 :])
    assert found.tokens == len(by_hand)
    assert found.nll == pytest.approx(sum(by_hand), rel=1e-5)
    assert "state reset at each line" in found.protocol


def test_mistakes_are_errors(folder, tmp_path):
    run = untrained(folder)
    with pytest.raises(jaxlm.UserError, match="does not exist"):
        jaxlm.perplexity(run, text=tmp_path / "none.txt")
    with pytest.raises(jaxlm.UserError, match=r"dev.*train, valid, test"):
        jaxlm.perplexity(run, "dev")
    (tmp_path / "new.txt").write_text("a dog\n")
    with pytest.raises(jaxlm.UserError, match="say what it was trained on"):
        jaxlm.perplexity(jaxlm.Run(run.model, run.params, run.tokenizer))


def test_arguments_without_effect_are_errors(folder, tmp_path):
    run = untrained(folder)
    path = tmp_path / "new.txt"
    path.write_text("the cat\n")
    for split, where, message in (
        ("nonexistent", {"text": path}, "`split` nonexistent: has no effect with a `text`"),
        (None, {"text": path, "corpus": "nonexistent"}, "`corpus` nonexistent: .* with a `text`"),
        (open_split(run), {"corpus": "nonexistent"}, "`corpus` nonexistent: .* with a Split"),
        (open_split(run), {"text": path}, "`text` .*new.txt: has no effect with a Split"),
    ):
        with pytest.raises(jaxlm.SettingError, match=message):
            jaxlm.perplexity(run, split, **where)
    config = jaxlm.SamplingConfig(length=1)
    with pytest.raises(jaxlm.SettingError, match="`samples` 3: has no effect with a Sampling"):
        jaxlm.sample(run, "the", config, samples=3)


def rows_run(sentences, **options):
    text = jaxlm.read_corpus(sentences, fractions=(1.0,), **options)
    model = jaxlm.NGram(len(text.vocabulary), order=2)
    return jaxlm.fit(model, text, quiet=True), text.train


def test_the_size_counts_only_the_scored_part():
    """Without a start token the first token of a line is neither scored nor counted."""
    run, split = rows_run(["我 喜欢 玩具", " a \tbc ", "", "alone", "d  e"], eos=False)
    found = jaxlm.perplexity(run, split)
    scored = [" 喜欢 玩具", " \tbc", "  e"]
    assert found.tokens == found.size.words == 4
    assert found.size.characters == sum(map(len, scored))
    assert found.size.bytes == sum(len(part.encode()) for part in scored)
    assert found.size.lines == 3
    assert f"{found.bits / 4:.4f} a word" in str(found)


def test_the_size_of_rows_with_a_start_token_counts_lines_that_are_not_blank():
    run, split = rows_run(["a b", "", "  ", "c"])
    run = dataclasses.replace(run, protocol=Protocol(rows=True))
    found = jaxlm.perplexity(run, split)
    assert (found.tokens, found.size.words, found.size.characters) == (5, 3, 6)
    last = dataclasses.replace(run, protocol=Protocol(rows=True, last_only=True))
    assert jaxlm.perplexity(last, split).size is None


def test_the_size_is_unknown_if_the_text_of_the_first_token_is_unknown(monkeypatch):
    run, split = rows_run(["a b c"], eos=False)
    monkeypatch.delattr(type(split.tokenizer), "after_first_token")
    assert jaxlm.perplexity(run, split).size is None


def test_every_token_is_one_line_of_the_table(tmp_path):
    tokens = ("a\nb", "a\tb", "\u2028", "c\\d", "é我 x", "<eos>")
    vocabulary = Vocabulary(tokens, start="<eos>")
    ids = np.arange(len(tokens), dtype=np.int32)
    split = Split("test", ids, EmbeddedText(""), Words(vocabulary))
    run = jaxlm.Run(jaxlm.GRU(vocab_size=len(tokens)), None, split.tokenizer)
    scores = TokenScores(np.full(6, -1.0), np.ones(6, int), np.zeros(6))
    write_per_token(run, split, scores, tmp_path / "table.tsv")
    lines = (tmp_path / "table.tsv").read_text(encoding="utf-8").splitlines()
    shown = [line.split("\t")[0] for line in lines[1:]]
    assert shown == [r"a\nb", r"a\tb", r"\u2028", r"c\d", "é我 x", "<eos>"]
    assert {line.count("\t") for line in lines} == {4}
