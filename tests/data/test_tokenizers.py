"""Tokenizers decode what they encode, and give the same ids after a round trip through JSON."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.data.tokenizers import (
    BPE,
    TOKENIZERS,
    Bytes,
    VocabularyConfig,
    from_json,
    to_json,
)
from jaxlm.data.vocabulary import EOS
from jaxlm.errors import UserError

SENTENCES = (
    "the cat sat on the mat\n"
    "the dog sat on the cat  and\tran\n"
    "\n"
    "我 喜欢 玩具，naïve café 🙂\n"
    "line\u2028separator \x0b and <unk>\n"
    "the last line has no break"
)
ANY_TEXT = st.text(max_size=80) | st.text("ab \n\r\t\u2028é我🙂", max_size=80)
examples = settings(deadline=None, max_examples=60)


def as_lines(text):
    return list(io.StringIO(text, newline="\n"))


def fit(name, text=SENTENCES, add_unk=False, **config):
    return TOKENIZERS[name].fit(as_lines(text), VocabularyConfig(**config), add_unk)


@pytest.fixture(scope="module")
def fitted():
    """A fitted tokenizer of each kind, which encodes any text."""
    return {
        name: fit(name, add_unk=kind.closed_vocabulary, vocab_size=300)
        for name, kind in TOKENIZERS.items()
    }


@pytest.mark.parametrize("name", ["chars", "bytes", "bpe"])
@examples
@given(text=ANY_TEXT)
def test_round_trip_of_any_text(name, fitted, text):
    tokenizer = fit("chars", text) if name == "chars" else fitted[name]
    ids = tokenizer.encode(as_lines(text))
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert tokenizer.decode(ids.tolist()) == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_decode_accepts_arrays(name, fitted):
    """An array decodes like the list of its ids."""
    ids = fitted[name].encode(as_lines("the cat\nsat on\n"))
    assert fitted[name].decode(ids) == "the cat\nsat on\n"


@examples
@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1).filter(
                # The word <eos> in a text stands for the end of a line.
                lambda word: word.split() == [word] and word != EOS
            )
        )
    )
)
def test_round_trip_of_words_keeps_all_but_white_space(rows):
    text = "".join(" ".join(row) + "\n" for row in rows)
    tokenizer = fit("words", text)
    assert tokenizer.decode(tokenizer.encode(as_lines(text)).tolist()) == text


@pytest.mark.parametrize("name", ["bytes", "bpe"])
@examples
@given(text=ANY_TEXT)
def test_bytes_and_bpe_encode_every_text(name, fitted, text):
    tokenizer = fitted[name]
    ids = tokenizer.encode(as_lines(text))
    assert tokenizer.vocabulary.unk is None
    assert tokenizer.unseen(as_lines(text)) is None
    assert np.all((ids >= 0) & (ids < len(tokenizer.vocabulary)))


@pytest.mark.parametrize("name", TOKENIZERS)
@examples
@given(text=ANY_TEXT, cuts=st.lists(st.integers(0, 20)))
def test_ids_do_not_depend_on_how_lines_are_grouped(name, fitted, text, cuts):
    lines = as_lines(text)
    edges = sorted({0, len(lines), *(cut for cut in cuts if cut < len(lines))})
    parts = [fitted[name].encode(lines[a:b]) for a, b in itertools.pairwise(edges)]
    joined = np.concatenate([np.empty(0, np.int32), *parts])
    assert joined.tolist() == fitted[name].encode(iter(lines)).tolist()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("words", {}),
        ("words", {"eos": False}),
        ("words", {"min_count": 2}),
        ("words", {"vocab_size": 5}),
        ("chars", {}),
        ("chars", {"vocab_size": 9}),
        ("bytes", {}),
        ("bpe", {"vocab_size": 280}),
    ],
)
def test_json_round_trip_keeps_ids(name, config):
    tokenizer = fit(name, **config)
    again = from_json(to_json(tokenizer))
    assert again.name == name
    assert again.vocabulary == tokenizer.vocabulary
    assert to_json(again) == to_json(tokenizer)
    for text in (SENTENCES, "the mat\nthe\n"):
        ids = tokenizer.encode(as_lines(text))
        assert again.encode(as_lines(text)).tolist() == ids.tolist()
        assert again.decode(ids.tolist()) == tokenizer.decode(ids.tolist())


def test_json_of_an_unknown_tokenizer_is_an_error():
    text = to_json(fit("bytes")).replace('"bytes"', '"byte"')
    with pytest.raises(UserError, match=r"unknown tokenizer 'byte' \(did you mean 'bytes'\?\)"):
        from_json(text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_start_token_is_the_line_break(name, fitted):
    """The start token, which precedes the first token of a text, is the token of a line's end."""
    assert fitted[name].encode(["\n"]).tolist() == [fitted[name].vocabulary.start_id]


@pytest.mark.parametrize(
    ("name", "unit", "splits_at_lines", "closed_vocabulary"),
    [
        ("words", "words", True, True),
        ("chars", "characters", False, True),
        ("bytes", "tokens", False, False),
        ("bpe", "tokens", False, False),
    ],
)
def test_units_and_vocabularies_of_tokenizers(
    name, unit, splits_at_lines, closed_vocabulary, fitted
):
    tokenizer = fitted[name]
    assert tokenizer.unit == unit
    assert tokenizer.splits_at_lines == splits_at_lines
    assert tokenizer.closed_vocabulary == closed_vocabulary
    assert (tokenizer.vocabulary.unk is not None) == closed_vocabulary


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["", "the cat", " the  cat ", "the cat\nthe", "a\n\n b"])
def test_a_context_is_encoded_like_the_start_of_a_line(name, text, fitted):
    tokenizer, lines = fitted[name], as_lines(text) or [""]
    ids = tokenizer.encode_context(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    if tokenizer.unit == "words":
        # A line has an additional token at its end, <eos>.
        assert [*ids.tolist(), tokenizer.vocabulary.start_id] == tokenizer.encode(lines).tolist()
    else:
        assert ids.tolist() == tokenizer.encode(lines).tolist()


def test_a_line_break_in_a_context_ends_a_line(fitted):
    words, start = fitted["words"], fitted["words"].vocabulary.start_id
    assert words.encode_context("the cat\n").tolist() == words.encode(["the cat\n"]).tolist()
    the, cat, end, again = words.encode_context("the cat\r\nthe").tolist()
    assert end == start and again == the != cat
    assert words.decode([the, cat, end, again]) == "the cat\nthe"
    for name in ("chars", "bpe"):
        assert fitted[name].decode(fitted[name].encode_context("a\r\nb")) == "a\nb"
    # Every byte counts.
    read = fitted["bytes"]
    assert read.decode(read.encode_context("a\r\nb")) == "a\r\nb"
    # Without <eos>, a line break divides words like a blank.
    plain = fit("words", "the cat\n", eos=False)
    assert plain.encode_context("the\ncat").tolist() == plain.encode_context("the cat").tolist()


@pytest.mark.parametrize("name", TOKENIZERS)
@examples
@given(text=ANY_TEXT)
def test_pieces_are_the_texts_of_the_ids(name, fitted, text):
    tokenizer, lines = fitted[name], as_lines(text)
    pieces, ids = list(tokenizer.pieces(lines)), tokenizer.encode(lines).tolist()
    assert len(pieces) == len(ids)
    unk_id = tokenizer.vocabulary.unk_id
    for piece, id_ in zip(pieces, ids, strict=True):
        assert piece == tokenizer.token_text(id_) or (
            id_ == unk_id and piece not in tokenizer.vocabulary
        )


def test_tokens_of_bytes_are_readable(fitted):
    tokens = fitted["bytes"]
    shown = "".join(map(tokens.token_text, tokens.encode(["é a\n"]).tolist()))
    assert shown == "<0xC3><0xA9> a\n"
    bpe = fit("bpe", "在 我。\n在 他。\n" * 20, vocab_size=300)
    assert {"在", "。", "\n", "<0xE6>"} <= set(map(bpe.token_text, range(len(bpe.vocabulary))))
    for tokenizer in (tokens, bpe, fitted["bpe"]):
        size = len(tokenizer.vocabulary)
        assert len({tokenizer.token_text(index) for index in range(size)}) == size


def test_a_context_with_an_unseen_word_is_an_error():
    with pytest.raises(UserError, match="'zebra' is not among the"):
        fit("words", "the cat sat\n").encode_context("the zebra")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_empty_text_has_no_ids(name, fitted):
    ids = fitted[name].encode([])
    assert ids.shape == (0,)
    assert ids.dtype == np.int32
    assert fitted[name].decode([]) == ""


@pytest.mark.parametrize(
    ("text", "eos", "expected"),
    [
        ("a b\nc\n", True, "a b <eos> c <eos>"),
        ("a b\nc\n", False, "a b c"),
        ("a\n\n\nb\n", True, "a <eos> <eos> <eos> b <eos>"),  # an empty line is an <eos>
        ("a\nb", True, "a <eos> b <eos>"),  # a last line without a line break has an <eos> too
        ("  a\t b\u3000c\x0bd\u2028e \r\n", True, "a b c d e <eos>"),
    ],
)
def test_words_are_split_at_white_space(text, eos, expected):
    tokenizer = fit("words", text, eos=eos)
    ids = tokenizer.encode(as_lines(text))
    assert " ".join(tokenizer.vocabulary.tokens[index] for index in ids) == expected
    assert (tokenizer.vocabulary.start_id is not None) == eos


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("a b <eos> c <eos>", "a b\nc\n"),
        ("<eos> a <eos> <eos> b", "\na\n\nb"),
        ("a b c", "a b c"),
    ],
)
def test_words_decode_eos_as_line_breaks(tokens, text):
    tokenizer = fit("words", "a b c\n")
    assert tokenizer.decode(tokenizer.vocabulary.ids(tokens.split())) == text


@pytest.mark.parametrize(
    ("name", "options", "line", "unseen", "decoded"),
    [
        ("words", {"add_unk": True}, "the zebra sat\n", "zebra", "the <unk> sat\n"),
        ("words", {"min_count": 2}, "the mat sat\n", "mat", "the <unk> sat\n"),
        ("chars", {"add_unk": True}, "the Z\n", "Z", "the <unk>\n"),
        ("chars", {"min_count": 2}, "the 🙂\n", "🙂", "the <unk>\n"),
    ],
)
def test_unseen_tokens_become_unk(name, options, line, unseen, decoded):
    text = SENTENCES.replace("<unk>", "")
    tokenizer = fit(name, text, **options)
    assert tokenizer.unseen(["the\n", line]) == unseen
    assert tokenizer.unseen(["the\n"]) is None
    assert tokenizer.decode(tokenizer.encode([line]).tolist()) == decoded


@pytest.mark.parametrize(
    ("name", "unseen_token"), [("words", "zebra"), ("chars", "Z"), ("chars", "龘")]
)
def test_an_unseen_token_without_unk_is_an_error(name, unseen_token):
    tokenizer = fit(name, "the cat sat on the mat\n")
    assert tokenizer.unseen([f"the {unseen_token}\n"]) == unseen_token
    with pytest.raises(UserError, match=f"'{unseen_token}' is not among the"):
        tokenizer.encode(["the\n", f"the {unseen_token}\n"])


def test_bytes_have_256_tokens():
    tokenizer = fit("bytes")
    assert len(tokenizer.vocabulary) == 256
    assert tokenizer.encode(["aé\n"]).tolist() == [0x61, 0xC3, 0xA9, 0x0A]
    assert tokenizer.vocabulary.tokens[0x61] == "a"
    assert tokenizer.vocabulary.tokens[0xC3] == r"\xc3"
    assert tokenizer.decode([0x61, 0xC3]) == "a\N{REPLACEMENT CHARACTER}"


def test_bpe_fit_is_deterministic():
    """Thousands of pairs are equally frequent, and the merges are still the same each time."""
    letters = np.random.default_rng(0).integers(0, 26, 20_000).astype(np.uint8) + ord("a")
    text = bytes(letters).decode().replace("e", " ").replace("z", "\n")
    first = fit("bpe", text, vocab_size=400)
    assert len(first.vocabulary) == 400
    assert to_json(fit("bpe", text, vocab_size=400)) == to_json(first)


def test_bpe_merges_frequent_pairs():
    tokenizer = fit("bpe", "the cat the hat\n" * 9, vocab_size=300)
    assert 256 < len(tokenizer.vocabulary) <= 300
    assert len(tokenizer.encode(["the the the\n"])) == 4
    rare = fit("bpe", "the cat the hat\n" * 9, vocab_size=300, min_count=1000)
    assert len(rare.vocabulary) == 256


@pytest.mark.parametrize("size", [0, 256])
def test_a_bpe_vocabulary_that_is_too_small_is_an_error(size):
    with pytest.raises(UserError, match=f"`vocab_size` {size}: .* at least 257"):
        fit("bpe", vocab_size=size)


@pytest.mark.parametrize(
    "text", ["我" * 500 + "爱" * 333, "ACGT" * 400, " " * 999 + "a", "1" * 777]
)
def test_bpe_splits_long_runs_without_a_break(text):
    lines = [text + "\n", "a b\n"]
    bpe = TOKENIZERS["bpe"].fit(lines, VocabularyConfig(), False)
    ids = bpe.encode(lines)
    assert bpe.decode(ids) == "".join(lines)
    # No token is longer than the longest piece of a run, however long the run is.
    assert max(len(bpe.decode([index])) for index in set(ids.tolist())) <= 25


def test_a_line_break_is_a_token_of_its_own():
    """Lines of PTB and of WikiText-2 end in a blank, which is no part of the line break."""
    lines = ["the cat sat \n", "  a dog\t\n", "\n", " \n"] * 40
    bpe = BPE.fit(lines, VocabularyConfig(vocab_size=300), True)
    ids = bpe.encode(lines)
    assert np.count_nonzero(ids == bpe.vocabulary.start_id) == len(lines)
    assert bpe.decode(ids) == "".join(lines)


def test_a_carriage_return_is_a_byte_of_a_context():
    text = "a\r\né\r"
    assert Bytes().encode_context(text).tolist() == list(text.encode())
    assert Bytes().spans(text).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [3, 4], [4, 5]]
