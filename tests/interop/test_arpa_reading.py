"""ARPA files of other programs are read, and an error names the line of a mistake."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.interop import arpa
from jaxlm.interop.arpa import read_arpa
from jaxlm.interop.arpa_runs import export_arpa, import_arpa

FIXTURES = Path(__file__).parent / "fixtures"


def in_words(model):
    """Return {n-gram: (probability, backoff)} of a model."""
    names = [*("</s>" if token == "<eos>" else token for token in model.tokens), "<s>"]
    found = {}
    for order, probabilities in enumerate(model.tables.probabilities, start=1):
        backoffs = [*model.tables.backoffs, np.ones(len(probabilities))][order - 1]
        for words, *values in zip(model.tables.words(order), probabilities, backoffs, strict=True):
            found[" ".join(names[word] for word in words)] = tuple(values)
    return found


@pytest.mark.parametrize("name", ["farm", "lecture"])
def test_probabilities_and_backoffs_are_read_exactly(name):
    """Compare with a short reader that reads only lmplz's files."""
    expected = {}
    for line in gzip.decompress((FIXTURES / f"{name}.arpa.gz").read_bytes()).decode().splitlines():
        if "\t" in line:
            log, words, backoff = (line + "\t0" if line.count("\t") == 1 else line).split("\t")
            expected[words] = (10 ** float(log), 10 ** float(backoff))
    expected["<s>"] = (0.0, expected["<s>"][1])  # <s> is never predicted
    found = in_words(read_arpa(FIXTURES / f"{name}.arpa.gz"))
    assert found.keys() == expected.keys()
    for words, values in found.items():
        assert values == pytest.approx(expected[words], rel=1e-12), words


# A file like SRILM's: n-grams are sorted, and only necessary backoffs are written. It also has
# unusual spaces, blank lines and infinite numbers, which the format allows.
SRILM = """
This file is in the ARPA-standard format introduced by Doug Paul.

\\data\\
ngram 1=6
ngram  2 = 4
ngram 3=2

\\1-grams:
-0.5\t</s>
-99\t<s>\t-0.3
-inf\t<unk>
-0.7\tthe\t-0.25
-0.9  sun   0.125

-1\tan\x0bd\u00a0C:\\temp
\\2-grams:
-0.1\tthe sun\t-99
-0.2\tsun </s>
-0.4\t<s> the\t-0.15
-0.6\tsun the
\\3-grams:
-0.05\t<s> the sun\t0
-0.15 the sun </s>

\\end\\
"""
SRILM_TOKENS = ("<eos>", "<unk>", "the", "sun", "an\x0bd\u00a0C:\\temp")


def read_text(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "given.arpa"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_arpa(path)


@pytest.mark.parametrize("change", [str, lambda text: text.replace("\n", "\r\n"), "\ufeff".__add__])
def test_a_file_like_srilm_s_is_read(tmp_path, change):
    text = SRILM.strip() if change == "\ufeff".__add__ else SRILM
    model = read_text(tmp_path, change(text))
    assert model.tokens == SRILM_TOKENS
    assert not model.across_lines
    logs = {
        "</s>": (-0.5, 0),
        "<s>": (-np.inf, -0.3),
        "<unk>": (-np.inf, 0),
        "the": (-0.7, -0.25),
        "sun": (-0.9, 0.125),
        SRILM_TOKENS[-1]: (-1, 0),
        "the sun": (-0.1, -np.inf),
        "sun </s>": (-0.2, 0),
        "<s> the": (-0.4, -0.15),
        "sun the": (-0.6, 0),
        "<s> the sun": (-0.05, 0),
        "the sun </s>": (-0.15, 0),
    }
    found = in_words(model)
    assert found.keys() == logs.keys()
    for words, values in logs.items():
        assert found[words] == pytest.approx(tuple(10.0 ** np.array(values))), words
    for keys in model.tables.keys:
        assert (np.diff(keys) > 0).all()


def test_an_end_that_no_n_gram_predicts_is_not_a_token(tmp_path):
    """A </s> that no n-gram predicts is not a token, and an order may be empty."""
    unigrams = "\\1-grams:\n-9\t<eos>\n-99\t<s>\n-99 </s>\n"
    text = f"\\data\\\nngram 1=3\nngram 2=0\n{unigrams}\\2-grams:\n\\end\\"
    model = read_text(tmp_path, text)
    assert model.tokens == ("<eos>",)
    assert model.across_lines
    assert model.tables.sizes == (1, 0)
    assert model.tables.score([np.zeros(1, int)], np.zeros(1, int))[0] == pytest.approx(1e-9)


def test_an_end_that_only_longer_n_grams_predict_is_a_token(tmp_path):
    text = (
        "\\data\\\nngram 1=2\nngram 2=1\n\\1-grams:\n-1 a\n-99 </s>\n\\2-grams:\n0 a </s>\n\\end\\"
    )
    model = read_text(tmp_path, text)
    assert model.tokens == ("a", "<eos>")
    assert not model.across_lines


@pytest.mark.parametrize(
    "word", [r"\x41", r"\u4e2d", r"\ud83d\ude02", r"\\", r"\\n", r"\x3ca>", r"\xe4\xb8"]
)
def test_backslashes_are_kept_in_a_file_by_another_program(word, tmp_path):
    text = "\\data\\\nngram 1=3\n\\1-grams:\n-1 %s\n-1 %s\n-1 b\n\\end\\"
    assert read_text(tmp_path, text % (r"\x20", word)).tokens == (r"\x20", word, "b")
    # Words that jaxlm writes, or once wrote.
    assert read_text(tmp_path, text % (r"\x20", r"\u3000")).tokens == (" ", "\u3000", "b")
    assert read_text(tmp_path, text % (r"\x3cs>", r"\\x20")).tokens == ("<s>", r"\x20", "b")


def test_an_unknown_word_is_added_to_a_file_without_one(tmp_path):
    text = "\\data\\\nngram 1=3\nngram 2=1\n\\1-grams:\n-1 <s> -0.5\n-1 a\n-1 </s>\n"
    text += "\\2-grams:\n-0.2 <s> a\n\\end\\"
    path = tmp_path / "srilm.arpa"
    path.write_text(text)
    assert read_arpa(path).tokens == ("a", "<eos>")
    with pytest.raises(UserError, match="with `add_unknown`"):
        import_arpa(path).vocabulary.ids(["b"])
    run = import_arpa(path, add_unknown=True)
    assert run.vocabulary.tokens == ("a", "<eos>", "<unk>") and run.vocabulary.unk == "<unk>"
    (tmp_path / "new.txt").write_text("a b\n")
    report = jaxlm.perplexity(run, text=tmp_path / "new.txt")
    assert (report.tokens, report.unknown, report.impossible) == (3, 1, 1)
    # log₁₀ P(a | <s>) is -0.2, and log₁₀ P(</s>) is -1.
    assert report.known_nll == pytest.approx(np.log(10) * 1.2)
    # The file that is written has the word, so it is not added again.
    export_arpa(run, tmp_path / "again.arpa")
    again = import_arpa(tmp_path / "again.arpa", add_unknown=True)
    assert again.vocabulary.tokens == run.vocabulary.tokens


def test_characters_are_read_from_a_file_of_characters(tmp_path):
    text = jaxlm.read_corpus(
        ["却说 那\u3000行者\n", "行者道\n"] * 3, tokens="chars", fractions=(1.0,)
    )
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
    counted = jaxlm.fit(model, text, quiet=True)
    export_arpa(counted, tmp_path / "chars.arpa")
    again = import_arpa(tmp_path / "chars.arpa", tokens="chars")
    assert set(again.vocabulary.tokens) - {"<unk>"} == set(text.vocabulary.tokens) - {"<unk>"}
    line = ["行者 说那"]
    surprisals = [jaxlm.score(run, line)["surprisal"] for run in (counted, again)]
    np.testing.assert_allclose(*surprisals, rtol=1e-6)
    words = "\\data\\\nngram 1=1\n\\1-grams:\n-1 the\n\\end\\"
    (tmp_path / "words.arpa").write_text(words)
    with pytest.raises(SettingError, match="`tokens` chars: the file lists 'the'"):
        import_arpa(tmp_path / "words.arpa", tokens="chars")
    with pytest.raises(UserError, match="tokens"):
        import_arpa(tmp_path / "words.arpa", tokens="bytes")


def test_a_binary_file_of_kenlm_is_named(tmp_path):
    (tmp_path / "lm.binary").write_bytes(
        b"mmap lm http://kheafield.com/code format version 5\n\0\0"
    )
    with pytest.raises(UserError, match="a binary file of KenLM"):
        read_arpa(tmp_path / "lm.binary")


def line_of(text, part):
    return next(n for n, line in enumerate(text.split("\n"), 1) if line.startswith(part))


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("\\data\\", "data", "", r"no line is \\data\\: this is not an ARPA file"),
        ("ngram 1=6", "ngram 1=-6", "ngram 1", "expected ngram 1=COUNT, COUNT a whole .* '-6'"),
        ("ngram 1=6", "ngram 1=6.0", "ngram 1", "expected ngram 1=COUNT, COUNT a whole .* '6.0'"),
        ("ngram 1=6", "ngram 1=" + "9" * 5000, "ngram 1", "expected ngram 1=COUNT, COUNT a whole"),
        ("ngram 1=6", "ngram 2=6", "ngram 2=6", "expected ngram 1=COUNT, found 'ngram 2=6'"),
        ("ngram 3=2", "ngram 4=2", "ngram 4", "expected ngram 3=COUNT or .*, found 'ngram 4=2'"),
        ("ngram 3=2", "3 grams", "3 grams", "expected ngram 3=COUNT or .*, found '3 grams'"),
        (
            "ngram 1=6",
            "ngram 1=5",
            "-1\t",
            r"more 1-grams than the 5 .* expected \\2-grams:, found",
        ),
        ("ngram 1=6", "ngram 1=7", "\\2-grams", "fewer 1-grams than the header says: .*2-grams:'"),
        ("ngram 3=2", "ngram 3=3", "\\end", "fewer 3-grams than the header says: .*end"),
        ("ngram 3=2", "ngram 3=1", "-0.15 the", r"more 3-grams than the 1 .* expected \\end\\"),
        ("ngram 3=2\n", "", "\\3-grams", r"expected \\end\\, found '\\\\3-grams:'"),
        ("\\2-grams:", "\\3-grams:", "\\3-grams", r"expected \\2-grams:, found '\\\\3-grams:'"),
        (
            "-0.7\tthe\t-0.25",
            "-0.7",
            "-0.7",
            "expected a log-probability, 1 word .* found 1 columns",
        ),
        ("the sun\t-99", "the", "-0.1\t", "expected a log-probability, 2 words .* found 2 columns"),
        ("the sun\t-99", "the sun\t1\t2", "-0.1\t", "2 words and at most a log-backoff, found 5"),
        ("-0.1\tthe", "one\tthe", "one\t", "expected a log-probability of 0 or less, found 'one'"),
        ("-0.1\tthe", "nan\tthe", "nan\t", "expected a log-probability of 0 or less, found 'nan'"),
        ("-0.1\tthe", "0.1\tthe", "0.1\t", "expected a log-probability of 0 or less, found '0.1'"),
        ("sun\t-99", "sun\tx", "-0.1\t", "expected a log-backoff of 99 or less, found 'x'"),
        ("sun\t-99", "sun\tinf", "-0.1\t", "expected a log-backoff of 99 or less, found 'inf'"),
        ("sun the", "sun moon", "-0.6\t", "the word 'moon' is not among the 1-grams"),
        ("-0.9  sun", "-0.9  the", "-0.9  the", "the 1-gram 'the' is on line 13 already"),
        ("sun the", "the sun", "-0.6\t", "the 2-gram is on line 18 already"),
        ("the sun </s>", "<s> the sun", "-0.15 <s>", "the 3-gram is on line 23 already"),
        ("the sun </s>", "the the </s>", "-0.15 the", "before the last word are not among the 2"),
        ("sun the", "sun <s>", "-0.6\t", "<s> may only be the first word of an n-gram"),
        ("sun the", "</s> the", "-0.6\t", "</s> may only be the last word of an n-gram"),
        ("-1\tan", "-1\t<eos>\n-1\tan", "-1\t<eos>", "<eos> is a word here, and so is </s>"),
        ("\\end\\", "", "", r"the file ends here: expected \\end\\; is it whole\?"),
        (SRILM[SRILM.index("-0.6") :], "", "", "the file ends after 3 of 4 2-grams; is it whole"),
        (SRILM[SRILM.index("ngram 3") :], "", "", r"the file ends here: expected \\1-grams:"),
        (SRILM, "", "", "the file is empty: expected an ARPA file"),
    ],
)
def test_mistakes_are_named_by_their_line(tmp_path, old, new, at, message):
    """The error is one line with the file, the number of the line and the mistake."""
    text = SRILM.replace("ngram 1=6", "ngram 1=7") if "<eos>" in new else SRILM
    assert old in text
    text = text.replace(old, new, 1)
    line = line_of(text, at) if at else text.count("\n") + 1
    with pytest.raises(UserError, match=message) as caught:
        read_text(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'given.arpa'}, line {line}: ")
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"line 16: expected text in UTF-8, found b'caf\\xe9"):
        read_text(tmp_path, SRILM.replace("-1\tan", "-1\tcafé"), "latin-1")


@pytest.mark.parametrize("data", [b"\x00\xff\xfe" * 99, b"PK\x03\x04", "text\n".encode("utf-16")])
def test_binary_files_are_errors(tmp_path, data):
    with pytest.raises(UserError, match="this is not an ARPA file"):
        read_text(tmp_path, data)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_the_error_for_utf_16_names_the_encoding(tmp_path, encoding):
    with pytest.raises(
        UserError, match=r"line \d: this is not an ARPA file in UTF-8, but in UTF-16"
    ):
        read_text(tmp_path, SRILM.lstrip().encode(encoding))


def one_long_ngram(order):
    """Return an ARPA file with a single n-gram of each order above 1, of the words a and b."""
    parts = ["\\data\\", "ngram 1=4", *(f"ngram {n}=1" for n in range(2, order + 1)), ""]
    parts += ["\\1-grams:", "-1 <s>", "-1 </s>", "-0.5 a -0.1", "-0.6 b -0.1"]
    words = ["a", "b"] * order
    for n in range(2, order + 1):
        parts += ["", f"\\{n}-grams:", f"-0.{n:02d} " + " ".join(words[:n])]
    return "\n".join([*parts, "", "\\end\\", ""])


def test_orders_up_to_20_are_read(tmp_path):
    model = read_text(tmp_path, one_long_ngram(20))
    assert model.tables.sizes == (3, *[1] * 19)
    assert model.tables.probabilities[19][0] == pytest.approx(10**-0.2)
    with pytest.raises(UserError, match="line 22: n-grams of order 21: at most 20 is read"):
        read_text(tmp_path, one_long_ngram(21))


def test_prefixes_are_found_although_hashes_collide(tmp_path, monkeypatch):
    expected = read_text(tmp_path, SRILM)
    monkeypatch.setattr(arpa, "_hashes", lambda rows_NL: np.zeros(len(rows_NL), np.uint64))
    found = read_text(tmp_path, SRILM)
    for one, other in zip(found.tables.keys, expected.tables.keys, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spelling", ["<unk>", "<UNK>", "<Unk>", "[UNK]"])
def test_unknown_words_of_other_toolkits_are_read_as_unk(tmp_path, spelling):
    path = tmp_path / "given.arpa"
    path.write_text(one_long_ngram(2).replace(" b", f" {spelling}"), encoding="utf-8")
    run = import_arpa(path)
    assert run.vocabulary.unk == spelling
    assert run.vocabulary.ids(["a", "never", spelling]).tolist()[1:] == [run.vocabulary.unk_id] * 2


def test_only_ascii_blanks_divide_words(tmp_path):
    path, text = tmp_path / "given.arpa", tmp_path / "text.txt"
    # A no-break space, a narrow no-break space and an ideographic space are part of a word.
    lines = ["prix 10\u00a0000 euros", "quoi\u202f? a\u3000b"]
    words = sorted({word for line in lines for word in line.split(" ")})
    path.write_text(
        f"\\data\\\nngram 1={len(words) + 3}\n\n\\1-grams:\n-2 <unk>\n-99 <s>\n-0.8 </s>\n"
        + "".join(f"-0.7 {word}\n" for word in words)
        + "\n\\end\\\n",
        encoding="utf-8",
    )
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = import_arpa(path, tmp_path / "run")
    for asked in (run, jaxlm.load(tmp_path / "run")):
        found = jaxlm.perplexity(asked, text=text)
        # 10^-0.7 for each of five words, 10^-0.8 for each of two line ends.
        assert (found.tokens, found.unknown) == (7, 0)
        assert found.nll == pytest.approx((5 * 0.7 + 2 * 0.8) * np.log(10))


@pytest.mark.parametrize("kept", [2, 12, 2000, 4000, 4336])
def test_a_truncated_gzip_file_is_an_error(tmp_path, kept):
    packed = (FIXTURES / "farm.arpa.gz").read_bytes()
    assert kept < len(packed)
    with pytest.raises(UserError, match=r"line \d+: the gzip data is cut off or damaged here"):
        read_text(tmp_path, packed[:kept])


@pytest.mark.parametrize("place", [20, 2000, -6])
def test_a_damaged_gzip_file_is_an_error(tmp_path, place):
    packed = bytearray((FIXTURES / "farm.arpa.gz").read_bytes())
    packed[place] ^= 255
    with pytest.raises(UserError, match=r"line \d+: "):
        read_text(tmp_path, bytes(packed))


@settings(max_examples=200)
@given(data=st.data())
def test_a_changed_byte_is_read_or_is_a_user_error(tmp_path_factory, data):
    """The only possible error is UserError."""
    good = bytearray(SRILM.encode())
    place = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.sampled_from([b"", b"\n", b"\t", b" ", b"\\", b"-", b"9", b"\xff", None]))
    text = bytes(good[:place] if change is None else good[:place] + change + good[place + 1 :])
    try:
        model = read_text(tmp_path_factory.getbasetemp(), text)
    except UserError as error:
        assert ", line " in str(error)
    else:
        assert len(model.tokens) == model.tables.vocab_size


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.arpa: No such file"):
        read_arpa(tmp_path / "none.arpa")
