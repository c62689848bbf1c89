"""`make_batch` is the batch that training reads, as indices and as words."""

import numpy as np
import pytest

import jaxlm
from jaxlm.data.batching import BatchingConfig, make_batches


def test_it_is_the_batch_of_the_training():
    text = jaxlm.read_corpus("toy", eos=False)
    config = BatchingConfig(batching="rows", positions="last", batch_size=3)
    block = make_batches(text.train, config).block(first=0, count=1, capacity=1)
    batch = jaxlm.make_batch(text)
    np.testing.assert_array_equal(batch.input_batch, block.inputs_KBT[0])
    np.testing.assert_array_equal(batch.target_batch, block.targets_KBT[0, :, -1])
    assert batch.input_batch.dtype == batch.target_batch.dtype == np.int32


def test_words_and_indices_agree_in_any_text():
    text = jaxlm.read_corpus(["the cat sat on a mat", "a dog ran"], eos=False, fractions=(1.0,))
    batch = jaxlm.make_batch(text, 2)
    assert batch.input_words == [["on", "a"], ["a", "dog"]]
    assert batch.target_words == ["mat", "ran"]
    assert text.vocabulary.ids(batch.target_words).tolist() == batch.target_batch.tolist()
    assert str(batch).splitlines()[3] == "target_words: ['mat', 'ran']"


def test_with_eos_each_line_begins_and_ends_with_it():
    batch = jaxlm.make_batch(jaxlm.read_corpus("toy", eos=True))
    assert batch.input_words[0] == ["<eos>", "我", "喜欢", "玩具"]
    assert batch.target_words == ["<eos>"] * 3


def test_lines_that_fit_into_no_batch_are_one_clear_line():
    text = jaxlm.read_corpus(["a b c d", "a b"], eos=False, fractions=(1.0,))
    with pytest.raises(jaxlm.UserError, match="from 1 to 3 words before the last: give `n_step`"):
        jaxlm.make_batch(text)
    for n_step, why in ((0, "at least 1"), (2, "shortest line has 1 before")):
        with pytest.raises(jaxlm.SettingError, match=why):
            jaxlm.make_batch(text, n_step)
    with pytest.raises(jaxlm.UserError, match="valid"):
        jaxlm.make_batch(text, split="valid")
