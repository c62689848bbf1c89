"""Read damaged files of every kind: each is refused in one line, or read as what it says.

Command    python experiments/bad_inputs.py [--inputs 8000] [--seed 0] [--seconds 20] [--only NAME]
Hardware   one CPU core
Minutes    2
Expected   no finding; the exit code is 1 if there is one

Each reader gets whole files that jaxlm wrote, or that are right, and then damaged copies of them:
flipped bytes, bytes cut off, inserted, repeated and swapped, and in JSON values of another type,
values that are left out, and values that are added. All draws come from the seed.

A finding is one of these:

- a traceback: an error that is no UserError, or a UserError with more than one line;
- a hang: a reader that takes longer than the limit;
- a wrong result in silence, which is defined for each reader:
  - texts: text that is not the text of the file, decoded strictly (for a gzip file, of its content,
    whose checksum must fit);
  - configuration files: a setting out of its range;
  - runs, tokenizers, checkpoints, tables, prepared texts: probabilities that are negative, NaN,
    above 1, or that do not sum to 1; token ids outside of the vocabulary; other parameters than
    those of the whole run; if the folder lists digests of a file, any accepted change of its bytes;
  - weights of PyTorch: the same, and weights that are no finite numbers, code of the file that was
    executed, and a folder that is half written;
  - ARPA files: probabilities as above, except that the sum is not known to be 1;
  - requests over HTTP: an answer that is neither 200 nor 4xx with one line;
  - logs: a record that is in no line of the file;
  - contexts: a probability that is NaN;
  - minimal pairs: sentences other than those of the file; an accuracy that is no share;
  - sentences: words that are not in the file, and words that do not sum to their sentence.

A changed text, ARPA file or vocabulary that follows its format is another text or another
vocabulary. It is read as such, because these files have no digest.
"""

import argparse
import contextlib
import csv
import gzip
import io
import json
import logging
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

import jaxlm
from jaxlm.commands.process import silence_libraries
from jaxlm.commands.settings import default_config
from jaxlm.data.encoding import TextSize
from jaxlm.data.preparing import (
    PreparingConfig,
    claim_prepared_folder,
    fit_tokenizer,
    prepare,
)
from jaxlm.data.text import lines_of_file
from jaxlm.data.word_lists import read_word_list
from jaxlm.errors import UserError
from jaxlm.evaluation.sentences import score_all, table_of
from jaxlm.interop.arpa_runs import export_arpa, import_arpa
from jaxlm.interop.formats import read_run, write_run
from jaxlm.interop.huggingface.writing import export_huggingface
from jaxlm.models.torch_names import to_torch
from jaxlm.runs.log import keep_records_up_to, read_records

LINES = ["the cat sat on the mat\n", "我 喜欢 玩具\n", "a dog, a log; é\n", "the mat sat\n"] * 6


class Wrong(Exception):  # noqa: N818 (a wrong result is no error of jaxlm)
    """A wrong result that was accepted in silence."""


class Hang(BaseException):
    """The time limit; no `except Exception` of a library catches it."""


class Reader(NamedTuple):
    """A reader of files, and what it gets.

    files: a folder of whole files; names: the files in it that are damaged, one at a time. read:
    read(folder, changed, name) reads the folder and raises Wrong. json: whether values of JSON are
    changed too. weight: share of the inputs.
    """

    files: Path
    names: tuple[str, ...]
    read: Callable[[Path, bool, str], None]
    json: bool = False
    weight: float = 1.0


# Damage.


def damage_bytes(data: bytes, draw: random.Random) -> bytes:
    """Return `data` with one kind of damage, or with two."""
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(len(data) + 1)
        end = min(len(data), place + draw.choice((1, 4, 30, 1000)))
        kind = draw.randrange(7)
        if kind == 0 and place < len(data):
            data = (
                data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
            )
        elif kind == 1:
            data = data[:place]
        elif kind == 2:
            data = data[:place] + draw.randbytes(draw.choice((1, 3, 200))) + data[place:]
        elif kind == 3:
            data = data[:place] + data[end:]
        elif kind == 4:
            data = data[:end] + data[place:end] + data[end:]
        elif kind == 5:
            data = data[:place] + bytes(end - place) + data[end:]
        else:
            data = draw.choice((b"", b"\x00" * 40, b"\xff\xfe", b"\x1f\x8b", b"[" * 100_000, b"{}"))
    return data


VALUES = [
    None, True, -1, 0, 1, 2, 1.5, 1e300, 10**30, "", "abc", "../../etc/passwd", "\x00", "\ud800",
    [], {}, [1], ["a", "a"], {"a": 1}, float("nan"), float("inf"), [[[[]]]],
]  # fmt: skip


def damage_json(data: bytes, draw: random.Random) -> bytes:
    """Return a JSON text in which one value is another value, is left out, or is added."""
    content = json.loads(data)
    places = list(places_in(content))
    if not places:
        return damage_bytes(data, draw)
    owner, key = draw.choice(places)
    kind = draw.randrange(8)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[draw.choice(("unknown", "", "eos", "hidden_size"))] = draw.choice(VALUES)
    elif kind == 2:
        owner[key] = nested(draw.choice((30, 900, 5000)))
    else:
        owner[key] = draw.choice(VALUES)
    try:
        return json.dumps(content).encode("utf-8", "surrogatepass")
    except RecursionError:
        return data[: len(data) // 2] + b"[" * 100_000


def damage_json_lines(data: bytes, draw: random.Random) -> bytes:
    """Return JSON lines in which one line is damaged by `damage_json`."""
    lines = data.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    lines[place] = damage_json(lines[place], draw) + b"\n"
    return b"".join(lines)


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place in a value of JSON: a list or an object, and an index or a key."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places_in(value[key])


def nested(depth: int) -> Any:
    """Return a list in a list in a list ..."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Checks of what was read.


def check_probabilities(log_probs: Any, sums_to_one: bool = True) -> None:
    """Raise Wrong unless `log_probs` are the natural logarithms of a distribution."""
    p_V = np.exp(np.asarray(log_probs, np.float64))
    if np.isnan(p_V).any() or (p_V < 0).any() or (p_V > 1 + 1e-5).any():
        raise Wrong("a probability that is NaN or above 1")
    if sums_to_one and not 0.999 < p_V.sum() < 1.001:
        raise Wrong(f"probabilities that sum to {p_V.sum():.4f}")


def check_run(run: Any, sums_to_one: bool = True) -> None:
    """Raise Wrong if a run gives no distribution after a few contexts."""
    V = len(run.vocabulary)
    for ids in ([0], [V - 1], [0, V // 2, V - 1]):
        log_probs_1V, _ = run.model.next_log_probs(run.params, np.array([ids], np.int32))
        check_probabilities(log_probs_1V[0], sums_to_one)


def same_params(one: Any, other: Any) -> bool:
    """Return whether two trees of arrays have the same bytes."""
    import jax

    # The tables of an n-gram.
    one, other = (tree.arrays() if hasattr(tree, "arrays") else tree for tree in (one, other))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


# The readers.


def text_reader(files: Path, tokens: str) -> Reader:
    """Return the reader of a text by a tokenizer."""

    def read(folder: Path, changed: bool, name: str) -> None:
        path = folder / name
        text = jaxlm.read_corpus(path, tokens=tokens, fractions=(1.0,))
        ids = np.asarray(text.train.ids)
        if ids.size and not (ids.min() >= 0 and ids.max() < len(text.vocabulary)):
            raise Wrong("a token id outside of the vocabulary")
        raw = path.read_bytes()
        try:
            whole = raw.decode("utf-8")
        except UnicodeDecodeError:
            if tokens != "bytes":
                raise Wrong("text that is not UTF-8") from None
            return
        whole = whole.removeprefix("\ufeff").replace("\r\n", "\n")
        if tokens in ("chars", "bpe") and "\r" not in whole:
            decoded = text.tokenizer.decode(ids.tolist())
            if decoded != whole:
                raise Wrong("another text than that of the file")

    return Reader(files, ("text.txt",), read)


def gzip_reader(files: Path) -> Reader:
    """Return the reader of a compressed text. It learns a vocabulary as `prepare` does."""

    def read(folder: Path, changed: bool, name: str) -> None:
        texts = {"train": [folder / name]}
        tokenizer = fit_tokenizer(texts, PreparingConfig(tokens="chars"))
        whole = (folder / name).read_bytes()
        if whole[:2] == b"\x1f\x8b":
            try:
                whole = gzip.decompress(whole)
            except (OSError, EOFError, zlib.error):
                raise Wrong("gzip data that cannot be decompressed") from None
        expected = set(whole.decode("utf-8", "surrogateescape").replace("\r\n", "\n"))
        if not expected - {"\ufeff"} <= set(tokenizer.vocabulary.tokens):
            raise Wrong("another text than that of the file")

    return Reader(files, ("text.txt.gz",), read)


def config_reader(files: Path) -> Reader:
    """Return the reader of a file of settings."""

    def read(folder: Path, changed: bool, name: str) -> None:
        config = default_config("lstm", None, folder / name, "toy")
        config.check_ranges()
        optimizer = config.optimizer
        assert optimizer is not None
        if not (optimizer.lr > 0 and 0 <= optimizer.beta1 < 1):
            raise Wrong("a setting out of its range")

    return Reader(files, ("settings.json", "config.json"), read, json=True)


def run_reader(files: Path, names: tuple[str, ...], as_json: bool, weight: float = 1) -> Reader:
    """Return the reader of a run's folder.

    Args:
      files: the folder of the whole run.
      names: the files to damage.
      as_json: whether values of JSON are changed too.
      weight: share of the inputs.
    """
    whole = jaxlm.load(files)
    listed = {
        f"{path.parent.name}/{name}"
        for path in files.rglob("digests.json")
        for name in json.loads(path.read_text())
    }
    # A Hugging Face folder lists its digests in jaxlm.json.
    if (files / "jaxlm.json").exists():
        listed |= set(json.loads((files / "jaxlm.json").read_text())["files"])

    def read(folder: Path, changed: bool, name: str) -> None:
        # The model, whose settings may differ, decides whether the parameters can be used.
        run = jaxlm.load(folder, lambda line: None)
        check_run(run)
        if not same_params(run.params, whole.params) and "ngrams" not in name:
            raise Wrong("other parameters than those of the whole run")
        if changed and name in listed:
            raise Wrong("a change of a file whose digest is kept")
        jaxlm.next_words(run, "the cat sat", 3)
        jaxlm.read_corpus(LINES, tokenizer=run.tokenizer, fractions=(1.0,))

    return Reader(files, names, read, as_json, weight)


def huggingface_reader(files: Path) -> Reader:
    """Return the reader of a Hugging Face folder without digests, as transformers saves it.

    A changed vocabulary, and changed parameters that are numbers, are another run.
    """

    def read(folder: Path, changed: bool, name: str) -> None:
        run = jaxlm.load(folder, lambda line: None)
        check_run(run)
        jaxlm.next_words(run, "the cat sat", 3)
        jaxlm.read_corpus(LINES, tokenizer=run.tokenizer, fractions=(1.0,))

    names = ("config.json", "tokenizer.json", "model.safetensors")
    return Reader(files, names, read, True, 2)


def prepared_reader(files: Path, names: tuple[str, ...], as_json: bool) -> Reader:
    """Return the reader of a prepared folder."""
    saved = json.loads((files / "prepared.json").read_text())
    has_digests = "sha256" in json.dumps(saved["splits"])

    def read(folder: Path, changed: bool, name: str) -> None:
        text = jaxlm.read_corpus(folder)
        for split in text.splits.values():
            ids = np.asarray(split.ids)
            if ids.size and ids.max() >= len(text.vocabulary):
                raise Wrong("a token id outside of the vocabulary")
            TextSize.of(split.source.lines())
        if changed and has_digests and name.endswith((".u16", ".u32")):
            raise Wrong("a change of a shard whose digest is kept")

    return Reader(files, names, read, as_json)


def arpa_reader(files: Path) -> Reader:
    """Return the reader of an ARPA file."""

    def read(folder: Path, changed: bool, name: str) -> None:
        check_run(import_arpa(folder / name), sums_to_one=False)

    return Reader(files, ("model.arpa", "model.arpa.gz"), read, weight=2)


def weights_reader(files: Path, names: tuple[str, ...], suffix: str) -> Reader:
    """Return the reader of PyTorch weights, by jaxlm and by another program.

    A file x.header.json and a file x.body make x.safetensors, so that the values of the header can
    be damaged too. The file hostile.pt would make the file `executed` beside the folder.

    Args:
      files: the folder of whole files, with vocab.json.
      names: the files to damage.
      suffix: ".safetensors" or ".pt".
    """
    executed = files.parent / "executed"

    def read(folder: Path, changed: bool, name: str) -> None:
        for header in folder.glob("*.header.json"):
            body = folder / header.name.replace(".header.json", ".body")
            data = header.read_bytes()
            whole = struct.pack("<Q", len(data)) + data + body.read_bytes()
            body.with_suffix(".safetensors").write_bytes(whole)
        stem = name.split(".")[0]
        path = folder / f"{'foreign' if stem == 'vocab' else stem}{suffix}"
        options = {"vocabulary": folder / "vocab.json"} if "own" not in path.name else {}
        into = folder / "run"
        shutil.rmtree(into, ignore_errors=True)
        try:
            run = read_run(path, into, tell=lambda line: None, **options)
        except UserError as error:
            if into.exists():
                raise Wrong("a folder that is half written") from None
            if path.stem == "hostile" and "code of" in str(error):
                # The whole file is refused, which is right.
                return
            raise
        finally:
            if executed.exists():
                executed.unlink()
                raise Wrong("code of the file was executed")
        check_run(run)
        if not all(np.isfinite(leaf).all() for leaf in leaves_of(run.params)):
            raise Wrong("weights that are no numbers")

    return Reader(files, names, read, json=True, weight=2)


def leaves_of(tree: Any) -> list[Any]:
    """Return the arrays of a tree."""
    import jax

    return jax.tree.leaves(tree)


class Hostile:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def make_weights(run: Any, files: Path) -> dict[str, tuple[str, ...]]:
    """Write files of weights, and return the names of the files to damage by format.

    Without torch there are no .pt files.
    """
    files.mkdir()
    vocabulary = files / "vocab.json"
    vocabulary.write_text(json.dumps(run.vocabulary.tokens))
    write_run(run, files / "own.safetensors")
    tensors = {f"lm.{name}": array for name, array in to_torch(run.model, run.params).items()}
    save_file(tensors, files / "foreign.safetensors")
    for name in ("own", "foreign"):
        data = (files / f"{name}.safetensors").read_bytes()
        size = 8 + struct.unpack("<Q", data[:8])[0]
        (files / f"{name}_parts.header.json").write_bytes(data[8:size])
        (files / f"{name}_parts.body").write_bytes(data[size:])
    whole = "own.safetensors", "foreign.safetensors"
    parts = tuple(f"{name}_parts.header.json" for name in ("own", "foreign"))
    found = {".safetensors": (*whole, *parts, "vocab.json")}
    with contextlib.suppress(ImportError):
        import torch

        write_run(run, files / "own.pt")
        state = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
        torch.save({"epoch": 1, "model": state}, files / "foreign.pt")
        torch.save(state, files / "old.pt", _use_new_zipfile_serialization=False)
        content = {"state_dict": state, "x": Hostile(files.parent / "executed")}
        torch.save(content, files / "hostile.pt")
        found[".pt"] = "own.pt", "foreign.pt", "old.pt", "hostile.pt", "vocab.json"
    return found


def log_reader(files: Path) -> Reader:
    """Return the reader of metrics.jsonl."""

    def read(folder: Path, changed: bool, name: str) -> None:
        path = folder / name
        lines = path.read_bytes().split(b"\n")
        for record in read_records(path):
            found = False
            for line in lines:
                with contextlib.suppress(ValueError, RecursionError):
                    found = found or json.loads(line) == record
            if not found:
                raise Wrong("a record that is in no line")
        keep_records_up_to(path, 3)

    return Reader(files, ("metrics.jsonl",), read, json=False)


def vocabulary_reader(files: Path) -> Reader:
    """Return the reader of vocabulary files. Words and characters are listed once, and have no
    blank.
    """

    def read(folder: Path, changed: bool, name: str) -> None:
        unit = "characters" if name == "characters.txt" else "words"
        words = read_word_list(str(folder / name), unit)
        if len(set(words)) < len(words) or not words:
            raise Wrong("no words, or a word twice")
        if any(len(word.split()) > 1 or "\n" in word for word in words if word != "\n"):
            raise Wrong("a word with a blank")
        if unit == "characters" and any(len(word) > 1 and word != "<unk>" for word in words):
            raise Wrong("several characters in one")

    return Reader(files, ("words.txt", "words.txt.gz", "characters.txt"), read)


def context_reader(files: Path, run: Any) -> Reader:
    """Return the reader of contexts, as bytes of standard input."""

    def read(folder: Path, changed: bool, name: str) -> None:
        text = (folder / name).read_bytes().decode("utf-8", "surrogateescape")
        for context in text.split("\n")[:3]:
            for _, probability in jaxlm.next_words(run, context, 3):
                if not 0 <= probability <= 1:
                    raise Wrong("a probability that is no probability")

    return Reader(files, ("context.txt",), read)


def request_reader(files: Path, runs: list[Any]) -> Reader:
    """Return the reader of bodies of requests, as a service over HTTP gets them.

    A body is refused by a status of 4xx and one line of JSON.
    """
    from fastapi.testclient import TestClient

    from jaxlm.serving.app import serving

    context = serving(runs)
    client = TestClient(context.__enter__())
    bodies = {
        "next": {"run": "words", "text": "the cat sat", "top": 3, "start": None},
        "score": {
            "run": "ngram",
            "sentences": ["the cat sat", "the mat"],
            "by": "word",
            "end": True,
        },
        "generate": {"prompt": "the", "length": 5, "temperature": 0.9, "top_p": 0.9, "seed": 1},
    }
    for name, body in bodies.items():
        (files / f"{name}.json").write_text(json.dumps(body))

    def read(folder: Path, changed: bool, name: str) -> None:
        # The context lives as long as the reader.
        assert context is not None
        body, kind = (folder / name).read_bytes(), {"Content-Type": "application/json"}
        answer = client.post(f"/{Path(name).stem}", content=body, headers=kind)
        content = json.loads(answer.content, parse_constant=_no_constant)
        if 400 <= answer.status_code < 500 and list(content) == ["error"]:
            raise UserError(content["error"])
        if answer.status_code != 200:
            raise Wrong(f"status {answer.status_code}: {content}")
        for item in content.get("words", ()):
            if not 0 <= item["probability"] <= 1:
                raise Wrong("a probability that is no probability")

    return Reader(files, tuple(f"{name}.json" for name in bodies), read, json=True)


def _no_constant(name: str) -> None:
    raise Wrong(f"an answer with {name}, which JSON does not have")


def pairs_reader(files: Path, run: Any) -> Reader:
    """Return the reader of minimal pairs, which are scored too."""

    def read(folder: Path, changed: bool, name: str) -> None:
        found = jaxlm.pairs(run, folder / name)
        if not all(0 <= value <= 100 for value in found.accuracy.values()):
            raise Wrong("an accuracy that is no share")
        text = (folder / name).read_bytes().decode("utf-8")
        given = [text, text.replace('""', '"')]
        if name.endswith(".jsonl"):
            records = (
                json.loads(line) for line in text.lstrip("\ufeff").split("\n") if line.strip()
            )
            given = [str(value) for record in records for value in record.values()]
        for pair in found.pairs:
            for sentence in (pair.good, pair.bad):
                if not any(sentence in part for part in given):
                    raise Wrong("a sentence that is not in the file")

    content = [
        ("the cat sat", "cat the sat"),
        ('a "log", a mat', "mat\ta a"),
        ("我 喜欢", "喜欢 我"),
    ]
    names = ("sentence_good", "sentence_bad", "UID")
    rows = [(good, bad, "order") for good, bad in content] * 3
    with open(files / "pairs.jsonl", "w", encoding="utf-8") as file:
        records = [dict(zip(names, row, strict=True)) for row in rows]
        file.writelines(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    for ending, delimiter in (("tsv", "\t"), ("csv", ",")):
        with open(files / f"pairs.{ending}", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([names, *rows])
    return Reader(files, ("pairs.jsonl", "pairs.tsv", "pairs.csv"), read, json=True)


def sentences_reader(files: Path, run: Any) -> Reader:
    """Return the reader of files of sentences, as `python -m jaxlm.score` reads them."""

    def read(folder: Path, changed: bool, name: str) -> None:
        path = folder / name
        column = "text" if name.endswith((".csv", ".jsonl")) else None
        sentences = [line.rstrip("\n") for line in lines_of_file(path, column=column)]
        (found,) = score_all(run, sentences)
        table, sums = table_of([found]), table_of([found], "sentence")
        totals = Counter[int]()
        for number, bits in zip(table["sentence_id"], table["surprisal"], strict=True):
            totals[number] += 0 if np.isnan(bits) else bits
        for number, bits in zip(sums["sentence_id"], sums["surprisal"], strict=True):
            if abs(totals[number] - bits) > 1e-6 * (1 + bits):
                raise Wrong("words that do not sum to their sentence")
        text = path.read_bytes().decode("utf-8")
        if column is None and not {*"".join(table["word"])} <= {*text, *"<eos>"}:
            raise Wrong("words that are not in the file")

    shutil.copy(files / "text.txt", files / "sentences.txt")
    with open(files / "sentences.csv", "w", encoding="utf-8", newline="") as file:
        rows = [("id", "text"), *((str(n), line.strip()) for n, line in enumerate(LINES))]
        csv.writer(file, lineterminator="\n").writerows(rows)
    lines = [json.dumps({"id": 1, "text": line.strip()}, ensure_ascii=False) for line in LINES]
    (files / "sentences.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = ("sentences.txt", "sentences.csv", "sentences.jsonl")
    return Reader(files, names, read, json=True)


def make_readers(folder: Path) -> dict[str, Reader]:
    """Write whole files of every kind, and return the readers by name."""
    texts = folder / "texts"
    texts.mkdir()
    content = "".join(LINES).encode()
    (texts / "text.txt").write_bytes(content)
    (texts / "context.txt").write_bytes("".join(LINES[:3]).encode())
    (texts / "text.txt.gz").write_bytes(gzip.compress(content, mtime=0))
    readers = {f"text: {kind}": text_reader(texts, kind) for kind in ("words", "chars", "bytes")}
    readers["text: bpe"] = text_reader(texts, "bpe")
    readers["text: gzip"] = gzip_reader(texts)
    runs = {}
    for tokens in ("words", "bpe"):
        text = jaxlm.read_corpus(
            texts / "text.txt", tokens=tokens, fractions=(0.5, 0.5), unk="auto"
        )
        V, start = len(text.vocabulary), text.vocabulary.start_id
        short = {"steps": 4, "eval_every": 2, "log_every": 1, "batch_size": 2, "bptt": 4}
        model = jaxlm.GRU(V, start, embedding_size=2, hidden_size=3)
        runs[tokens] = jaxlm.fit(model, text, folder=folder / tokens, quiet=True, **short)
        if tokens == "words":
            ngram = jaxlm.NGram(V, start, order=3, smoothing="witten-bell")
            runs["ngram"] = jaxlm.fit(ngram, text, folder=folder / "ngram", quiet=True)
    for name in ("words", "bpe"):
        place = folder / f"huggingface-{name}"
        export_huggingface(runs[name], place)
        every = ("config.json", "tokenizer.json", "model.safetensors", "jaxlm.json")
        readers[f"huggingface: {name}"] = run_reader(place, every, True, 2)
        place = Path(shutil.copytree(place, folder / f"saved-{name}"))
        (place / "jaxlm.json").unlink()
        readers[f"huggingface saved: {name}"] = huggingface_reader(place)
    for name in ("words", "bpe", "ngram"):
        place = folder / name
        readers[f"run: {name}"] = run_reader(place, ("config.json", "tokenizer.json"), True, 2)
    files = folder / "ngram" / "ngrams"
    tables = tuple(f"ngrams/{path.name}" for path in sorted(files.iterdir()))
    readers["tables"] = run_reader(folder / "ngram", tables, False, 2)
    place = folder / "words"
    # A run of one checkpoint: `load` reads no other checkpoint in its place.
    runs["words"].save(folder / "kept")
    kept = [path for path in (folder / "kept/checkpoints").rglob("*") if path.is_file()]
    names = tuple(str(path.relative_to(folder / "kept")) for path in sorted(kept))
    readers["checkpoints"] = run_reader(folder / "kept", names, False, 2)
    arpa = folder / "arpa"
    arpa.mkdir()
    export_arpa(runs["ngram"], arpa / "model.arpa")
    export_arpa(runs["ngram"], arpa / "model.arpa.gz")
    readers["ARPA"] = arpa_reader(arpa)
    for suffix, names in make_weights(runs["words"], folder / "weights").items():
        readers[f"weights: {suffix[1:]}"] = weights_reader(folder / "weights", names, suffix)
    settings = folder / "settings"
    settings.mkdir()
    (settings / "settings.json").write_text('{"lr": 0.1, "hidden_size": 4, "layer_sizes": [3]}')
    shutil.copy(place / "config.json", settings / "config.json")
    readers["settings"] = config_reader(settings)
    vocabulary = folder / "vocabulary"
    vocabulary.mkdir()
    listed = "\n".join(["<unk>", *dict.fromkeys("".join(LINES).split())]).encode()
    (vocabulary / "words.txt").write_bytes(listed)
    (vocabulary / "words.txt.gz").write_bytes(gzip.compress(listed, mtime=0))
    (vocabulary / "characters.txt").write_text("\n".join(dict.fromkeys("".join(LINES[:2]))))
    readers["vocabulary file"] = vocabulary_reader(vocabulary)
    log = folder / "log"
    log.mkdir()
    shutil.copy(place / "metrics.jsonl", log / "metrics.jsonl")
    readers["metrics.jsonl"] = log_reader(log)
    readers["contexts"] = context_reader(texts, runs["words"])
    requests = folder / "requests"
    requests.mkdir()
    readers["requests"] = request_reader(requests, [runs["words"], runs["ngram"]])
    # Damaged sentences have unknown words, which this run reads.
    text = jaxlm.read_corpus(texts / "text.txt", fractions=(1.0,), unk="always")
    reads_all = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    readers["minimal pairs"] = pairs_reader(texts, reads_all)
    readers["sentences"] = sentences_reader(texts, reads_all)
    ready = folder / "prepared"
    make_prepared(texts / "text.txt", ready)
    shards = tuple(path.name for path in sorted(ready.glob("*.u*")))
    readers["prepared"] = prepared_reader(ready, ("prepared.json", "tokenizer.json"), True)
    readers["shards"] = prepared_reader(ready, shards, False)
    return readers


# The driver.


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Hang in this context after `seconds`."""

    def stop(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(read: Callable[[], None], seconds: float) -> tuple[str, str]:
    """Return what came of a call, "read", "refused" or the kind of finding, and its details."""
    try:
        with (
            time_limit(seconds),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            read()
    except Hang:
        return "hang", f"longer than {seconds:g} s"
    except Wrong as error:
        return "wrong", str(error)
    except UserError as error:
        lines = str(error).strip().splitlines()
        return ("traceback", f"{len(lines)} lines") if len(lines) != 1 else ("refused", lines[0])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "jaxlm" in frame.filename] or where
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return "traceback", f"{type(error).__name__} at {place}: {str(error)[:100]!r}"
    return "read", ""


def attack(name: str, reader: Reader, count: int, seed: int, seconds: float) -> list[str]:
    """Read `count` damaged inputs; print a row of the table and return the findings.

    Args:
      name: name of the reader.
      reader: the reader.
      count: number of inputs.
      seed: seed of the damage.
      seconds: the time limit of an input.
    """
    draw, found, findings = random.Random(f"{name}-{seed}"), Counter[str](), []
    began, slowest = time.perf_counter(), 0.0
    for number in range(count):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / reader.files.name
            shutil.copytree(reader.files, folder)
            file = reader.names[number % len(reader.names)]
            data = (folder / file).read_bytes()
            as_json = reader.json and file.endswith((".json", ".jsonl")) and draw.random() < 0.6
            damage = damage_json_lines if file.endswith(".jsonl") else damage_json
            damaged = (damage if as_json else damage_bytes)(data, draw)
            (folder / file).write_bytes(damaged)
            start = time.perf_counter()
            kind, detail = outcome(
                lambda: reader.read(folder, damaged != data, file),  # noqa: B023
                seconds,
            )
            slowest = max(slowest, time.perf_counter() - start)
        found[kind] += 1
        if kind not in ("read", "refused"):
            findings.append(f"{name}, input {number} ({file}): {kind}: {detail}")
    columns = [found[kind] for kind in ("refused", "read", "traceback", "hang", "wrong")]
    numbers = "".join(f"{column:11,}" for column in (count, *columns))
    total = time.perf_counter() - began
    print(f"{name:16s}{numbers}{slowest:10.2f}{total:9.1f}", flush=True)
    return findings


def make_prepared(text: Path, folder: Path) -> None:
    """Prepare a text as `python -m jaxlm.prepare` does."""
    texts = {"train": [text]}
    tokenizer = claim_prepared_folder(folder, texts, PreparingConfig(tokens="words"))
    prepare(folder, texts, tokenizer, 1, lambda shard, newly_written: None)


def main() -> int:
    """Attack every reader, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=8000, help="number of damaged inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20, help="time limit of an input")
    parser.add_argument("--only", help="only readers whose name contains this text")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    silence_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        readers = make_readers(Path(temporary))
        if options.only:
            readers = {name: one for name, one in readers.items() if options.only in name}
        for name, reader in readers.items():
            # The whole files are read without a finding, and compile what the readers need.
            for file in reader.names:
                kind, detail = outcome(lambda: reader.read(reader.files, False, file), 600)  # noqa: B023
                assert kind == "read", f"{name}, whole {file}: {kind} {detail}"
        headers = ("inputs", "refused", "read", "traceback", "hang", "wrong")
        print(f"{'reader':16s}{''.join(f'{one:>11s}' for one in headers)}   slowest  seconds")
        findings, weights = [], sum(reader.weight for reader in readers.values())
        for name, reader in readers.items():
            count = max(1, -(-int(options.inputs * reader.weight) // int(weights)))
            findings += attack(name, reader, count, options.seed, options.seconds)
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
