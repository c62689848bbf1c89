"""Impossible sizes of batches are errors; the largest possible sizes work."""

import pytest
from small_batches import POEM, batches_of, epoch, split_of

from jaxlm.data.batching import BatchingConfig, make_batches
from jaxlm.errors import SettingError, UserError

ERRORS = {
    "batching": (
        POEM,
        {"batching": "stream"},
        r"unknown batching 'stream' \(did you mean 'streams'",
    ),
    "positions": (POEM, {"batching": "rows", "positions": "first"}, "unknown positions 'first'"),
    "batch_size": (POEM, {"batch_size": 0}, "`batch_size` 0: must be at least 1"),
    "batch_size below": (POEM, {"batch_size": -3}, "`batch_size` -3: must be at least 1"),
    "bptt": (POEM, {"bptt": 0}, "`bptt` 0: must be at least 1"),
    "too few tokens": (
        "a b\n",
        {"batch_size": 4},
        "`batch_size` 4: is larger than the text, which has 3 tokens: use `batch_size` 3 or less",
    ),
    "too few tokens for windows": (
        "a b\n",
        {"batching": "windows", "batch_size": 4},
        "`batch_size` 4: is larger than the text, which has 3 tokens",
    ),
    "too few lines": (
        "a b\n\nc\n",
        {"batching": "rows", "batch_size": 3},
        "`batch_size` 3: is larger than the text, which has 2 lines: use `batch_size` 2 or less",
    ),
}


@pytest.mark.parametrize(("text", "config", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_settings_are_errors(text, config, message):
    with pytest.raises(UserError, match=message):
        make_batches(split_of(text), BatchingConfig(**{"batch_size": 2, **config}))


def test_rows_that_do_not_fit_into_memory_are_an_error(monkeypatch):
    monkeypatch.setattr("jaxlm.data.batching.MOST_PADDED", 11)
    text = "a b c\nd\na b\n"
    with pytest.raises(SettingError, match=r"`batching` rows: pads 3 lines to .* has 4 tokens"):
        batches_of(split_of(text), "rows", batch_size=2)
    monkeypatch.setattr("jaxlm.data.batching.MOST_PADDED", 12)
    assert batches_of(split_of(text), "rows", batch_size=2).length == 4


@pytest.mark.parametrize(("batching", "size"), [("streams", 3), ("windows", 3), ("rows", 2)])
def test_a_batch_may_be_as_large_as_the_text(batching, size):
    text = "a b\n" if batching != "rows" else "a b\nc\n"
    batches = batches_of(split_of(text), batching, batch_size=size)
    assert batches.steps_per_epoch == 1
    assert epoch(batches).weights_KBT.any((0, 2)).all()


@pytest.mark.parametrize("batching", ["streams", "windows"])
def test_streams_and_windows_need_a_start_token(batching):
    with pytest.raises(
        UserError, match=f"`batching` {batching}: needs .* `eos`, or `batching` rows"
    ):
        batches_of(split_of(POEM, eos=False), batching, batch_size=2)


def test_rows_need_a_token_to_predict():
    with pytest.raises(UserError, match="nothing to predict"):
        batches_of(split_of("a\nb\n", eos=False), "rows", batch_size=1)
