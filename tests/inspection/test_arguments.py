"""Wrong arguments of the functions of jaxlm.inspection are one clear line, not a Python error."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
from case_runs import run_of

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.inspection import (
    backoff,
    bptt,
    counts,
    find_units,
    gradient_by_lag,
    gradient_through_time,
    map2d,
    neighbours,
    senses,
    trace,
    vectors,
    write_projector,
)

TEXT = "w1 w2 w3 w4"
ASKED = {
    "trace": lambda run, text: trace(run, text),
    "find_units": lambda run, text: find_units(run, text, "position in line"),
    "gradient_by_lag": lambda run, text: gradient_by_lag(run, text, 1),
    "gradient_through_time": lambda run, text: gradient_through_time(run, text),
    "bptt": lambda run, text: bptt(run, text),
    "vectors": lambda run, text: vectors(run),
    "neighbours": lambda run, text: neighbours(run, text),
    "senses": lambda run, text: senses(run, text, [TEXT]),
    "backoff": lambda run, text: backoff(run, text),
    "counts": lambda run, text: counts(run, text),
}
NO_RUNS = ("runs/lstm", Path("runs/lstm"), None, {}, jaxlm.LSTM)


@pytest.mark.parametrize("name", ASKED)
def test_a_value_that_is_no_run_is_named(name, tmp_path):
    for value in NO_RUNS:
        with pytest.raises(UserError, match=r"^`run` is .* and no Run: give .*jaxlm\.load\("):
            ASKED[name](value, TEXT)
    with pytest.raises(UserError, match="and no Run"):
        write_projector("runs/lstm", tmp_path)


@pytest.mark.parametrize("name", sorted(set(ASKED) - {"vectors"}))
def test_a_value_that_is_no_text_is_named(name):
    run = run_of("ngram" if name == "backoff" else "rnn")
    field = {"neighbours": "word", "senses": "word", "backoff": "context", "counts": "context"}
    for value in (None, 3, Path("a.txt")):
        with pytest.raises(UserError, match=f"^`{field.get(name, 'text')}` is [^\n]*$"):
            ASKED[name](run, value)


WRONG = {
    "count": lambda run: trace(run, TEXT, count=2.5),
    "chunk": lambda run: trace(run, TEXT, chunk="all"),
    "units": lambda run: trace(run, TEXT, units=["layers_0/h"]),
    "units, no numbers": lambda run: trace(run, TEXT, units={"layers_0/h": [0.5]}),
    "units, a mask": lambda run: trace(run, TEXT, units={"layers_0/h": [True, False]}),
    "units, ragged": lambda run: trace(run, TEXT, units={"layers_0/h": [[1], [1, 2]]}),
    "folder": lambda run: trace(run, TEXT, folder=3),
    "folder with NUL": lambda run: write_projector(run, "a\0b"),
    "start": lambda run: trace(run, TEXT, start=3),
    "top": lambda run: find_units(run, TEXT, "upper case", top="all"),
    "feature": lambda run: find_units(run, TEXT, 3),
    "positions": lambda run: gradient_by_lag(run, TEXT, 1, positions=2.5),
    "lags": lambda run: gradient_by_lag(run, TEXT, np.ones((2, 2))),
    "radii": lambda run: gradient_through_time(run, TEXT, np.ones((2, 2))),
    "steps": lambda run: gradient_through_time(run, TEXT, steps="all"),
    "truncate": lambda run: bptt(run, TEXT, truncate=1.5),
    "k": lambda run: neighbours(run, "w1", 2.5),
    "vectors": lambda run: map2d(vectors(run)),
    "sentences": lambda run: senses(run, "w1", TEXT),
    "sentences of numbers": lambda run: senses(run, "w1", [3]),
    "labels": lambda run: senses(run, "w1", [TEXT], "a"),
    "text": lambda run: backoff(run_of("ngram"), "w1", text="corpus.txt"),
    "word": lambda run: backoff(run_of("ngram"), "w1", 3),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_line_that_names_it(case):
    with pytest.raises(UserError, match=r"^[^\n]*$") as raised:
        WRONG[case](run_of("rnn"))
    assert case.split()[0].strip(",") in str(raised.value)


def test_a_name_that_is_too_long_for_the_disk_is_one_line(tmp_path):
    for write in (write_projector, lambda run, folder: trace(run, TEXT, folder=folder)):
        with pytest.raises(UserError, match="File name too long"):
            write(run_of("rnn"), tmp_path / ("x" * 300))
    assert not list(tmp_path.iterdir())


class Nameless(jaxlm.NeuralModel):
    """A model that looks up its word features without a module `embedding`."""

    window = 1

    def setup(self):
        self.table = nn.Embed(self.vocab_size, self.embedding_size)

    def initial_carry(self, batch_size):
        return ()

    def encode(self, tokens_BT, carry, last, deterministic, length):
        hidden_BTF = self.table(tokens_BT)
        return hidden_BTF[:, -1:] if last else hidden_BTF, ()

    def logits(self, hidden_BTF):
        return self.table.attend(hidden_BTF)

    def layers(self):
        return {"table": "word features"}


def test_a_model_without_embedding_has_no_vectors_and_no_gradient_by_lag():
    run = run_of("rnn")
    params = {"table": {"embedding": run.params["embedding"]["embedding"]}}
    model = Nameless(vocab_size=13, start_id=12, embedding_size=6)
    run = dataclasses.replace(run, model=model, params=params)
    assert len(trace(run, TEXT)["hidden"]) == 4
    # Its gradient at each lag would be 0.
    with pytest.raises(UserError, match="Nameless calls no module of the name `embedding`"):
        gradient_by_lag(run, TEXT, 1)
    with pytest.raises(UserError, match="Nameless has no module `embedding`"):
        vectors(run)


def test_whole_numbers_of_numpy_are_whole_numbers():
    run = run_of("rnn")
    found = trace(run, TEXT, count=np.int64(2), units={"hidden": np.array([1]), "layers_0/h": 0})
    assert found.next_ids.shape == (5, 2)
    assert found["hidden"].shape == found["layers_0/h"].shape == (4, 1)
    assert len(neighbours(run, "w1", np.int64(3))) == 3
    with pytest.raises(SettingError, match="`k` 0: must be at least 1"):
        neighbours(run, "w1", 0)
