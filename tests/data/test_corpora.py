"""Corpora by name and by path, their errors and notes, and the published numbers of tokens."""

from pathlib import Path

import pytest

from jaxlm.data import corpora
from jaxlm.data.corpora import (
    CORPORA,
    corpus_sources,
)
from jaxlm.data.sources import TextFile
from jaxlm.data.text import TextConfig, read_corpus
from jaxlm.errors import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
TRAIN, VALID, TEST = "a b c\na b\n", "b a\n", "c\n"


def write(folder, **texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name.replace('_', '.')}.txt").write_text(text, encoding="utf-8", newline="")
    return str(folder)


def tokens(split):
    return " ".join(split.tokenizer.vocabulary.tokens[index] for index in split.ids)


# By name


@pytest.mark.parametrize(
    ("eos", "expected"),
    [
        (False, "我 喜欢 玩具 我 爱 爸爸 我 讨厌 挨打"),
        (True, "我 喜欢 玩具 <eos> 我 爱 爸爸 <eos> 我 讨厌 挨打 <eos>"),
    ],
)
def test_toy_is_the_lecture_s_text(eos, expected):
    text = read_corpus("toy", eos=eos)
    assert tokens(text.train) == expected
    assert len(text.vocabulary) == 7 + eos
    assert text.vocabulary.tokens[0] == "我"
    assert (text.valid, text.test, text.notes) == (None, None, ())


def test_toy_is_the_default():
    assert read_corpus().train.ids.tolist() == read_corpus(TextConfig()).train.ids.tolist()


def test_the_error_for_an_unknown_name_lists_the_choices():
    with pytest.raises(UserError) as caught:
        read_corpus("wikitext2")
    message = str(caught.value)
    assert "'wikitext2' (did you mean 'wikitext-2'?)" in message
    assert all(name in message for name in CORPORA)
    assert message.endswith("or give a file or folder that exists")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "char"}, r"unknown tokens 'char' \(did you mean 'chars'\?\).*words.*bpe"),
        ({"unk": "sometimes"}, "`unk` 'sometimes': choose one of auto, always, never"),
    ],
)
def test_unknown_options_are_errors(options, message):
    with pytest.raises(UserError, match=message):
        read_corpus("toy", **options)


def test_a_missing_split_is_an_error():
    text = read_corpus("toy")
    with pytest.raises(UserError, match="unknown split of toy 'test': choose one of train"):
        text.split("test")


# By path


def test_a_file_is_split_by_fractions(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("".join(f"line {number:02}\n" for number in range(100)), encoding="utf-8")
    text = read_corpus(str(path))
    lines = {name: list(split.source.lines()) for name, split in text.splits.items()}
    assert [line for split in ("train", "valid", "test") for line in lines[split]] == list(
        TextFile(path).lines()
    )
    assert [len(lines[split]) for split in lines] == [90, 5, 5]
    assert len(text.train) == 90 * 3
    half = read_corpus(str(path), fractions=(0.5, 0.5))
    assert list(half.splits) == ["train", "valid"]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("ptb_train", "ptb_valid", "ptb_test"),
        ("wiki_train", "valid", "x_y_test"),
    ],
)
def test_a_folder_has_a_file_for_each_split(names, tmp_path):
    folder = write(tmp_path / "text", **dict(zip(names, (TRAIN, VALID, TEST), strict=True)))
    text = read_corpus(folder)
    assert tokens(text.train) == "a b c <eos> a b <eos>"
    assert tokens(text.valid) == "b a <eos>"
    assert tokens(text.test) == "c <eos>"
    assert text.vocabulary.tokens == ("a", "b", "<eos>", "c")


def test_a_folder_may_have_only_train(tmp_path):
    text = read_corpus(write(tmp_path, train=TRAIN))
    assert list(text.splits) == ["train"]
    assert text.valid is None


def test_a_folder_with_input_txt_is_split_by_fractions(tmp_path):
    folder = write(tmp_path, input="a b c d e f\n" * 10)
    whole = {split: len(ids) for split, ids in read_corpus(folder).splits.items()}
    # 0.9 of ten lines are nine lines. The next cut, at 0.95, moves to the end of its line.
    assert whole == {"train": 63, "valid": 7}
    assert list(read_corpus(folder, fractions=(0.5, 0.2, 0.3)).splits) == ["train", "valid", "test"]
    chars = read_corpus(folder, tokens="chars", fractions=(0.9, 0.1))
    assert [len(chars.train), len(chars.valid)] == [108, 12]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a_train": TRAIN, "train": TRAIN}, r"several train files \(a.train.txt, train.txt\)"),
        ({"train": TRAIN, "a_valid": VALID, "b_valid": VALID}, "several valid files"),
        ({"notes": TRAIN}, r"no train.txt, \*.train.txt or input.txt"),
        ({"valid": VALID, "test": TEST}, r"no train.txt, \*.train.txt or input.txt"),
        ({}, r"no train.txt, \*.train.txt or input.txt"),
    ],
)
def test_folders_without_clear_splits_are_errors(files, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read_corpus(write(tmp_path / "text", **files))
    assert str(tmp_path / "text") in str(caught.value)


@pytest.mark.parametrize("kind", ["words", "chars", "bytes", "bpe"])
@pytest.mark.parametrize("where", ["file", "train of a folder"])
@pytest.mark.parametrize("text", ["", "\n", " \n\t\n\n", "\ufeff"])
def test_an_empty_text_is_an_error(text, where, kind, tmp_path):
    folder = write(tmp_path / "text", train=text, valid=VALID)
    corpus = folder if where == "train of a folder" else f"{folder}/train.txt"
    with pytest.raises(UserError, match="is empty: there is no text to train on") as caught:
        read_corpus(corpus, tokens=kind)
    assert str(caught.value).startswith(corpus)


@pytest.mark.parametrize("kind", ["words", "chars", "bytes", "bpe"])
def test_the_smallest_texts_are_read_or_are_errors(kind, tmp_path):
    """A text that is too small to split is read as a whole, or raises UserError."""
    folder = write(tmp_path / "text", train="a")
    assert len(read_corpus(folder, tokens=kind).train) >= 1
    try:
        text = read_corpus(f"{folder}/train.txt", tokens=kind)
    except UserError:
        return
    assert len(text.train) >= 1


# Tokens that the training text does not have


def test_unk_auto_adds_unk_only_if_needed(tmp_path):
    known = read_corpus(write(tmp_path / "known", train=TRAIN, valid=VALID))
    assert known.vocabulary.unk is None
    new = read_corpus(write(tmp_path / "new", train=TRAIN, valid=VALID, test="a z\n"))
    assert new.vocabulary.tokens == ("a", "b", "<eos>", "c", "<unk>")
    assert tokens(new.test) == "a <unk> <eos>"


def test_unk_always_adds_unk_and_never_does_not(tmp_path):
    folder = write(tmp_path / "text", train=TRAIN, valid="a z\n")
    assert read_corpus("toy", unk="always").vocabulary.unk == "<unk>"
    with pytest.raises(UserError, match="'z' is not among the 4 tokens"):
        read_corpus(folder, unk="never")


UNLEARNT = "<unk> never occurs in the training text"
NO_SPACES = "has no spaces, so it counts as one word"
BY_CHARACTERS = "no spaces between words, so it is read by characters"
CHINESE = "混沌未分天地乱茫茫渺渺无人见自从盘古破鸿蒙开辟从兹清浊辨\n"


@pytest.mark.parametrize(
    ("train", "valid", "options", "expected"),
    [
        (TRAIN, VALID, {}, []),
        (TRAIN, "z\n", {}, [UNLEARNT]),
        (TRAIN, "z\n", {"min_count": 2}, []),
        (TRAIN, VALID, {"unk": "always"}, [UNLEARNT]),
        (TRAIN + "<unk>\n", "z\n", {}, []),
        (CHINESE, CHINESE, {}, [BY_CHARACTERS]),
        (CHINESE, CHINESE, {"tokens": "words"}, [NO_SPACES]),
        (
            "\u3000\u3000" + CHINESE,
            CHINESE,
            {"unk": "always", "tokens": "words"},
            [NO_SPACES, UNLEARNT],
        ),
        ("短\n" + CHINESE, CHINESE, {}, [BY_CHARACTERS]),
        (CHINESE, CHINESE, {"tokens": "chars"}, []),
        (CHINESE, CHINESE, {"tokens": "bpe"}, []),
        (" ".join(CHINESE), CHINESE, {"unk": "always"}, [UNLEARNT]),
        ("https://" + "x" * 99 + "\n", "a\n", {}, [UNLEARNT]),
    ],
)
def test_notes_warn_of_unlearnt_unk_and_missing_spaces(train, valid, options, expected, tmp_path):
    options = {"vocab_size": 300, **options}
    notes = read_corpus(write(tmp_path / "text", train=train, valid=valid), **options).notes
    assert len(notes) == len(expected)
    assert all(part in note for part, note in zip(expected, notes, strict=True))


# The published numbers of tokens of the real texts


@pytest.fixture
def real(monkeypatch):
    """Read corpora by name from the folder of real texts instead of the network."""
    if not REAL.is_dir():
        pytest.skip("the real texts are not here")
    found = {TextFile(path).sha256(): path for path in REAL.glob("*/*.txt")}
    monkeypatch.setattr(corpora, "fetch", lambda remote, folder: found[remote.sha256])
    return REAL


PUBLISHED = {
    "ptb": ({"train": 929_589, "valid": 73_760, "test": 82_430}, 10_000),
    "wikitext-2": ({"train": 2_088_628, "valid": 217_646, "test": 245_569}, 33_278),
    "tinyshakespeare": ({"train": 1_003_854, "valid": 111_540}, 65),
}


@pytest.mark.parametrize(("name", "counts", "size"), [(n, *p) for n, p in PUBLISHED.items()])
def test_numbers_of_tokens_are_as_published(name, counts, size, real):
    text = read_corpus(name)
    assert {split: len(ids) for split, ids in text.splits.items()} == counts
    assert len(text.vocabulary) == size
    assert text.notes == ()
    for split in text.splits.values():
        assert split.ids.min() >= 0
        assert split.ids.max() < size
    if text.tokenizer.name == "words":
        assert (text.train.ids == text.vocabulary.unk_id).any()
        written = "".join(" ".join(line.split()) + "\n" for line in text.valid.source.lines())
    else:
        written = "".join(text.valid.source.lines())
    assert text.tokenizer.decode(text.valid.ids.tolist()) == written


def test_corpora_by_path_equal_corpora_by_name(real):
    for name in ("ptb", "wikitext-2"):
        assert corpus_sources(str(real / name), None, True) == corpus_sources(name, None, True)


def test_tinyshakespeare_by_path_has_the_published_numbers(real):
    folder = str(real / "tinyshakespeare")
    text = read_corpus(folder, tokens="chars", fractions=(0.9, 0.1))
    assert {split: len(ids) for split, ids in text.splits.items()} == PUBLISHED["tinyshakespeare"][
        0
    ]
    assert len(text.vocabulary) == 65


def test_journey_to_the_west_by_character(real):
    text = read_corpus(str(real / "xiyouji"), tokens="chars")
    sizes = [split.text_size() for split in text.splits.values()]
    characters, lines = sum(size.characters for size in sizes), sum(size.lines for size in sizes)
    assert sum(map(len, text.splits.values())) == characters
    assert len(text.vocabulary) == 4_401
    # The two cuts between splits may divide lines; every other line ends in a line break.
    breaks = sum((split.ids == text.vocabulary.start_id).sum() for split in text.splits.values())
    assert characters - breaks == 657_963
    assert lines - breaks <= 3
    assert any(BY_CHARACTERS in note for note in read_corpus(str(real / "xiyouji")).notes)
    by_words = read_corpus(str(real / "xiyouji"), tokens="words")
    assert any(NO_SPACES in note for note in by_words.notes)
