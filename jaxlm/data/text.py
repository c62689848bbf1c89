"""A corpus as token ids: `open_text` for training and evaluation, `read_corpus` for users."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.columns import whole_lines_note
from jaxlm.data.corpora import (
    CORPORA,
    LONGEST_SHOWN,
    SENTENCES,
    SPLITS,
    cache_folder,
    corpus_sources,
    sentence_sources,
)
from jaxlm.data.encoding import Split
from jaxlm.data.reading import Reading, text_of
from jaxlm.data.shards import is_prepared, read_description, read_prepared
from jaxlm.data.sources import Source
from jaxlm.data.spacing import mostly_unspaced
from jaxlm.data.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    VocabularyConfig,
    check_used,
    from_json,
    to_json,
)
from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.errors import SettingError, UserError, choose
from jaxlm.ranges import Share, check_settings

UNSPACED_NOTE = (
    "most of the text has no spaces between words, so it is read by characters: choose `tokens` "
    "bpe, bytes or words to read it otherwise"
)


@dataclass(frozen=True)
class TextConfig(VocabularyConfig):
    """Settings of the text, and of how it is cut into tokens."""

    corpus: str = "toy"
    """toy, apple, ptb, wikitext-2, tinyshakespeare, a UTF-8 file (plain, .gz or .zst), or a folder:
    of train, valid and test files, or made by python -m jaxlm.prepare."""
    encoding: str | None = None
    """Encoding of the corpus's files, such as gb18030 or cp1252 (none: UTF-8)."""
    column: str | None = None
    """Read this column of a CSV, TSV or JSON lines file, each cell as a line (none: a text)."""
    tokens: str | None = None
    """words, chars, bytes or bpe (none: the corpus's own way; for a path words, or chars if most of
    it has no spaces between words, such as Chinese)."""
    unk: str = "auto"
    """When unlisted tokens become <unk>: auto (if valid or test needs it), always, never."""
    fractions: tuple[Share, ...] | None = None
    """Shares of a single file for train, valid, test (none: corpus's own, or 0.9 0.05 0.05)."""


@dataclass(frozen=True)
class Text:
    """A corpus as token ids.

    Attributes:
      config: which text, and how it is cut into tokens.
      tokenizer: the tokenizer and its vocabulary.
      splits: a Split for each of train, valid and test that the corpus has.
      notes: sentences that warn the user of something unexpected in the text.

    Example:
      >>> text = read_corpus("toy", eos=False)
      >>> len(text.vocabulary), text.train.ids.tolist()
      (7, [0, 1, 2, 0, 3, 4, 0, 5, 6])
    """

    config: TextConfig
    tokenizer: Tokenizer
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The corpus by name or path; SENTENCES for sentences."""
        return self.config.corpus

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens by id."""
        return self.tokenizer.vocabulary

    def split(self, name: str | None = None) -> Split:
        """Return the named split; without a name test, or else valid, or else train.

        Raises:
          UserError: for a split that the corpus does not have.
        """
        name = name or next(choice for choice in reversed(SPLITS) if choice in self.splits)
        return choose(self.splits, name, f"split of {self.name}")

    @property
    def train(self) -> Split:
        """The training split."""
        return self.split("train")

    @property
    def valid(self) -> Split | None:
        """The validation split, or None."""
        return self.splits.get("valid")

    @property
    def test(self) -> Split | None:
        """The test split, or None."""
        return self.splits.get("test")


class _Splits(Mapping[str, Split]):
    """Splits by name, each encoded when it is first asked for."""

    def __init__(self, sources: Mapping[str, Source], tokenizer: Tokenizer) -> None:
        self._sources, self._tokenizer = sources, tokenizer
        self._encoded: dict[str, Split] = {}

    def __getitem__(self, name: str) -> Split:
        if name not in self._encoded:
            source = self._sources[name]
            self._encoded[name] = Split.encode(name, source, self._tokenizer, cache_folder)
        return self._encoded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def read_corpus(
    corpus: str | Path | TextConfig | Iterable[str | Iterable[str]] = "toy",
    *,
    tokenizer: Tokenizer | None = None,
    extend: bool = False,
    **options: object,
) -> Text:
    """Read a corpus, fit its tokenizer to the training split, and encode every split.

        text = read_corpus("ptb")
        text = read_corpus("my.txt", tokens="chars", min_count=2)
        text = read_corpus(["the cat sat", "the dog ran"], fractions=(1.0,))

    Example:
      >>> read_corpus("toy", tokens="chars").vocabulary.tokens[:3]
      (' ', '我', '\\n')

    Args:
      corpus: a name in CORPORA, a file, a folder, a TextConfig, or sentences: a list, a pandas
        Series, or any other iterable of strings or of lists of words. Each sentence is a line. The
        name of such a corpus is SENTENCES, and a run keeps this name, not the text.
      tokenizer: a fitted tokenizer, such as the tokenizer of a run; None to fit a tokenizer to the
        training split.
      extend: whether the tokens of the training split that `tokenizer` lacks are added at the end
        of its vocabulary.
      **options: fields of TextConfig by name, unless `corpus` is a TextConfig.
    Raises:
      UserError: for an unknown name, an unreadable or empty text, and, with unk="never", a token of
        the valid or test split that the training split lacks.
      SettingError: for a setting with a value that it cannot have, or that has no effect.
    """
    sentences = None
    if isinstance(corpus, TextConfig):
        for name, value in options.items():
            raise SettingError(name, value, "has no effect with a TextConfig: set it there")
        config = corpus
    elif isinstance(corpus, str | os.PathLike):
        config = TextConfig(corpus=corpus_name(corpus), **options)  # type: ignore[arg-type]
    elif isinstance(corpus, Iterable) and not isinstance(corpus, bytes):
        config = TextConfig(corpus=SENTENCES, **options)  # type: ignore[arg-type]
        sentences = corpus
    else:
        raise SettingError("corpus", repr(corpus), "must be a name, a path, or sentences")
    text = _open(config, tokenizer, extend, sentences)
    for name in text.splits:
        text.split(name)
    if tokenizer is not None or is_prepared(Path(text.name)):
        return text
    return replace(text, notes=(*text.notes, *_notes(text)))


def open_text(
    config: TextConfig, tokenizer: Tokenizer | None = None, *, extend: bool = False
) -> Text:
    """Return the text of a corpus, with splits that are encoded when they are asked for.

    Args:
      config: which text, and how it is cut into tokens.
      tokenizer: a fitted tokenizer; None to fit a tokenizer to the training split.
      extend: whether the tokens of the training split that `tokenizer` lacks are added to its
        vocabulary.
    Raises:
      UserError: for an unknown name, and an unreadable or empty text.
      SettingError: for a setting with a value that it cannot have, or that has no effect.
    """
    return _open(config, tokenizer, extend, None)


def _open(
    config: TextConfig,
    tokenizer: Tokenizer | None,
    extend: bool,
    sentences: Iterable[str | Iterable[str]] | None,
) -> Text:
    """Return the text of `open_text`, or the text of `sentences` if they are given.

    The corpus and the tokenizer in the config of the text are those that were used.
    """
    if not isinstance(config.corpus, str | os.PathLike):
        why = "must be a name or a path; read_corpus itself takes sentences"
        raise SettingError("corpus", repr(config.corpus)[:LONGEST_SHOWN], why)
    config = replace(config, corpus=corpus_name(config.corpus))
    check_settings(config)
    if config.unk not in ("auto", "always", "never"):
        raise SettingError("unk", repr(config.unk), "choose one of auto, always, never")
    if extend and tokenizer is None:
        raise SettingError("extend", extend, "has no effect without a `tokenizer` to extend")
    if config.corpus not in CORPORA and is_prepared(Path(config.corpus)):
        return _open_prepared(config, tokenizer)
    sentences = None if sentences is None else list(sentences)
    notes: tuple[str, ...] = ()
    if tokenizer is not None:
        config = _with_tokenizer(config, tokenizer, extend)
    elif config.tokens is None:
        config = replace(config, tokens=_tokens_of(config, sentences))
        if config.tokens == "chars" and config.corpus not in CORPORA:
            notes = (UNSPACED_NOTE,)
    kind = choose(TOKENIZERS, config.tokens or "words", "tokens")
    check_used(kind, config)
    sources = _sources(config, kind, sentences)
    if tokenizer is None:
        tokenizer = _fit(kind, config, sources)
    elif extend:
        tokenizer = extended(tokenizer, config, sources)
    return Text(config, tokenizer, _Splits(sources, tokenizer), notes)


def _sources(
    config: TextConfig, kind: type[Tokenizer], sentences: Iterable[str | Iterable[str]] | None
) -> Mapping[str, Source]:
    """Return the source of each split, as a `kind` of tokenizer reads it."""
    reading = Reading(config.encoding, config.column, kind.exact)
    if sentences is not None:
        return sentence_sources(sentences, config.fractions, reading)
    return corpus_sources(config.corpus, config.fractions, kind.splits_at_lines, reading)


def _tokens_of(config: TextConfig, sentences: Iterable[str | Iterable[str]] | None) -> str:
    """Return the name of the tokenizer for a corpus whose `tokens` are not given.

    A corpus with a name has its own. Another text is read by words, or by characters if the
    beginning of its training split is mostly without spaces.
    """
    if config.corpus in CORPORA:
        return CORPORA[config.corpus].tokens
    # Cut at characters: a text without line breaks would be training text as a whole.
    sources = _sources(config, TOKENIZERS["chars"], sentences)
    return "chars" if mostly_unspaced(sources["train"].lines()) else "words"


def _with_tokenizer(config: TextConfig, tokenizer: Tokenizer, extend: bool) -> TextConfig:
    """Return the config of a text that is read by a fitted tokenizer, with its settings.

    Raises:
      SettingError: for a setting that the tokenizer has decided already.
    """
    own = {"tokens": tokenizer.name, **_own_settings(tokenizer)}
    decided = {"tokens", "eos", *(() if extend else Tokenizer.uses)}
    for name, default in vars(TextConfig()).items():
        value = getattr(config, name)
        if name in decided and value not in (default, own.get(name)):
            raise SettingError(name, value, "has no effect with a fitted tokenizer: leave it out")
    return replace(config, **own)


def _own_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the settings of the vocabulary that a fitted tokenizer keeps, such as `eos`."""
    names = vars(VocabularyConfig())
    return {name: value for name, value in tokenizer.state().items() if name in names}


def corpus_name(corpus: str | os.PathLike[str]) -> str:
    """Return the corpus as `TextConfig` keeps it: a name, or a path without `~`.

    A Path is always a path, even if it is spelled like a name.

    Example:
      >>> corpus_name("toy"), corpus_name(Path("toy"))
      ('toy', './toy')
    """
    name = os.fspath(corpus)
    if not isinstance(corpus, str) and name in CORPORA:
        return os.path.join(os.curdir, name)
    return os.path.expanduser(name)


def open_file(
    path: str | Path,
    tokenizer: Tokenizer,
    encoding: str | None = None,
    column: str | None = None,
) -> Split:
    """Return a whole text file as one split.

    Args:
      path: the file, plain or compressed by gzip or zstd.
      tokenizer: cuts it into tokens.
      encoding: the encoding of the file; None for UTF-8.
      column: name of the column to read, if the file is a table.
    Raises:
      SettingError: if there is no such file, and for an unknown encoding or column.
      UserError: if the file cannot be read as text.
    """
    reading = Reading(encoding, column, tokenizer.exact)
    source = _file_source(path, reading, "text")
    return Split.encode(os.path.expanduser(path), source, tokenizer, cache_folder)


def lines_of_file(
    path: str | Path, encoding: str | None = None, column: str | None = None, setting: str = "text"
) -> Iterator[str]:
    """Return the lines of a text file, each with its line break.

    Args:
      path: the file, plain or compressed by gzip or zstd.
      encoding: the encoding of the file; None for UTF-8.
      column: name of the column to read, if the file is a table. A row without text is a blank
        line, so that the number of a line is that of its row.
      setting: the name of the setting that holds the path, for errors.
    Raises:
      SettingError: if there is no such file, and for an unknown encoding or column.
      UserError: if the file cannot be read as text.
    """
    return _file_source(path, Reading(encoding, column, blank=True), setting).lines()


def _file_source(path: str | Path, reading: Reading, setting: str) -> Source:
    """Return the text of a file. Raise SettingError if there is no such file."""
    reading.check()
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        shown = path[:LONGEST_SHOWN] + "..." * (len(path) > LONGEST_SHOWN)
        shown = shown if shown.isprintable() else repr(shown)
        why = "is a folder" if os.path.isdir(path) else "does not exist"
        raise SettingError(setting, shown, f"{why}: give the path of a text file")
    return text_of(Path(path), reading)


def extended(tokenizer: Tokenizer, config: TextConfig, sources: Mapping[str, Source]) -> Tokenizer:
    """Return `tokenizer` with the tokens of the training text that it lacks at the end.

    The new tokens are ordered by frequency. `<unk>` is added if the new text needs it: see `unk`
    of TextConfig. A tokenizer without `closed_vocabulary` has no unknown tokens and is returned
    unchanged.

    Args:
      tokenizer: the fitted tokenizer.
      config: which tokens of the new text are kept: `min_count` counts in the new text, and
        `vocab_size` limits the vocabulary of the new text.
      sources: the source of each split.
    Raises:
      UserError: if the training text is empty.
      SettingError: if tokens of the new text are left out, and `unk` is "never".
    """
    if not tokenizer.closed_vocabulary:
        return tokenizer
    config = replace(config, **_own_settings(tokenizer))
    fitted = _fit(type(tokenizer), config, {"train": sources["train"]})
    saved, known = json.loads(to_json(tokenizer)), tokenizer.vocabulary
    new = [token for token in fitted.vocabulary.tokens if token not in known]
    saved["tokens"] += new
    saved["unk"] = known.unk or fitted.vocabulary.unk
    wider = from_json(json.dumps(saved))
    if _needs_unk(wider, config, sources):
        saved["tokens"].append(UNK)
        saved["unk"] = UNK
        wider = from_json(json.dumps(saved))
    return wider


def _fit(kind: type[Tokenizer], config: TextConfig, sources: Mapping[str, Source]) -> Tokenizer:
    """Return a tokenizer that is fitted to the training text; `config.unk` says when it has <unk>.

    Raises:
      UserError: if the training text is empty.
      SettingError: if tokens are left out of the vocabulary and `unk` is "never".
    """
    train = sources["train"]
    if not any(line.strip().strip("\ufeff") for line in train.lines()):
        raise UserError(f"{config.corpus} is empty: there is no text to train on")
    tokenizer = kind.fit(train.lines(), config, config.unk == "always")
    leaves_out = (
        config.min_count > 1 or config.vocab_size is not None or config.vocabulary_file is not None
    )
    if config.unk == "never" and leaves_out and tokenizer.closed_vocabulary:
        raise SettingError(
            "unk",
            "never",
            "leaves nothing for the tokens that `min_count`, `vocab_size` or `vocabulary_file` "
            "cut: leave one of them out",
        )
    if _needs_unk(tokenizer, config, sources):
        tokenizer = kind.fit(train.lines(), config, True)
    return tokenizer


def _needs_unk(tokenizer: Tokenizer, config: TextConfig, sources: Mapping[str, Source]) -> bool:
    """Return whether `unk` is "auto", and the tokenizer needs an `<unk>` that it does not have.

    Every token of the training text is listed, or `<unk>` is listed already. So only the other
    splits can need `<unk>`.
    """
    if config.unk != "auto" or tokenizer.vocabulary.unk is not None:
        return False
    others = [source for split, source in sources.items() if split != "train"]
    return any(tokenizer.unseen(source.lines()) is not None for source in others)


def _open_prepared(config: TextConfig, tokenizer: Tokenizer | None) -> Text:
    """Return the text of a folder that `python -m jaxlm.prepare` made, with the folder's tokenizer.

    Raises:
      UserError: if `tokenizer` is another tokenizer, or the folder is unfinished or damaged.
      SettingError: for a setting that the prepared text fixes already.
    """
    own, splits = read_prepared(Path(config.corpus))
    if tokenizer is not None and to_json(own) != to_json(tokenizer):
        raise UserError(
            f"{config.corpus} was prepared with other tokens than those of the run: give the text "
            f"itself"
        )
    prepared_with = read_description(Path(config.corpus))
    decided = {"tokens": own.name, "corpus": config.corpus}
    decided |= prepared_with.get("settings", {}) | _own_settings(own)
    for name, default in vars(TextConfig()).items():
        given = getattr(config, name)
        if given not in (default, decided.get(name)):
            raise SettingError(
                name,
                given,
                f"{config.corpus} is a prepared text, whose tokens are made; leave the setting "
                f"out, or prepare the text with it",
            )
    if not len(splits["train"]):
        raise UserError(f"{config.corpus} is empty: there is no text to train on")
    # A word list decides what `<unk>` means, also where the text is counted.
    fixed = {"vocabulary_file": decided.get("vocabulary_file"), **_own_settings(own)}
    return Text(replace(config, tokens=own.name, **fixed), own, splits)


def _notes(text: Text) -> list[str]:
    """Return sentences that warn of something unexpected in the training text.

    These are a table whose lines are read whole, words without spaces, an <unk> that never occurs,
    NUL bytes, and words that the tokenizer or an ARPA file gives a meaning of its own.
    """
    train, tokenizer = text.train, text.tokenizer
    whole_lines = whole_lines_note(text.name, text.config.column)
    notes = [whole_lines] if whole_lines else []
    if tokenizer.splits_at_lines:
        first = (line for _, line in zip(range(1000), train.source.lines(), strict=False))
        longest = max(first, key=len)
        if len(longest) > 20 and len(longest.split()) == 1 and not longest.isascii():
            notes.append(
                f"a line of {len(longest.strip())} characters has no spaces, so it counts as one "
                f"word; text without spaces is read with `tokens` chars or bpe"
            )
    unk_id = tokenizer.vocabulary.unk_id
    if unk_id is not None and not np.any(train.ids == unk_id):
        notes.append(
            f"{UNK} never occurs in the training text, so its probability is not learnt: "
            f"`min_count` 2 mends it"
        )
    marks = {EOS: 0, "<s>": 0, "</s>": 0}
    nuls = 0
    for line in train.source.lines():
        nuls += line.count("\0")
        if tokenizer.splits_at_lines and "s>" in line:
            for word in line.split():
                if word in marks:
                    marks[word] += 1
    if nuls and not tokenizer.exact:
        notes.append(
            f"the training text has {nuls:,} NUL characters, which text files do not have: is the "
            f"file text, and in UTF-8 (`encoding`)?"
        )
    if marks[EOS] and tokenizer.vocabulary.start == EOS:
        notes.append(
            f"the training text has the word {EOS} {marks[EOS]:,} times: it is the token that ends "
            f"every line, so a line that has it ends twice; `eos` False adds none"
        )
    for word in ("<s>", "</s>"):
        if marks[word]:
            notes.append(
                f"the training text has the word {word} {marks[word]:,} times: it is read as any "
                f"other word, though ARPA files mark sentences by it"
            )
    return notes
