"""Word vectors: the rows of the embedding, their neighbours, their map, and their files."""

import os

import numpy as np
import pytest
from case_runs import random_run

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.inspection import map2d, neighbours, vectors, write_projector
from jaxlm.inspection.word_vectors import cosines, escaped


@pytest.fixture(scope="module")
def text():
    return jaxlm.read_corpus(["the cat sat on the mat", "a dog ran"], fractions=(1.0,))


@pytest.fixture(scope="module")
def run(text):
    size, start = len(text.vocabulary), text.vocabulary.start_id
    return random_run(jaxlm.NPLM(size, start, n_step=2, embedding_size=6, hidden_size=3), text)


def test_vectors_are_the_rows_of_the_embedding(run):
    words, found_VD = vectors(run)
    assert words == list(run.vocabulary.tokens)
    np.testing.assert_array_equal(found_VD, run.params["embedding"]["embedding"])
    assert found_VD.dtype == np.float32


def test_the_vectors_of_an_adaptive_embedding_are_what_the_model_reads(text):
    size, start = len(text.vocabulary), text.vocabulary.start_id
    model = jaxlm.GRU(
        size,
        start,
        embedding_size=8,
        hidden_size=3,
        softmax="adaptive",
        cutoffs=(3,),
        adaptive_input=True,
    )
    run = random_run(model, text)
    found_VD = vectors(run)[1]
    table = run.params["embedding"]
    np.testing.assert_array_equal(found_VD[:3], table["table_0"])
    projected = np.asarray(table["table_1"]) @ np.asarray(table["project_1"])
    np.testing.assert_allclose(found_VD[3:], projected, atol=1e-6)


def test_neighbours_are_sorted_by_cosine_and_leave_out_the_word(run):
    words, found_VD = vectors(run)
    found = neighbours(run, "cat", 4)
    index = words.index("cat")
    own = found_VD[index]
    expected = {
        word: float(own @ other / np.linalg.norm(own) / np.linalg.norm(other))
        for word, other in zip(words, found_VD, strict=True)
        if word != "cat"
    }
    best = sorted(expected, key=expected.get, reverse=True)[:4]
    assert [word for word, _ in found] == best
    for word, cosine in found:
        assert abs(cosine - expected[word]) < 1e-6
    assert len(neighbours(run, "cat", 1000)) == len(words) - 1


def test_runs_and_words_without_vectors_are_named(run, text):
    with pytest.raises(UserError, match=r"'cats' is not among .* \(nearest: 'cat'"):
        neighbours(run, "cats")
    with pytest.raises(SettingError, match="`k` 0: must be at least 1"):
        neighbours(run, "cat", 0)
    counted = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), 0, order=2), text, quiet=True)
    for ask in (vectors, lambda run: neighbours(run, "cat"), lambda run: write_projector(run, "x")):
        with pytest.raises(UserError, match="the model NGram: it has no word vectors"):
            ask(counted)


def test_the_map_has_the_principal_components_with_a_stable_sign():
    draw = np.random.default_rng(0)
    points = draw.normal(size=(50, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    found = map2d(points)
    centred = points - points.mean(axis=0)
    directions = np.linalg.eigh(centred.T @ centred)[1]
    for axis, direction in enumerate(directions.T[::-1][:2]):
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(found[:, axis], centred @ direction, atol=1e-9)
    # The order of the words, and a copy of the words, leave every sign as it is.
    np.testing.assert_allclose(map2d(points[::-1])[::-1], found, atol=1e-9)
    np.testing.assert_allclose(map2d(np.vstack([points, points]))[:50], found, atol=1e-9)


def test_the_map_of_two_numbers_is_their_plane():
    points = np.array([[3.0, 1.0], [4.0, -2.0], [0.5, 0.5]])
    np.testing.assert_array_equal(map2d(points), points)
    np.testing.assert_array_equal(map2d(points[:, :1]), [[3, 0], [4, 0], [0.5, 0]])
    np.testing.assert_array_equal(map2d(np.ones((1, 4))), [[0, 0]])
    for wrong in (np.ones(3), np.ones((0, 3)), np.array([[np.nan, 1, 2]])):
        with pytest.raises(SettingError, match="`vectors`"):
            map2d(wrong)


def test_cosines_of_a_vector_of_zeros_are_zero():
    np.testing.assert_array_equal(cosines(np.zeros((1, 2)), np.ones((2, 2))), [[0, 0]])


def test_the_files_of_the_projector_have_a_line_for_each_token(tmp_path):
    text = jaxlm.read_corpus(["a\tb \\ c", "d e"], fractions=(1.0,), tokens="chars")
    size, start = len(text.vocabulary), text.vocabulary.start_id
    run = random_run(jaxlm.RNN(size, start, embedding_size=3, hidden_size=2), text)
    paths = write_projector(run, tmp_path / "new" / "projector")
    assert [path.name for path in paths] == ["vectors.tsv", "metadata.tsv"]
    # The projector drops white space around a line, and lines that are empty then.
    lines = [line.strip() for line in paths[0].read_text().split("\n")]
    rows = [list(map(float, line.split("\t"))) for line in lines if line]
    np.testing.assert_allclose(rows, vectors(run)[1], rtol=1e-6)
    names = [line.strip() for line in paths[1].read_text("utf-8").split("\n")]
    names = [name for name in names if name]
    assert len(names) == size == len(set(names))
    assert {"\\t", "\\n", "␣", "\\\\"} < set(names)
    assert os.listdir(tmp_path / "new" / "projector") in (
        ["vectors.tsv", "metadata.tsv"],
        ["metadata.tsv", "vectors.tsv"],
    )


def test_nothing_is_half_written(run, tmp_path):
    blocked = tmp_path / "folder"
    (blocked / "metadata.tsv").mkdir(parents=True)
    (blocked / "metadata.tsv" / "own").touch()
    with pytest.raises(UserError, match="cannot write the vectors to"):
        write_projector(run, blocked)
    assert os.listdir(blocked) == ["metadata.tsv"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the vectors to"):
        write_projector(run, tmp_path / "file")


def test_escapes_keep_tokens_apart():
    tokens = [" ", "\u3000", "\t", "\\t", "\n", "␣a", "苹果", "\u202e"]
    assert len({escaped(token) for token in tokens}) == len(tokens)
    assert all(escaped(token).strip() for token in tokens)
