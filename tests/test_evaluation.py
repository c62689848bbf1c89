"""Reports of perplexity: counts, units and the protocol."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.evaluation.perplexity import open_split, report, score
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
