"""tokenizer.json of Hugging Face's `tokenizers`: the tokenizer of a run, out and back.

The file cuts a text as `Tokenizer.encode_context` does, token for token, and decodes it so too. In
the vocabulary of words the line break stands in the place of `<eos>`.

Two tokens follow the vocabulary, V tokens. No model predicts them, and neither is a part of a text,
so that tools may skip special tokens without losing line breaks:

- `<|pad|>`, id V, fills the rows of a batch; a model does not read it;
- `<|start|>`, id V + 1, stands before a text; a model reads the start token of the run, which is
  the end of a line. A vocabulary without a start token has none.
"""

import json
from collections.abc import Callable
from typing import Any

from jaxlm.data.tokenizers import (
    BPE,
    BYTE_OF_LETTER,
    Bytes,
    Characters,
    Tokenizer,
    Words,
    from_saved,
    to_json,
)
from jaxlm.data.vocabulary import EOS
from jaxlm.errors import UserError, choose

PAD, START = "<|pad|>", "<|start|>"
"""The tokens that follow the vocabulary."""
# The white space of `str.split` without the line break, and the ASCII blanks of KenLM.
SPACES = [chr(code) for code in range(0x110000) if chr(code).isspace() and chr(code) != "\n"]
ASCII_BLANKS = list(" \t\r\v\f")
Json = dict[str, Any]
EMPTY: Json = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "post_processor": None,
}
"""The parts of a tokenizer.json that a run's model of BPE leaves empty."""


def tokenizer_file(tokenizer: Tokenizer) -> Json:
    """Return the content of the tokenizer.json that cuts a text as `tokenizer` does.

    Example:
      >>> import json, tokenizers
      >>> from jaxlm.data.vocabulary import Vocabulary
      >>> words = Words(Vocabulary(("the", "cat", EOS), start=EOS))
      >>> file = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_file(words)))
      >>> file.encode("the cat\\nthe").ids, words.encode_context("the cat\\nthe").tolist()
      ([0, 1, 2, 0], [0, 1, 2, 0])

    Raises:
      UserError: for a tokenizer of another class, and for a vocabulary that lists `<|pad|>` or
        `<|start|>`.
    """
    write = WRITERS.get(type(tokenizer))
    if write is None:
        raise UserError(
            f"a {type(tokenizer).__name__} cannot be written as a Hugging Face tokenizer: only "
            f"{', '.join(kind.name for kind in WRITERS)} can"
        )
    for token in (PAD, START):
        if token in tokenizer.vocabulary:
            raise UserError(f"the vocabulary lists {token!r}, which has another sense here")
    added = [_special(index, text) for text, index in special_tokens(tokenizer).items()]
    file = EMPTY | {"added_tokens": added} | write(tokenizer)
    if to_json(read_tokenizer(file, describe(tokenizer))) != to_json(tokenizer):
        raise UserError(
            f"the {tokenizer.name} tokenizer has parts that tokenizer.json cannot hold, such as a "
            f"start token of its own"
        )
    return file


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the tokens that follow the vocabulary."""
    size = len(tokenizer.vocabulary)
    has_start = tokenizer.vocabulary.start is not None
    return {PAD: size} | ({START: size + 1} if has_start else {})


def describe(tokenizer: Tokenizer) -> Json:
    """Return what `read_tokenizer` needs beside the content of tokenizer.json."""
    state = {name: value for name, value in tokenizer.state().items() if name != "model"}
    vocabulary = tokenizer.vocabulary
    return {
        "tokenizer": tokenizer.name,
        "unk": vocabulary.unk,
        "start": vocabulary.start,
        "state": state,
    }


def read_tokenizer(file: Any, description: Any) -> Tokenizer:
    """Return the tokenizer whose `tokenizer_file` is `file`, and whose `describe` is `description`.

    The model of the file alone is read: its vocabulary, and the merges of BPE.

    Raises:
      UserError: if one of them is damaged, or they do not fit each other.
    """
    if not isinstance(description, dict):
        raise UserError("the description of the tokenizer is not an object")
    name = description.get("tokenizer")
    kinds = {kind.name: kind for kind in WRITERS}
    kind = choose(kinds, name, "tokenizer") if isinstance(name, str) else None
    if kind is None:
        raise UserError("the description of the tokenizer has no name")
    state, start = description.get("state"), description.get("start")
    if not isinstance(state, dict):
        raise UserError("the description of the tokenizer has no `state`")
    tokens = _tokens(file)
    if kind is Bytes:
        if tokens != _byte_names():
            raise UserError("tokenizer.json: its vocabulary is not the 256 bytes")
        tokens = list(Bytes().vocabulary.tokens)
    elif kind is BPE:
        state = state | {"model": json.dumps({**file, **EMPTY}, ensure_ascii=False)}
    elif "\n" in tokens and start is not None:
        tokens[tokens.index("\n")] = start
    saved = description | {"state": state, "tokens": tokens}
    tokenizer = from_saved(saved)
    if start is not None and tokenizer.vocabulary.start != start:
        raise UserError("tokenizer.json: its vocabulary does not fit the start token")
    return tokenizer


def _tokens(file: Any) -> list[str]:
    """Return the tokens of a tokenizer.json in the order of their ids."""
    model = file.get("model") if isinstance(file, dict) else None
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ids, dict) or not ids:
        raise UserError("tokenizer.json has no vocabulary")
    if any(type(id_) is not int for id_ in ids.values()):
        raise UserError("tokenizer.json: an id of its vocabulary is not a whole number")
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise UserError(f"tokenizer.json: the ids of its vocabulary are not 0 to {len(tokens) - 1}")
    return tokens


def _special(index: int, text: str) -> Json:
    """Return a token that is found in a text before the text is cut."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, **flags, "special": True}


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(regex: str, behavior: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


def _word_level(tokenizer: Tokenizer) -> Json:
    """Return the model that looks up each piece of the text."""
    start_id = tokenizer.vocabulary.start_id
    vocab = {
        "\n" if index == start_id else token: index
        for index, token in enumerate(tokenizer.vocabulary.tokens)
    }
    if len(vocab) < len(tokenizer.vocabulary):
        raise UserError("the vocabulary lists a line break beside its start token")
    # With an unknown token outside of the vocabulary, a piece that is not listed is an error.
    return {"type": "WordLevel", "vocab": vocab, "unk_token": tokenizer.vocabulary.unk or PAD}


def _words(tokenizer: Any) -> Json:
    spaces = ASCII_BLANKS if tokenizer.ascii_blanks else SPACES
    blank = "".join(f"\\x{{{ord(space):X}}}" for space in spaces)
    inside = f"[^{blank}\\n]"
    has_eos = tokenizer.eos
    if has_eos != (tokenizer.vocabulary.start == EOS):
        raise UserError(f"its words end lines by {EOS}, but start them by another token")
    # Without <eos>, the line break is a blank. With it, a word <eos> of a text has its id.
    pieces = [_split(f"[{blank}]+" if has_eos else f"[{blank}\\n]+", "Removed")]
    if has_eos:
        pieces.append(_split(r"\n", "Isolated"))
    eos_to_break = _replace({"Regex": f"(?<!{inside}){EOS}(?!{inside})"}, "\n")
    joined = [
        {"type": "WordPiece", "prefix": PAD, "cleanup": False},
        {"type": "Fuse"},
        _replace({"String": " \n"}, "\n"),
        _replace({"String": "\n "}, "\n"),
    ]
    return {
        "normalizer": eos_to_break if has_eos else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces},
        "decoder": {"type": "Sequence", "decoders": joined},
        "model": _word_level(tokenizer),
    }


CRLF = _replace({"String": "\r\n"}, "\n")
"""A line break of two characters is one line break."""


NO_BREAKS = {"type": "Sequence", "normalizers": [CRLF, _replace({"String": "\n"}, "")]}
"""No line breaks, for a vocabulary of another program that lacks them."""


def _characters(tokenizer: Tokenizer) -> Json:
    return {
        "normalizer": CRLF if "\n" in tokenizer.vocabulary else NO_BREAKS,
        "pre_tokenizer": _split(r"[\s\S]", "Isolated"),
        "decoder": {"type": "Fuse"},
        "model": _word_level(tokenizer),
    }


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}


def _byte_names() -> list[str]:
    """Return the 256 bytes as byte-level BPE writes them."""
    return sorted(BYTE_OF_LETTER, key=BYTE_OF_LETTER.__getitem__)


def _bytes(tokenizer: Tokenizer) -> Json:
    model: Json = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {name: byte for byte, name in enumerate(_byte_names())},
        "merges": [],
    }
    parts = {"pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL}
    # Every byte counts, also that of a carriage return.
    return {"normalizer": None, "model": model} | parts


def _bpe(tokenizer: Tokenizer) -> Json:
    file = json.loads(tokenizer.state()["model"])
    return {name: file[name] for name in ("pre_tokenizer", "decoder", "model")} | {
        "normalizer": CRLF
    }


WRITERS: dict[type[Tokenizer], Callable[[Any], Json]] = {
    Words: _words,
    Characters: _characters,
    Bytes: _bytes,
    BPE: _bpe,
}
"""The function that returns the parts of a tokenizer.json, by the class of the tokenizer."""
