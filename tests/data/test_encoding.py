"""Token ids in memory and in a memory-mapped file, and the sizes of a text."""

import numpy as np
import pytest

from jaxlm.data.encoding import BLOCK_BYTES, Split
from jaxlm.data.sources import EmbeddedText, TextFile
from jaxlm.data.tokenizers import TOKENIZERS, VocabularyConfig
from jaxlm.errors import UserError

LINE = "the cat 我 sat\u2028on naïve mats\n"
SMALL = LINE * 200 + "\n\nand the end"
# A text of more than two blocks, with edges of blocks inside the text.
LARGE = LINE * (2 * BLOCK_BYTES // len(LINE) + 100) + "and the end"


class CountingTokenizer:
    """A tokenizer that counts its calls of `encode`."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode(self, lines):
        self.calls += 1
        return self.tokenizer.encode(lines)


def fit(name, text, **config):
    return TOKENIZERS[name].fit(EmbeddedText(text).lines(), VocabularyConfig(**config), False)


def encode(source, tokenizer, folder, in_memory_bytes=0):
    return Split.encode("train", source, tokenizer, lambda: folder, in_memory_bytes)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_memory_map_holds_the_ids(name, tmp_path):
    tokenizer = fit(name, SMALL, vocab_size=300)
    small = encode(EmbeddedText(SMALL), tokenizer, tmp_path / "cache", 1 << 20)
    assert not (tmp_path / "cache").exists()
    assert not isinstance(small.ids, np.memmap)
    assert small.ids.dtype == np.int32
    large = encode(EmbeddedText(SMALL), tokenizer, tmp_path / "cache")
    assert isinstance(large.ids, np.memmap)
    assert large.ids.dtype == np.uint16
    assert len(large) == len(small) == len(small.ids)
    np.testing.assert_array_equal(large.ids, small.ids)


def test_blocks_are_joined_without_gaps(tmp_path):
    path = tmp_path / "large.txt"
    path.write_text(LARGE, encoding="utf-8", newline="")
    tokenizer = CountingTokenizer(fit("words", SMALL))
    split = encode(TextFile(path), tokenizer, tmp_path / "cache")
    assert tokenizer.calls == 3
    np.testing.assert_array_equal(split.ids, tokenizer.encode(TextFile(path).lines()))


def test_a_text_as_large_as_the_limit_stays_in_memory(tmp_path):
    tokenizer = fit("bytes", "")
    assert not isinstance(encode(EmbeddedText("abc"), tokenizer, tmp_path, 3).ids, np.memmap)
    assert isinstance(encode(EmbeddedText("abcd"), tokenizer, tmp_path, 3).ids, np.memmap)


def test_memory_map_is_read_only(tmp_path):
    ids = encode(EmbeddedText(SMALL), fit("words", SMALL), tmp_path).ids
    assert not ids.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_ids_are_written_once(tmp_path):
    tokenizer = CountingTokenizer(fit("words", SMALL))
    first = encode(EmbeddedText(SMALL), tokenizer, tmp_path)
    (file,) = tmp_path.iterdir()  # a single file, without a .partial file
    written = file.stat().st_mtime_ns
    again = encode(EmbeddedText(SMALL), tokenizer, tmp_path)
    assert tokenizer.calls == 1
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.ids, first.ids)


def test_each_text_and_tokenizer_has_its_own_file(tmp_path):
    words, text = fit("words", SMALL), EmbeddedText(SMALL)
    file = tmp_path / "text.txt"
    file.write_text(SMALL, encoding="utf-8", newline="")
    cache = tmp_path / "cache"
    cases = [
        (text, words, 1),
        (text, fit("words", SMALL), 1),  # an equal tokenizer uses the same file
        (TextFile(file), words, 1),  # the same text from another source does too
        (text, fit("words", SMALL, min_count=2), 2),
        (text, fit("words", SMALL, eos=False), 3),
        (text, fit("chars", SMALL), 4),
        (EmbeddedText(SMALL + " mats"), words, 5),
        (TextFile(file, 0, len(LINE.encode())), words, 6),
    ]
    for source, tokenizer, files in cases:
        ids = encode(source, tokenizer, cache).ids
        assert len(list(cache.iterdir())) == files
        np.testing.assert_array_equal(ids, tokenizer.encode(source.lines()))


@pytest.mark.parametrize(("size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_the_dtype_of_ids_depends_on_the_vocabulary(size, dtype, tmp_path):
    text = " ".join(map(str, range(size)))
    split = encode(EmbeddedText(text), fit("words", text, eos=False), tmp_path)
    assert split.ids.dtype == dtype
    np.testing.assert_array_equal(split.ids, np.arange(size))


def test_a_failure_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="'zebra' is not among"):
        encode(EmbeddedText("the cat\nthe zebra\n"), fit("words", "the cat\n"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a b\n\nc\n", ["a b <eos>", "c <eos>"]),
        ("\n \t\na", ["a <eos>"]),
        ("\n", []),
    ],
)
def test_rows_are_lines_that_are_not_blank(text, rows, tmp_path):
    split = encode(EmbeddedText(text), fit("words", "a b c"), tmp_path, 99)
    tokens = split.tokenizer.vocabulary.tokens
    assert [" ".join(tokens[index] for index in row) for row in split.rows()] == rows


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", (0, 0, 0, 0)),
        (b"a bc\n", (5, 5, 2, 1)),
        ("我 喜欢\n🙂".encode(), (15, 6, 3, 2)),
        # The byte order mark and carriage returns do not count.
        (b"\xef\xbb\xbfa b\r\n\r\nc\r\n", (7, 7, 3, 3)),
        ("a\u2028b\x0bc\n".encode(), (8, 6, 3, 1)),
    ],
)
def test_text_size_counts_bytes_characters_words_and_lines(data, size, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    split = encode(TextFile(path), fit("bytes", ""), tmp_path / "cache", 99)
    found = split.text_size()
    assert (found.bytes, found.characters, found.words, found.lines) == size
