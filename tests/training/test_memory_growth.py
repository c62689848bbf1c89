"""A training with many saves keeps no objects of earlier saves."""

import gc

import pytest
from rich.console import Console

import jaxlm


@pytest.mark.full
def test_saves_leave_no_objects_behind(tmp_path):
    text = jaxlm.read_corpus(["a b c d"] * 20, fractions=(1.0,))
    model = jaxlm.LSTM(
        len(text.vocabulary), text.vocabulary.start_id, embedding_size=2, hidden_size=2
    )
    objects = {}

    def count(record):
        gc.collect()
        objects[record["step"]] = len(gc.get_objects())

    jaxlm.fit(
        model,
        text,
        folder=tmp_path / "run",
        steps=60,
        batch_size=2,
        bptt=4,
        log_every=10,
        checkpoint_every=2,
        callbacks=[count],
        console=Console(quiet=True),
    )
    # A save that is being written has some hundred objects of its own.
    assert objects[60] - objects[20] < 1000, objects
