"""Prepared shards hold the ids of the whole text; preparation can be resumed; errors are clear."""

import errno
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

import jaxlm
from jaxlm.data import preparing, shards
from jaxlm.data.batching import make_batches
from jaxlm.data.encoding import Split, TextSize
from jaxlm.data.preparing import (
    PreparingConfig,
    claim_prepared_folder,
    fit_tokenizer,
    pieces_of,
    prepare,
)
from jaxlm.data.shards import PREPARED, ShardedIds, read_prepared
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.perplexity import score_split
from jaxlm.inspection.pages.texts import default_text

LINES = [f"line {number} has {number * number} words\r\n" for number in range(2000)] + ["the end"]
TEXT = "\ufeff" + "".join(LINES)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(preparing, "PIECE_BYTES", 10_000)


def write(folder, name, text=TEXT):
    path, raw = folder / name, text.encode("utf-8")
    packed = {".gz": gzip.compress, ".zst": zstd.compress}
    path.write_bytes(packed[path.suffix](raw) if path.suffix in packed else raw)
    return path


def prepared(folder, texts, **settings):
    config = PreparingConfig(workers=1, **settings)
    tokenizer = claim_prepared_folder(folder, texts, config)
    newly_written = []
    prepare(folder, texts, tokenizer, config.workers, lambda shard, new: newly_written.append(new))
    return newly_written


@pytest.mark.parametrize("tokens", ["words", "chars", "bytes", "bpe"])
def test_shards_hold_the_ids_of_the_whole_text(tmp_path, tokens):
    plain = write(tmp_path, "text.txt")
    packed = [write(tmp_path, "a.txt.gz"), write(tmp_path, "b.txt.zst")]
    texts = {"train": [plain, *packed], "valid": [plain]}
    newly_written = prepared(tmp_path / "out", texts, tokens=tokens)
    assert all(newly_written) and len(newly_written) > 8
    text = jaxlm.read_corpus(str(tmp_path / "out"))
    # Bytes are read as they are.
    whole = TEXT if tokens == "bytes" else "".join(LINES).replace("\r\n", "\n")
    at_once = text.tokenizer.encode(whole.splitlines(keepends=True))
    np.testing.assert_array_equal(text.valid.ids, at_once)
    # A file ends with a line break if another file follows.
    ended = text.tokenizer.encode(f"{whole}\n".splitlines(keepends=True))
    train = np.concatenate([ended, ended, at_once])
    np.testing.assert_array_equal(np.asarray(text.train.ids), train)
    size = text.valid.text_size()
    sizes = (len(whole.encode()), len(whole), len(LINES))
    assert (size.bytes, size.characters, size.lines) == sizes
    assert size.words == len(whole.split())
    # Words lose only white space, and here it is single spaces. The last line gains an <eos>.
    assert "".join(text.valid.source.lines()).rstrip("\n") == whole


def test_an_interrupted_call_is_resumed(tmp_path, monkeypatch):
    texts = {"train": [write(tmp_path, "text.txt")]}
    whole = tmp_path / "whole"
    prepared(whole, texts, tokens="words")
    half = tmp_path / "half"
    shutil.copytree(whole, half)
    about = json.loads((half / PREPARED).read_text())
    # The state after a kill: a shard half written, two shards not begun.
    (half / PREPARED).write_text(json.dumps(about | {"finished": False, "splits": {}}))
    names = sorted(half.glob("train-*.u16"))
    for path in names[2:4]:
        os.remove(path)
        os.remove(f"{path}.json")
    (half / "train-00002.u16.partial").write_bytes(b"half")
    with pytest.raises(UserError, match="is not finished: repeat the command"):
        read_prepared(half)
    newly_written = prepared(half, texts, tokens="words")
    assert newly_written == [place in (2, 3) for place in range(len(names))] and len(names) > 4
    for path in names:
        assert path.read_bytes() == (whole / path.name).read_bytes()
    with pytest.raises(UserError, match=r"holds another text .its settings differ"):
        prepared(half, texts, tokens="chars")
    with pytest.raises(UserError, match=r"`folder` .* exists already: give a new folder"):
        prepared(tmp_path, texts)


def test_unreadable_files_and_bad_settings_are_errors(tmp_path):
    torn = tmp_path / "torn.txt"
    torn.write_bytes("é".encode() * 6000 + b"\n" + b"ab\xff")
    with pytest.raises(UserError, match="not UTF-8: byte 0xff at offset 12003"):
        fit_tokenizer({"train": [torn]}, PreparingConfig(tokens="words"))
    for name in ("cut.gz", "cut.zst"):
        cut = write(tmp_path, name)
        cut.write_bytes(cut.read_bytes()[:-20])
        with pytest.raises(UserError, match=f"cannot read .*{name}"):
            list(pieces_of({"train": [cut]}))
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file"):
        list(pieces_of({"train": [tmp_path / "none.txt"]}))
    empty = write(tmp_path, "empty.txt", "\n \n")
    with pytest.raises(UserError, match="is empty: there is no text"):
        fit_tokenizer({"train": [empty]}, PreparingConfig())
    for settings in ({"fit_megabytes": 0}, {"workers": 0}):
        with pytest.raises(UserError, match="must be at least 1"):
            fit_tokenizer({"train": [empty]}, PreparingConfig(**settings))


def test_a_damaged_folder_is_an_error(tmp_path):
    texts = {"train": [write(tmp_path, "text.txt")]}
    out = tmp_path / "out"
    prepared(out, texts, tokens="words")
    shard = out / "train-00001.u16"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(
        UserError, match=r"damaged prepared text .*train-00001\.u16 is not [0-9]+ ids long"
    ):
        read_prepared(out)
    (out / PREPARED).write_text("{")
    with pytest.raises(UserError, match="damaged prepared text"):
        read_prepared(out)


def test_a_limit_on_open_files_is_no_damage(tmp_path, monkeypatch):
    texts = {"train": [write(tmp_path, "text.txt")]}
    prepared(tmp_path / "out", texts, tokens="words")

    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(np, "memmap", full)
    with pytest.raises(UserError, match=r"^cannot read .*out: Too many open files$"):
        read_prepared(tmp_path / "out")


def test_many_shards_raise_the_limit_on_open_files(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = [(100, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    shards._allow_open_files(10)
    shards._allow_open_files(500)
    shards._allow_open_files(5000)
    assert limits == [(100, 1000), (600, 1000), (1000, 1000)]


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    path = write(tmp_path, "text.txt", "the cat sat on the mat\n" * 3_000_000)
    command = [sys.executable, "-m", "jaxlm.prepare", str(path), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--tokens", "bpe", "--fit-megabytes", "1", "--workers", "2"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/train-*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("a worker outlived its parent")


def test_a_prepared_text_with_a_word_list_is_not_counted_like_lmplz(tmp_path):
    (tmp_path / "words.txt").write_text("the\ncat\n")
    texts = {"train": [write(tmp_path, "text.txt", "the cat sat\n" * 9)]}
    prepared(tmp_path / "out", texts, tokens="words", vocabulary_file=str(tmp_path / "words.txt"))
    text = jaxlm.read_corpus(tmp_path / "out")
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=2)
    with pytest.raises(SettingError, match="`like_lmplz` True: with `vocabulary_file` counts all"):
        jaxlm.fit(model, text, like_lmplz=True, quiet=True)


def test_batches_of_shards_equal_batches_in_memory(tmp_path):
    texts = {"train": [write(tmp_path, "text.txt")], "valid": [write(tmp_path, "valid.txt", "a\n")]}
    prepared(tmp_path / "out", texts, tokens="chars")
    text = jaxlm.read_corpus(str(tmp_path / "out"))
    for batching in ("streams", "windows"):
        config = jaxlm.BatchingConfig(batching=batching, batch_size=4, bptt=50)
        found, expected = (
            make_batches(split, config, 3, 0).block(5, 2, 2)
            for split in (text.train, in_memory(text.train))
        )
        for found_array, expected_array in zip(found, expected, strict=True):
            np.testing.assert_array_equal(found_array, expected_array)
    with pytest.raises(UserError, match="without the lines: read it as one stream"):
        text.train.rows()
    with pytest.raises(UserError, match=r"`tokens` words: .* is a prepared text"):
        jaxlm.read_corpus(str(tmp_path / "out"), tokens="words")


def test_the_edges_of_blocks_do_not_change_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "DECODE_BLOCK", 7)
    text = "the cat 我 喜欢 🙂\n\na\u2028b c\n" * 5 + "the end"
    path = write(tmp_path, "text.txt", text)
    for tokens in ("words", "chars", "bytes", "bpe"):
        prepared(tmp_path / tokens, {"train": [path]}, tokens=tokens)
        lines = list(jaxlm.read_corpus(tmp_path / tokens).train.source.lines())
        expected = list(io.StringIO(text, newline="\n"))
        if tokens == "words":
            expected = [" ".join(line.split()) + "\n" for line in expected]
        assert lines == expected


def test_a_text_without_ends_of_lines_is_not_prepared(tmp_path):
    """No model could be trained on its tokens: nothing stands before the first word of a line."""
    texts = {"train": [write(tmp_path, "text.txt")]}
    with pytest.raises(SettingError, match="`eos` False: a prepared text needs the token that"):
        prepared(tmp_path / "out", texts, tokens="words", eos=False)
    with pytest.raises(SettingError, match="`eos` False: a prepared text needs the token that"):
        prepared(tmp_path / "out", texts, tokens="bpe", eos=False)
    assert not (tmp_path / "out").exists()


def test_files_of_a_line_each_are_lines(tmp_path):
    first, second = (write(tmp_path, name, name) for name in ("a.txt", "b.txt"))
    # The same file may be given twice.
    prepared(tmp_path / "out", {"train": [second, first, second]}, tokens="chars")
    text = jaxlm.read_corpus(tmp_path / "out").train
    assert list(text.source.lines()) == ["b.txt\n", "a.txt\n", "b.txt"]


def test_ngrams_are_counted_from_several_shards(tmp_path):
    paths = [write(tmp_path, f"{number}.txt", f"the cat sat {number}\n" * 9) for number in (1, 2)]
    prepared(tmp_path / "out", {"train": paths}, tokens="words")
    text = jaxlm.read_corpus(tmp_path / "out")
    lines = [line for path in paths for line in path.read_text().splitlines()]
    found = []
    for name, corpus in {
        "shards": text,
        "lines": jaxlm.read_corpus(lines, fractions=(1.0,), tokenizer=text.tokenizer),
    }.items():
        model = jaxlm.NGram(len(corpus.vocabulary), corpus.vocabulary.start_id, order=3)
        run = jaxlm.fit(model, corpus, quiet=True, folder=tmp_path / name)
        found.append(score_split(run, corpus.train).log_prob.sum())
    assert found[0] == pytest.approx(found[1])
    # The page that train writes begins with the text of the shards.
    shown, note = default_text(jaxlm.load(tmp_path / "shards"))
    assert shown.startswith("the cat sat 1") and "beginning of the train text" in note["en"]


def test_an_empty_validation_text_is_an_error(tmp_path):
    texts = {"train": [write(tmp_path, "text.txt")], "valid": [write(tmp_path, "valid.txt", "")]}
    prepared(tmp_path / "out", texts, tokens="words")
    valid = jaxlm.read_corpus(tmp_path / "out").valid
    assert valid.text_size() == TextSize(0, 0, 0, 0)
    assert list(valid.source.lines()) == []


def test_the_error_for_a_missing_file_names_it(tmp_path):
    texts = {"train": [tmp_path / "none.txt"]}
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file"):
        claim_prepared_folder(tmp_path / "out", texts, PreparingConfig())
    assert not (tmp_path / "out").exists()


def test_many_files_share_the_megabytes_of_the_vocabulary(tmp_path, monkeypatch):
    """Preparing reads a MiB of 64 files of 64 KiB twice: to check for text, and to fit."""
    line = b"a b c d e f g h\n"
    paths = [tmp_path / f"{number}.txt" for number in range(64)]
    for path in paths:
        path.write_bytes(line * (1 << 12))
    read = []
    monkeypatch.setattr(
        preparing, "lines_of", lambda piece, exact: read.append(len(piece.text)) or ["a"]
    )
    fit_tokenizer({"train": paths}, PreparingConfig(tokens="words", fit_megabytes=1))
    assert sum(read[1:]) == 1 << 20


def test_a_setting_that_the_text_was_prepared_with_may_be_repeated(tmp_path):
    texts = {"train": [write(tmp_path, "text.txt")]}
    prepared(tmp_path / "out", texts, tokens="words", min_count=2)
    text = jaxlm.read_corpus(tmp_path / "out", eos=True, min_count=2, tokens="words")
    assert text.config.min_count == 2
    for wrong in ({"min_count": 3}, {"unk": "always"}):
        with pytest.raises(UserError, match="is a prepared text, whose tokens are made"):
            jaxlm.read_corpus(tmp_path / "out", **wrong)
    prepared(tmp_path / "eos", texts, tokens="words")
    with pytest.raises(UserError, match=r"`eos` False: .* is a prepared text"):
        jaxlm.read_corpus(tmp_path / "eos", eos=False)


def test_a_setting_that_the_tokenizer_does_not_use_is_an_error(tmp_path):
    texts = {"train": [write(tmp_path, "text.txt")]}
    with pytest.raises(UserError, match="`vocab_size` 300: has no effect with `tokens` bytes"):
        claim_prepared_folder(
            tmp_path / "out", texts, PreparingConfig(tokens="bytes", vocab_size=300)
        )


def in_memory(split):
    return Split(split.name, np.asarray(split.ids), split.source, split.tokenizer)


@pytest.mark.parametrize(("in_memory", "if_small"), [(0, 0), (1000, 0), (0, 1000)])
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.data())
def test_sharded_ids_index_like_an_array(in_memory, if_small, sizes, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxlm.data.shards.IN_MEMORY", in_memory)
        patch.setattr("jaxlm.data.shards.IN_MEMORY_IF_SMALL", if_small)
        check_sharded_ids(sizes, data)


def check_sharded_ids(sizes, data):
    whole = np.arange(sum(sizes), dtype=np.uint16) * 7
    ids = ShardedIds(np.split(whole, np.cumsum(sizes)[:-1]))
    places = data.draw(st.lists(st.integers(-len(whole), len(whole) - 1), max_size=8))
    np.testing.assert_array_equal(ids[np.array(places, int)], whole[np.array(places, int)])
    first, end, step = (data.draw(st.integers(-12, 40)) for _ in range(3))
    cut = slice(first, end, step or None)
    np.testing.assert_array_equal(ids[cut], whole[cut])
    assert ids[-1] == whole[-1] and len(ids) == ids.size == len(whole)
    np.testing.assert_array_equal(np.asarray(ids, np.int64), whole)
    np.testing.assert_array_equal(ids == 7, whole == 7)
    with pytest.raises(IndexError):
        ids[len(whole)]


def unfinished(folder):
    """Make a prepared folder as a killed call leaves it: the list of shards is not written."""
    about = json.loads((folder / PREPARED).read_text())
    (folder / PREPARED).write_text(json.dumps(about | {"finished": False, "splits": {}}))


def test_a_text_of_the_same_size_that_changed_is_found(tmp_path):
    """The vocabulary is learnt from the first MiB; later text is compared with its shard."""
    lines = [f"line {number:06d} of the text\n" for number in range(60_000)]
    path = write(tmp_path, "text.txt", "".join(lines))
    texts = {"train": [path]}
    settings = {"tokens": "bytes", "fit_megabytes": 1}
    prepared(tmp_path / "out", texts, **settings)
    unfinished(tmp_path / "out")
    for place, message in ((10, "a training file has changed"), (59_000, r"text\.txt has changed")):
        path.write_text("".join([*lines[:place], lines[place].upper(), *lines[place + 1 :]]))
        with pytest.raises(UserError, match=f"{message} since .* was begun: remove the folder"):
            prepared(tmp_path / "out", texts, **settings)
    path.write_text("".join(lines))
    assert not any(prepared(tmp_path / "out", texts, **settings))


def test_a_damaged_shard_is_written_again(tmp_path):
    texts = {"train": [write(tmp_path, "text.txt")]}
    out = tmp_path / "out"
    prepared(out, texts, tokens="words")
    before = {path.name: path.read_bytes() for path in out.glob("train-*.u16")}
    unfinished(out)
    (out / "train-00000.u16").write_bytes(before["train-00000.u16"][:-2])
    (out / "train-00001.u16").unlink()
    (out / "train-00002.u16.json").write_text("[")
    flipped = bytearray(before["train-00003.u16"])
    flipped[0] ^= 1
    (out / "train-00003.u16").write_bytes(flipped)
    newly_written = prepared(out, texts, tokens="words")
    assert newly_written[:4] == [True] * 4 and not any(newly_written[4:])
    assert {path.name: path.read_bytes() for path in out.glob("train-*.u16")} == before


def test_a_call_killed_before_the_tokenizer_was_written_is_repeated(tmp_path):
    texts = {"train": [write(tmp_path, "text.txt")]}
    out = tmp_path / "out"
    prepared(out, texts, tokens="words")
    unfinished(out)
    (out / "tokenizer.json").unlink()
    prepared(out, texts, tokens="words")
    assert len(jaxlm.read_corpus(out).train)
    # A partial file alone is a call's that was killed earlier still.
    (tmp_path / "early").mkdir()
    (tmp_path / "early/prepared.json.partial").write_text("{")
    prepared(tmp_path / "early", texts, tokens="words")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"finished": true}',
        '{"finished": 1, "splits": []}',
        "[" * 99_999,
        '{"finished": false, "splits": {}, "settings": 3}',
        '{"finished": true, "splits": {}}',
    ],
)
def test_a_damaged_prepared_json_is_one_line(tmp_path, content):
    texts = {"train": [write(tmp_path, "text.txt", "a b\n")]}
    out = tmp_path / "out"
    out.mkdir()
    (out / PREPARED).write_text(content)
    for act in (lambda: read_prepared(out), lambda: prepared(out, texts, tokens="words")):
        with pytest.raises(
            UserError, match=r"is a damaged prepared text .*: remove the folder"
        ) as it:
            act()
        assert "\n" not in str(it.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"tokenizer": "words"}'])
def test_a_damaged_tokenizer_of_a_prepared_text_is_one_line(tmp_path, content):
    texts = {"train": [write(tmp_path, "text.txt", "a b\n")]}
    out = tmp_path / "out"
    prepared(out, texts, tokens="words")
    (out / "tokenizer.json").write_text(content)
    for act in (lambda: read_prepared(out), lambda: prepared(out, texts, tokens="words")):
        with pytest.raises(UserError, match="is a damaged prepared text"):
            act()


@pytest.mark.parametrize(
    "entry",
    [
        {"file": "../secret.u16"},
        {"file": "/etc/passwd"},
        {"file": "train-00000.u64"},
        {"file": "a/train-00000.u16"},
        {"file": 3},
        {"tokens": -1},
        {"tokens": True},
        {"text": {"bytes": "x", "characters": 1, "words": 1, "lines": 1}},
        {"text": {}},
        {"text": None},
    ],
)
def test_prepared_json_names_no_file_outside_its_folder(tmp_path, entry):
    out = tmp_path / "out"
    prepared(out, {"train": [write(tmp_path, "text.txt", "a b\n")]}, tokens="words")
    (tmp_path / "secret.u16").write_bytes((out / "train-00000.u16").read_bytes())
    about = json.loads((out / PREPARED).read_text())
    about["splits"]["train"][0] |= entry
    (out / PREPARED).write_text(json.dumps(about))
    with pytest.raises(UserError, match="is a damaged prepared text"):
        read_prepared(out)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    texts = {"train": [write(tmp_path, "text.txt")]}

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(preparing, "write_text", full)
        with pytest.raises(
            UserError, match=r"cannot write to .*out: No space left on device: free"
        ):
            prepared(tmp_path / "out", texts, tokens="words")
    tokenizer = claim_prepared_folder(tmp_path / "new", texts, PreparingConfig(tokens="words"))
    with monkeypatch.context() as patched:
        patched.setattr(preparing, "ProcessPoolExecutor", pool_that(OSError("10 of 20 written")))
        # An error without `strerror` says why too.
        with pytest.raises(UserError, match=r"cannot write to .*new: 10 of 20 written: free"):
            prepare(tmp_path / "new", texts, tokenizer, 1, lambda shard, new: None)


def test_a_killed_worker_is_one_line(tmp_path, monkeypatch):
    texts = {"train": [write(tmp_path, "text.txt")]}
    tokenizer = claim_prepared_folder(tmp_path / "out", texts, PreparingConfig(tokens="words"))
    with monkeypatch.context() as patched:
        patched.setattr(preparing, "ProcessPoolExecutor", pool_that(BrokenProcessPool("killed")))
        with pytest.raises(UserError, match=r"was killed, perhaps .*: repeat the command"):
            prepare(tmp_path / "out", texts, tokenizer, 1, lambda shard, new: None)
    assert all(prepared(tmp_path / "out", texts, tokens="words"))


def pool_that(error):
    """Return a ThreadPoolExecutor in the place of a pool of processes, whose jobs fail."""

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, context, initializer):
            super().__init__(workers)

        def submit(self, job, *args):
            def fail():
                raise error

            return super().submit(fail)

    return Pool
