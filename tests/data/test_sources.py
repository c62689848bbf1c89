"""Texts are read as lines from memory, from a file, and from a part of a file."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.data.sources import BOM, EmbeddedText, TextFile, split_by_fractions
from jaxlm.data.text import read_corpus
from jaxlm.errors import UserError

READ_AS = {
    "plain": (b"a b\nc\n", ["a b\n", "c\n"]),
    "nothing": (b"", []),
    "no line break at the end": (b"a\nb", ["a\n", "b"]),
    "empty lines": (b"\n\na\n\n", ["\n", "\n", "a\n", "\n"]),
    "CRLF": (b"a\r\n\r\nb\r\n", ["a\n", "\n", "b\n"]),
    "CRLF and LF": (b"a\r\nb\nc", ["a\n", "b\n", "c"]),
    "a CR alone": (b"a\rb\n\r", ["a\n", "b\n", "\n"]),
    "CR CR LF": (b"a\r\r\nb", ["a\n", "\n", "b"]),
    "BOM": (BOM + "我\nb\n".encode(), ["我\n", "b\n"]),
    "BOM and CRLF": (BOM + b"a\r\nb", ["a\n", "b"]),
    "BOM further on": (b"a\n" + BOM + b"b\n", ["a\n", "\ufeffb\n"]),
    "odd separators": (
        "a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg\x1dh\x1ei\n".encode(),
        ["a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg\x1dh\x1ei\n"],
    ),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Path of a file that each example overwrites."""
    return tmp_path_factory.mktemp("sources") / "text.txt"


@pytest.mark.parametrize("kind", ["file", "embedded"])
@pytest.mark.parametrize(("data", "lines"), READ_AS.values(), ids=READ_AS)
def test_sources_read_lines(kind, data, lines, path):
    path.write_bytes(data)
    source = TextFile(path) if kind == "file" else EmbeddedText(data.decode())
    assert list(source.lines()) == lines
    assert list(source.lines()) == lines, "a source can be read again"
    assert source.size == len(data)
    assert source.sha256() == hashlib.sha256(data).hexdigest()


def test_a_part_of_a_file_is_read(path):
    data = "我 a\nbc\nd\n".encode()
    path.write_bytes(data)
    part = TextFile(path, 3, 7)
    assert list(part.lines()) == [" a\n", "b"]
    assert part.size == 4
    assert part.sha256() == hashlib.sha256(data[3:7]).hexdigest()
    assert list(TextFile(path, 6, 6).lines()) == []


def test_sha256_of_more_than_one_block(path):
    data = bytes(range(256)) * 10_000
    path.write_bytes(data)
    assert TextFile(path, 5, 2_500_000).sha256() == hashlib.sha256(data[5:2_500_000]).hexdigest()


GOOD = "good line 我\n".encode()
SIZES = {"bpe": {"vocab_size": 300}}
NOT_UTF8 = {
    "at the start": (b"\xffa\n", 0, 0xFF),
    "GB18030": (b"good\n" + "我喜欢".encode("gb18030"), 5, 0xCE),
    "after a BOM": (BOM + b"ab\xe9\n", 5, 0xE9),
    "a character cut short at the end": (b"abc\n\xe6\x88", 4, 0xE6),
    "a surrogate": (b"ab\n\xed\xa0\x80\n", 3, 0xED),
    "in the middle of a large file": (
        GOOD * 40_000 + b"ab\x80cd\n" + GOOD * 40_000,
        40_000 * len(GOOD) + 2,
        0x80,
    ),
}


@pytest.mark.parametrize(("data", "offset", "byte"), NOT_UTF8.values(), ids=NOT_UTF8)
def test_text_that_is_not_utf8_is_an_error(data, offset, byte, path):
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        list(TextFile(path).lines())
    assert str(caught.value).startswith(
        f"{path} is not UTF-8: byte 0x{byte:02x} at offset {offset} "
    )
    # No advice that would turn one encoding into another.
    assert "iconv" not in str(caught.value)


@pytest.mark.parametrize("tokens", ["words", "chars", "bpe"])
def test_the_offset_of_a_bad_byte_counts_from_the_start_of_the_file(tokens, path):
    """The offset counts from the start of the file, not of the split."""
    offset = 990 * len(GOOD) + 3
    path.write_bytes(GOOD * 990 + b"ab \xff\n" + GOOD * 9)
    with pytest.raises(UserError) as caught:
        read_corpus(str(path), tokens=tokens, **SIZES.get(tokens, {}))
    assert f"{path} is not UTF-8: byte 0xff at offset {offset} " in str(caught.value)


SHARES = st.lists(st.integers(0, 9), min_size=1, max_size=3).filter(lambda shares: shares[0] > 0)
PIECES = ["a", " ", "\n", "\r", "\r\n", "\u2028", "é", "我", "🙂", "\ufeff"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=40)


@pytest.mark.parametrize("at_lines", [True, False], ids=["lines", "characters"])
@settings(deadline=None, max_examples=80)
@given(text=TEXTS, shares=SHARES)
def test_splits_together_are_the_whole_text(at_lines, path, text, shares):
    data = text.encode()
    path.write_bytes(data)
    fractions = [share / sum(shares) for share in shares]
    parts = split_by_fractions(path, fractions, at_lines)
    assert len(parts) == len(fractions)
    assert b"".join(data[part.start : part.stop] for part in parts) == data
    assert sum(part.size for part in parts) == len(data)
    # No cut divides a character, or lines() would fail. No cut divides CRLF, or both would break.
    lines = [line for part in parts for line in part.lines()]
    whole = list(TextFile(path).lines())
    assert "".join(lines) == "".join(whole)
    if at_lines:
        # If the first part is only a byte order mark, it is an empty line.
        assert [line for line in lines if line] == [line for line in whole if line]


@pytest.mark.parametrize(
    ("data", "fractions", "at_lines", "sizes"),
    [
        (b"0123456789", (0.9, 0.1), False, [9, 1]),
        (b"0123456789", (0.7, 0.1, 0.2), False, [7, 1, 2]),  # 0.7 + 0.1 < 0.8 in floating point
        (b"0123456789", (1.0,), False, [10]),
        ("我我我".encode(), (0.5, 0.5), False, [6, 3]),
        (b"abc\n" * 10, (0.8, 0.1, 0.1), True, [32, 4, 4]),  # a cut at the start of a line stays
        (b"abc\n" * 10, (0.83, 0.17), True, [36, 4]),  # a cut inside a line moves to its end
        (b"abc\n" * 10, (0.8, 0.0, 0.2), True, [32, 0, 8]),
        (b"abc\r\n" * 10, (0.88, 0.12), False, [45, 5]),  # between CR and LF
        (b"one line without a break", (0.5, 0.5), True, [24, 0]),
        (b"a\n" + b"b" * 20 + b"\n", (0.3, 0.3, 0.4), True, [23, 0, 0]),
        (b"", (0.9, 0.1), True, [0, 0]),
    ],
)
def test_cuts_respect_lines_and_characters(data, fractions, at_lines, sizes, path):
    path.write_bytes(data)
    assert [part.size for part in split_by_fractions(path, fractions, at_lines)] == sizes


@pytest.mark.parametrize(
    "fractions",
    [
        (0.5,),
        (0.5, 0.6),
        (0.0, 0.5, 0.5),
        (-0.1, 1.1),
        (1.1, -0.1),
        (float("nan"), 1.0),
        (90, 5, 5),
        (0.4, 0.3, 0.2, 0.1),  # there is no fourth split
    ],
)
def test_bad_fractions_are_errors(fractions, path):
    path.write_bytes(b"a b\n" * 100)
    with pytest.raises(UserError, match="`fractions`") as caught:
        read_corpus(str(path), fractions=fractions)
    assert " ".join(map(str, fractions)) in str(caught.value)
