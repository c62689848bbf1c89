"""Texts of any encoding, compression and shape are read, or refused in one line that helps."""

import gzip
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.data.columns import cells
from jaxlm.data.preparing import PreparingConfig, claim_prepared_folder, prepare
from jaxlm.data.sources import BOM, read_line
from jaxlm.data.spacing import mostly_unspaced
from jaxlm.data.text import lines_of_file, open_file, read_corpus
from jaxlm.errors import SettingError, UserError

GERMAN = "Die Straße ist schön und grün, über den Wolken müssen Vögel singen.\n"
SEEMS = {
    "UTF-16 with its mark": ("the cat\n", "utf-16", "utf-16"),
    "UTF-32 with its mark": ("the cat\n", "utf-32", "utf-32"),
    "English UTF-16 LE": ("the cat sat\n", "utf-16-le", "utf-16-le"),
    "English UTF-16 BE": ("the cat sat\n", "utf-16-be", "utf-16-be"),
    "Chinese UTF-16 LE": ("我喜欢玩具\n我爱爸爸\n", "utf-16-le", "utf-16-le"),
    "Chinese UTF-16 BE": ("我喜欢玩具\n我爱爸爸\n", "utf-16-be", "utf-16-be"),
    "GB18030": ("我喜欢玩具\n我爱爸爸\n我讨厌挨打\n", "gb18030", "gb18030"),
    "Big5": ("今天天氣很好，我們去公園玩。\n", "big5", "big5"),
    "Shift-JIS": ("今日は天気がいいです。公園へ行きましょう。\n", "cp932", "cp932"),
    "Korean": ("오늘은 날씨가 좋습니다. 공원에 갑시다.\n", "euc_kr", "euc_kr"),
    "Latin-1": ("café crème brûlée\nété élan\n", "latin-1", "cp1252"),
    "German": (GERMAN, "cp1252", "cp1252"),
    "Russian": ("Сегодня хорошая погода, пойдём в парк.\n", "cp1251", "cp1251"),
    "Polish": ("Zażółć gęślą jaźń. Dzień dobry, jak się masz?\n", "cp1250", "cp1250"),
}


@pytest.mark.parametrize(("text", "encoding", "name"), SEEMS.values(), ids=SEEMS)
def test_an_encoding_is_recognised_and_read(text, encoding, name, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes((text * 8).encode(encoding))
    with pytest.raises(UserError, match="is not UTF-8") as caught:
        read_corpus(path, tokens="chars")
    message = str(caught.value)
    assert f"give `encoding` {name}" in message and "\n" not in message
    if "seems" in message:
        # The line as it would be read is the person's proof.
        assert text[:5] in message
    read = read_corpus(path, tokens="chars", encoding=name, fractions=(1.0,))
    assert "".join(read.train.source.lines()) == text * 8
    assert read.config.encoding == name


def test_a_word_of_latin_1_in_much_ascii_is_recognised(tmp_path):
    path = tmp_path / "text.txt"
    ascii_lines = b"the cat sat on the mat\n" * 9000
    path.write_bytes(ascii_lines + "un café noir\n".encode("latin-1") + ascii_lines)
    with pytest.raises(UserError, match=r"byte 0xe9 at offset 207006 .* cp1252 .*un café noir"):
        read_corpus(path)


def test_utf8_with_a_damaged_byte_is_called_damaged(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("我喜欢\n".encode() * 50 + b"\xff\n" + "玩具\n".encode() * 50)
    with pytest.raises(UserError, match="is UTF-8, so the file is damaged there"):
        read_corpus(path)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"%PDF-1.7", b"BZh9", b"\xfd7zXZ\0"])
def test_a_file_that_is_no_text_is_named(magic, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(magic + b" the cat\n" * 9)
    with pytest.raises(UserError, match=r"is not UTF-8: it is .*: (unpack|save)"):
        read_corpus(path)


@pytest.mark.parametrize("name", ["latin-11", "", "rot13", "base64", "x\0y", "undefined", "é\n"])
def test_an_unknown_encoding_is_one_line(name, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat\n")
    with pytest.raises(SettingError, match="`encoding`") as caught:
        read_corpus(path, encoding=name)
    assert "\n" not in str(caught.value)


def test_settings_without_effect_are_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat\n")
    for name in ("encoding", "column"):
        with pytest.raises(SettingError, match=f"`{name}` utf-16: has no effect"):
            read_corpus("toy", **{name: "utf-16"})
        with pytest.raises(SettingError, match=f"`{name}` utf-16: has no effect"):
            read_corpus(["the cat"], **{name: "utf-16"})
    with pytest.raises(SettingError, match="`encoding` latin-1: has no effect with `tokens` bytes"):
        read_corpus(path, encoding="latin-1", tokens="bytes")
    with pytest.raises(UserError, match="is not `encoding` ascii: byte 0xc3"):
        (tmp_path / "wide.txt").write_text("é\n", encoding="utf-8")
        read_corpus(tmp_path / "wide.txt", encoding="ascii")


def test_the_detector_is_not_imported_for_utf8(tmp_path):
    (tmp_path / "text.txt").write_text("the cat\n")
    script = (
        "import sys, jaxlm; jaxlm.read_corpus('text.txt'); "
        "sys.exit('charset_normalizer' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("tokens", ["words", "chars", "bytes"])
def test_compressed_files_read_as_plain_ones(ending, tokens, tmp_path):
    data = BOM + "the cat\r\nle café\r\n".encode() * 40
    (tmp_path / "plain.txt").write_bytes(data)
    packed = tmp_path / f"packed.txt{ending}"
    packed.write_bytes(PACK[ending](data))
    plain, found = (read_corpus(path, tokens=tokens) for path in (tmp_path / "plain.txt", packed))
    assert list(found.splits) == ["train", "valid", "test"]
    for name, split in plain.splits.items():
        np.testing.assert_array_equal(found.splits[name].ids, split.ids)
    whole = open_file(packed, plain.tokenizer)
    assert len(whole) == sum(map(len, plain.splits.values()))


def test_a_folder_may_have_compressed_files(tmp_path):
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(BOM + b"the cat\n"))
    (tmp_path / "valid.txt.zst").write_bytes(zstd.compress(BOM + b"cat the\n"))
    (tmp_path / "test.txt").write_bytes(BOM + b"cat\n")
    text = read_corpus(tmp_path)
    assert [list(split.source.lines()) for split in text.splits.values()] == [
        ["the cat\n"],
        ["cat the\n"],
        ["cat\n"],
    ]
    (tmp_path / "train.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"several train files \(train\.txt, train\.txt\.gz\)"):
        read_corpus(tmp_path)


def test_damaged_compressed_files_are_one_line(tmp_path):
    for ending in (".gz", ".zst"):
        path = tmp_path / f"text{ending}"
        path.write_bytes(PACK[ending](b"the cat sat on the mat\n" * 99)[:-9])
        with pytest.raises(UserError, match="cannot read"):
            read_corpus(path)


def test_not_utf8_in_a_compressed_file_is_named(tmp_path):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(("the café\n" * 9).encode("latin-1")))
    with pytest.raises(UserError, match=r"byte 0xe9 at offset 7 .* cp1252"):
        read_corpus(path)


@settings(max_examples=40)
@given(data=st.binary(min_size=20, max_size=300).filter(lambda data: data.strip()))
def test_bytes_are_read_exactly(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "data.bin"
    data = b"x" + data
    path.write_bytes(data)
    text = read_corpus(path, tokens="bytes")
    ids = np.concatenate([split.ids for split in text.splits.values()])
    assert bytes(ids.astype(np.uint8)) == data
    assert sum(split.text_size().bytes for split in text.splits.values()) == len(data)
    whole = open_file(path, text.tokenizer)
    assert bytes(whole.ids.astype(np.uint8)) == data


def test_bytes_that_continue_no_character_are_cut_into_splits(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"\x80" * 1000)
    assert [len(split) for split in read_corpus(path, tokens="bytes").splits.values()] == [
        900,
        50,
        50,
    ]


def test_prepared_bytes_are_exact(tmp_path):
    path = tmp_path / "data.bin"
    data = bytes(range(256)) * 9 + b"\r\n\r"
    path.write_bytes(data)
    text = prepared(tmp_path / "out", path, tokens="bytes")
    assert bytes(np.asarray(text.train.ids).astype(np.uint8)) == data


def prepared(folder, path, **options):
    config = PreparingConfig(workers=1, **options)
    texts = {"train": [path]}
    tokenizer = claim_prepared_folder(folder, texts, config)
    prepare(folder, texts, tokenizer, 1, lambda shard, new: None, config.reading)
    return read_corpus(folder)


ENDS = {"LF": "\n", "CR LF": "\r\n", "CR": "\r"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_every_line_end_gives_the_same_tokens(end, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(("the sun is warm\nthe sea is wide\n" * 40).replace("\n", end).encode())
    text = read_corpus(path)
    assert [len(split) for split in text.splits.values()] == [360, 20, 20]
    assert text.train.ids[:5].tolist() == text.train.ids[10:15].tolist()
    assert len(prepared(tmp_path / "out", path, tokens="words").train) == 400


def test_unicode_separators_divide_words_and_end_no_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a\u2028b\x85c\u3000d\xa0e\n", encoding="utf-8")
    text = read_corpus(path, fractions=(1.0,))
    assert set(text.vocabulary.tokens) == {"a", "b", "c", "d", "e", "<eos>"}
    assert len(text.train) == 6


@given(
    data=st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n"])).map(b"".join),
    size=st.integers(1, 5),
)
def test_lines_are_read_to_their_ends(data, size):
    file = io.BufferedReader(io.BytesIO(data), size)
    lines = []
    while line := read_line(file):
        lines.append(line)
    assert lines == data.splitlines(keepends=True)


UNSPACED = {
    "Chinese": ("今天天气很好，我们去公园玩。\n", True),
    "Chinese with spaces": ("今天 天气 很 好 ， 我们 去 公园 玩 。\n", False),
    "verse": ("白日依山尽\n黄河入海流\n", True),
    "Japanese": ("今日は天気がいいです。公園へ行きましょう。\n", True),
    "Thai": ("วันนี้อากาศดีมากเราไปสวนสาธารณะกัน\n", True),
    "Thai with spaces": ("วันนี้ อากาศ ดี มาก เรา ไป สวนสาธารณะ กัน\n", False),
    "Korean": ("오늘은 날씨가 좋습니다. 공원에 갑시다.\n", False),
    "English with addresses": ("see https://example.org/" + "a/b" * 60 + "\n", False),
    "code": ("x=[i**2for(i)in(range(10))];print(','.join(map(str,x)))\n", False),
    "DNA": ("ACGT" * 200 + "\n", False),
    "English with some Chinese": ("the word 今天天气很好 is a sentence of it\n" * 2, False),
    "nothing": ("", False),
}


@pytest.mark.parametrize(("text", "expected"), UNSPACED.values(), ids=UNSPACED)
def test_text_without_spaces_is_recognised(text, expected):
    assert mostly_unspaced([text]) is expected


def test_text_without_spaces_is_read_by_characters(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("今天天气很好，我们去公园玩。\n" * 40, encoding="utf-8")
    text = read_corpus(path)
    assert text.config.tokens == "chars" == text.tokenizer.name
    assert any("read by characters: choose `tokens`" in note for note in text.notes)
    assert read_corpus(path, tokens="words").tokenizer.name == "words"
    # The validation split does not decide.
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/train.txt").write_text("the cat sat\n" * 9)
    (tmp_path / "folder/valid.txt").write_text("今天天气很好\n" * 99, encoding="utf-8")
    assert read_corpus(tmp_path / "folder").config.tokens == "words"


TABLE = 'id,review,stars\n1,"good, really\ngood",5\n2,bad film,1\n3,,2\n4,"it was ""ok""",3\n'
RECORDS = [{"id": 1, "review": "good, really\ngood"}, {"review": "bad film"}, {"id": 3}]
LINES = ["good, really good\n", "bad film\n", 'it was "ok"\n']


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", TABLE),
        ("t.txt", TABLE),
        ("t.csv", "\ufeff" + TABLE.replace("\n", "\r\n")),
        ("t.tsv", 'id\treview\n1\t"good, really\ngood"\n2\tbad film\n3\t"it was ""ok"""\n'),
        ("t.csv", 'review;id\n"good, really\ngood";1\nbad film;2\n"it was ""ok""";3\n'),
        (
            "t.jsonl",
            "\n".join(map(json.dumps, [*RECORDS, {"review": None}, {"review": 'it was "ok"'}])),
        ),
    ],
)
@pytest.mark.parametrize("packed", PACK)
def test_a_column_is_read(name, data, packed, tmp_path):
    path = tmp_path / f"{name}{packed}"
    path.write_bytes(PACK[packed](data.encode()))
    text = read_corpus(path, column="review", fractions=(1.0,))
    assert list(text.train.source.lines()) == LINES
    assert text.config.column == "review"
    text = prepared(tmp_path / "out", path, tokens="chars", column="review")
    assert list(text.train.source.lines()) == LINES
    with pytest.raises(SettingError, match=r"`column` text: .* has no such column, but .*review"):
        read_corpus(path, column="text")


def test_a_folder_of_tables(tmp_path):
    (tmp_path / "train.csv").write_text(TABLE)
    (tmp_path / "valid.jsonl").write_text('{"review": "good film"}\n')
    text = read_corpus(tmp_path, column="review")
    assert list(text.train.source.lines()) == LINES
    assert list(text.valid.source.lines()) == ["good film\n"]
    with pytest.raises(UserError, match=r"to read train\.csv, name its `column`"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.jsonl", '{"a": "x"}\n{"a"\n', "record 2, is no JSON object"),
        ("t.jsonl", "[1]\n", "record 1, is no JSON object"),
        ("t.jsonl", '{"a": ["x"]}\n', "`column` a is neither text nor number"),
        ("t.jsonl", "[" * 100_000, "is no JSON object"),
        ("t.csv", "", "has no such column, but none at all"),
        # A comma or a quotation mark that is not in quotes would lose text in silence.
        ("t.csv", "a\nHello, world\n", "line 2, has 2 cells, and the header has 1"),
        ("t.csv", 'a,b\n"x",1\ny\n', "line 3, has 1 cells, and the header has 2"),
        (
            "t.tsv",
            'id\ta\n1\t"Great he said\n2\tbad film\n',
            "line 2, is no CSV: a quotation mark is not closed",
        ),
        ("t.csv", 'a,b\n"x"y,1\n', "line 2, is no CSV"),
        # Blank lines at the beginning count.
        ("t.csv", "\n\na,b\nx,1\ny\n", "line 5, has 1 cells, and the header has 2"),
        ("t.jsonl", '\n{"a": "x"}\n[1]\n', "record 3, is no JSON object"),
    ],
)
def test_bad_tables_are_one_line(name, data, message, tmp_path):
    path = tmp_path / name
    path.write_text(data)
    with pytest.raises(UserError, match=message):
        read_corpus(path, column="a")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", "id,text\n1,a b\n2,\n,\n\n3, c \n"),
        ("t.jsonl", '{"text": "a b"}\n{"text": null}\n{"id": 3}\n\n{"text": "c"}\n'),
    ],
)
def test_rows_without_text_are_blank_lines_where_rows_have_numbers(name, data, tmp_path):
    path = tmp_path / name
    path.write_text(data)
    assert list(lines_of_file(path, column="text")) == ["a b\n", "\n", "\n", "c\n"]
    text = read_corpus(path, column="text", fractions=(1.0,))
    assert list(text.train.source.lines()) == ["a b\n", "c\n"]


def test_long_cells_are_read(tmp_path):
    long = "word " * 60_000
    (cell,) = cells(io.StringIO(f"a,b\n{long},1\n"), "a", tmp_path / "t.csv")
    assert cell == f"{long.strip()}\n"


def test_an_encoded_table_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("id,评论\n1,很好\n".encode("gb18030"))
    with pytest.raises(UserError, match="give `encoding` gb18030"):
        read_corpus(path, column="评论")
    text = read_corpus(path, column="评论", encoding="gb18030", fractions=(1.0,))
    assert list(text.train.source.lines()) == ["很好\n"]


def test_notes_name_nuls_and_words_of_the_tokenizer(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"the cat <eos>\n<s> the \0dog </s>\n" * 40)
    notes = " ".join(read_corpus(path, fractions=(1.0,)).notes)
    assert "the word <eos> 40 times" in notes and "40 NUL characters" in notes
    assert "the word <s> 40 times" in notes and "the word </s> 40 times" in notes
    # Without <eos> of its own, the tokenizer adds none.
    assert "<eos>" not in " ".join(read_corpus(path, fractions=(1.0,), eos=False).notes)
    path.write_bytes(b"the cat\n" * 40)
    assert not read_corpus(path, fractions=(1.0,)).notes
