"""File formats: how a format is chosen, reading, writing, and errors."""

import pathlib

import numpy as np
import pytest

import jaxlm
from jaxlm.errors import UserError
from jaxlm.interop.files import create
from jaxlm.interop.formats import FORMATS, Format, find_format, read_run, write_run


@pytest.fixture(scope="module")
def text():
    return jaxlm.read_corpus("toy", eos=False)


@pytest.fixture(scope="module")
def bigram(text):
    return jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)


@pytest.mark.parametrize("name", ["x.arpa", "x.arpa.gz", "folder.of/x.y.arpa"])
def test_the_extension_chooses_the_format(name):
    assert find_format(pathlib.Path(name)) is FORMATS["arpa"]


@pytest.mark.parametrize("name", ["x", "arpa", "x.gz", "x.arp", "x.arpa.bz2", "x.ARPA"])
def test_a_name_without_a_known_extension_needs_the_format(name):
    path = pathlib.Path(name)
    with pytest.raises(UserError, match=rf"{name}: .* end in \.arpa.*, or give `format`"):
        find_format(path)
    assert find_format(path, "arpa") is FORMATS["arpa"]
    with pytest.raises(UserError, match=r"unknown format 'arp' \(did you mean 'arpa'"):
        find_format(path, "arp")


@pytest.mark.parametrize(("name", "format"), [("x.arpa", None), ("x.txt.gz", "arpa")])
def test_a_run_is_written_and_read_back(name, format, bigram, tmp_path):
    write_run(bigram, tmp_path / name, format)
    again = read_run(tmp_path / name, tmp_path / "run", format)
    assert again.folder == tmp_path / "run"
    assert again.params.sizes == bigram.params.sizes
    pairs = zip(again.params.probabilities, bigram.params.probabilities, strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_a_format_may_lack_reading_or_writing(bigram, monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "none", Format())
    with pytest.raises(UserError, match=r"x\.none: .*can be read, but not written"):
        write_run(bigram, tmp_path / "x.none")
    with pytest.raises(UserError, match=r"x\.none: .*can be written, but not read"):
        read_run(tmp_path / "x.none")
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_part_of_a_file(tmp_path):
    def broken():
        with create(tmp_path / "x") as file:
            file.write(b"half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    with (
        pytest.raises(UserError, match=r"cannot write .*none/x: No such file"),
        create(tmp_path / "none/x"),
    ):
        pass
    assert not list(tmp_path.iterdir())
