"""A damaged file of ids is never read as another text: it is refused, or written again."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import jaxlm
from jaxlm.data import file_digests, preparing
from jaxlm.data.encoding import DIGEST_BYTES, Split
from jaxlm.data.file_digests import check_file, check_once, file_digest
from jaxlm.data.preparing import PreparingConfig, claim_prepared_folder, prepare
from jaxlm.data.shards import PREPARED
from jaxlm.data.sources import EmbeddedText
from jaxlm.data.tokenizers import TOKENIZERS, VocabularyConfig
from jaxlm.errors import UserError

TEXT = "the cat sat on the mat\n" * 300


def flip(path, place=2):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x04
    path.write_bytes(content)


def cut(path, size=2):
    path.write_bytes(path.read_bytes()[:-size])


def test_a_file_is_checked_by_its_size_and_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abcdefgh")
    digest = file_digest(path)
    check_file(path, 8, digest)
    with pytest.raises(ValueError, match="file is 8 bytes long, not 9"):
        check_file(path, 9, digest)
    flip(path)
    with pytest.raises(ValueError, match="the bytes of file are not those"):
        check_file(path, 8, digest)


def denied(*_):
    raise PermissionError(13, "Permission denied")


def test_a_large_file_is_checked_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    path, calls = tmp_path / "file", []
    path.write_bytes(b"abcdefgh")
    for _ in range(2):
        check_once(path, "small", partial(calls.append, 1))
    assert len(calls) == 2 and not (tmp_path / "cache").exists()
    monkeypatch.setattr(file_digests, "LARGE_BYTES", 4)
    for _ in range(2):
        check_once(path, "large", partial(calls.append, 1))
    assert len(calls) == 3
    check_once(path, "another check", partial(calls.append, 1))
    flip(path)
    check_once(path, "large", partial(calls.append, 1))
    assert len(calls) == 5
    # So does a cache that may not be read, for which `Path.exists` raises an error.
    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", denied)
        check_once(path, "large", partial(calls.append, 1))
    # A cache that cannot be written costs time alone.
    (tmp_path / "blocked").write_text("a file")
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "blocked"))
    for _ in range(2):
        check_once(path, "large", partial(calls.append, 1))
    assert len(calls) == 7


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "PIECE_BYTES", 3000)
    (tmp_path / "text.txt").write_text(TEXT)
    texts, config = {"train": [tmp_path / "text.txt"]}, PreparingConfig(tokens="words", workers=1)
    folder = tmp_path / "prepared"
    tokenizer = claim_prepared_folder(folder, texts, config)
    prepare(folder, texts, tokenizer, 1, lambda *_: None)
    assert (folder / "train-00001.u16").exists()
    return folder


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_shard_is_an_error(damage, prepared):
    assert len(jaxlm.read_corpus(str(prepared)).train) == 7 * 300
    damage(prepared / "train-00001.u16")
    with pytest.raises(UserError, match=r"damaged prepared text .*train-00001\.u16"):
        jaxlm.read_corpus(str(prepared))


def test_shards_without_digests_are_read_unless_an_id_is_too_large(prepared):
    about = json.loads((prepared / PREPARED).read_text())
    for shard in about["splits"]["train"]:
        assert len(shard.pop("sha256")) == 64
    (prepared / PREPARED).write_text(json.dumps(about))
    size = len(jaxlm.read_corpus(str(prepared)).vocabulary)
    ids = np.fromfile(prepared / "train-00001.u16", "<u2")
    ids[3] = size
    ids.tofile(prepared / "train-00001.u16")
    with pytest.raises(UserError, match=f"has the id {size}, and a vocabulary of {size} tokens"):
        jaxlm.read_corpus(str(prepared))


DAMAGES = {
    "flipped": flip,
    "flipped digest": partial(flip, place=-1),
    "cut": cut,
    "without digest": partial(cut, size=DIGEST_BYTES),
    "empty": partial(cut, size=10**6),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_encoded_text_is_encoded_again(name, tmp_path):
    source = EmbeddedText(TEXT)
    tokenizer = TOKENIZERS["words"].fit(source.lines(), VocabularyConfig(), False)

    def encode():
        return Split.encode("train", source, tokenizer, lambda: tmp_path, in_memory_bytes=0)

    whole = np.array(encode().ids)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    DAMAGES[name](path)
    np.testing.assert_array_equal(encode().ids, whole)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_a_text_that_cannot_be_kept_is_one_line(tmp_path):
    source = EmbeddedText(TEXT)
    tokenizer = TOKENIZERS["words"].fit(source.lines(), VocabularyConfig(), False)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot keep the token ids of the text in .*cache: "):
        Split.encode("train", source, tokenizer, lambda: tmp_path / "cache", in_memory_bytes=0)


def test_a_vocabulary_that_lacks_ids_of_a_shard_is_an_error(prepared):
    """The shard is whole; tokenizer.json is not."""
    saved = json.loads((prepared / "tokenizer.json").read_text())
    saved |= {"tokens": ["the", "cat", "<eos>"], "unk": None}
    (prepared / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"has the id .*, and a vocabulary of"):
        jaxlm.read_corpus(str(prepared))
