"""Samples at validations: when they are shown, how they look, and that training is the same."""

import io

import pytest
import tiny_runs
from rich.cells import cell_len
from rich.console import Console

import jaxlm
from jaxlm.errors import SettingError
from jaxlm.runs.log import SAMPLES, Log, read_records
from jaxlm.training.samples import WIDTH, Samples, shown

STREAMS = {"batch_size": 4, "bptt": 8, "steps": 12, "eval_every": 3, "log_every": 6}


@pytest.fixture(scope="module")
def characters(text_file):
    return jaxlm.read_corpus(str(text_file), tokens="chars")


def samples_of(console: Console) -> list[str]:
    return [line for line in console.file.getvalue().splitlines() if "  sample  " in line]


@pytest.mark.full
def test_samples_are_shown_at_validations_and_change_no_byte(characters, tmp_path):
    class Taker:
        def __init__(self):
            self.records, self.samples = [], []

        def __call__(self, record):
            self.records.append(record)

        def sample(self, step, text):
            self.samples.append((step, text))

    model, taker, console = tiny_runs.make(jaxlm.GRU, characters), Taker(), tiny_runs.quiet()
    folders = [tmp_path / name for name in ("without", "with")]
    without = tiny_runs.fit(model, characters, folders[0], sample_every=0, **STREAMS)
    for resume, steps in ((False, 6), (True, 12)):
        options = {**STREAMS, "steps": steps, "callbacks": [taker], "console": console}
        run = tiny_runs.fit(model, characters, folders[1], resume=resume, sample_every=2, **options)
    assert [step for step, _ in taker.samples] == [6, 12]
    assert all(record["split"] in ("train", "valid") for record in taker.records)
    assert samples_of(console) == [
        f"step {step:6d}  sample  {text}" for step, text in taker.samples
    ]
    tiny_runs.assert_same_run(*folders)
    assert run.step == without.step == 12, "the last validation is the best"
    assert taker.samples[-1][1] == shown(jaxlm.sample(run, length=60)[0])
    kept = read_records(folders[1] / SAMPLES)
    assert [(record["step"], record["text"]) for record in kept] == taker.samples
    assert not (folders[0] / SAMPLES).exists()


def test_a_resumed_log_has_no_samples_of_later_steps(tmp_path):
    log = Log(tmp_path, tiny_runs.quiet(), 9)
    for step in (3, 6, 9):
        log.sample(step, f"a text of step {step}")
    log.start_from(6)
    assert [record["step"] for record in read_records(tmp_path / SAMPLES)] == [3, 6]


def test_text_by_characters_has_samples_by_default(characters, text, tmp_path):
    for corpus, count in ((characters, 1), (text, 0)):
        console = tiny_runs.quiet()
        model = jaxlm.NGram(len(corpus.vocabulary), corpus.vocabulary.start_id, order=3)
        jaxlm.fit(model, corpus, console=console)
        assert len(samples_of(console)) == count
    console = tiny_runs.quiet()
    jaxlm.fit(model, text, console=console, sample_every=1)
    assert len(samples_of(console)) == 1


def test_samples_take_a_small_share_of_the_time(characters, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("jaxlm.training.samples.time.monotonic", lambda: now[0])

    def slow_sample(run, prompt, length):
        now[0] += 1
        return ["text"]

    monkeypatch.setattr("jaxlm.training.samples.sample", slow_sample)
    monkeypatch.setattr("jaxlm.training.samples.encode_context", lambda run, text: None)

    class Shown:
        is_shown = True
        sample = note = staticmethod(lambda *text: None)

    class Run:
        step = 1

    automatic, asked = Samples(None, characters, Shown), Samples(1, characters, Shown)
    for seconds, due in ((0, True), (0, True), (10, False), (39, False), (2, True)):
        now[0] += seconds
        for samples in (automatic, asked):
            number = int(now[0])  # Validations, which the seconds count here.
            assert samples.is_due(number) == (due or samples is asked)
        if due:
            automatic.show(Run(), number)
            assert not automatic.is_due(number), "the same validation has one sample"


@pytest.mark.full
def test_the_first_of_several_runs_shows_samples(text):
    console = tiny_runs.quiet()
    model = tiny_runs.make(jaxlm.NPLM, text, n_step=2)
    options = STREAMS | {"steps": 3}
    jaxlm.fit_many(model, text, seeds=2, sample_every=1, console=console, **options)
    (line,) = samples_of(console)
    assert line.startswith("run 0: step      3  sample  ")


@pytest.mark.full
def test_a_text_without_eos_has_samples_that_begin_as_the_text_does(tmp_path):
    for name, lines in (("train", "a b c\nb a c\n" * 9), ("valid", "a b c\n")):
        (tmp_path / f"{name}.txt").write_text(lines)
    corpus = jaxlm.read_corpus(str(tmp_path), eos=False)
    console = tiny_runs.quiet()
    model = tiny_runs.make(jaxlm.NPLM, corpus, n_step=2)
    options = {"batching": "rows", "batch_size": 3, "steps": 2}
    tiny_runs.fit(model, corpus, console=console, sample_every=1, **options)
    (line,) = samples_of(console)
    assert line.startswith("step      2  sample  a b ")


def test_a_sample_is_one_line_of_a_terminal():
    for text in ("我" * 100, "one\n\n\ntwo " * 40, "\x1b[31m\x00" * 40, "", "\n"):
        line = shown(text)
        assert cell_len(line) <= WIDTH and line.isprintable()
    assert shown("\nROMEO:\n\n  I  would\t\n") == "ROMEO: / I would"


def test_sample_every_is_checked(characters, text, tmp_path):
    model = tiny_runs.make(jaxlm.GRU, text)
    for value in (-1, 1.5, True):
        with pytest.raises(SettingError, match=r"`sample_every` .*must be an integer, 0 or more"):
            tiny_runs.fit(model, text, tmp_path / "run", sample_every=value)
    toy = jaxlm.read_corpus("toy", eos=False)
    rows = {"batching": "rows", "batch_size": 3, "steps": 2}
    with pytest.raises(SettingError, match="need a validation split"):
        tiny_runs.fit(tiny_runs.make(jaxlm.NPLM, toy, n_step=2), toy, sample_every=1, **rows)
    assert not (tmp_path / "run").exists()


def test_a_quiet_run_makes_no_samples(characters):
    assert not Samples(None, characters, jaxlm.runs.log.Log(None, Console(quiet=True), 1)).is_due(1)
    loud = Console(file=io.StringIO())
    assert Samples(None, characters, jaxlm.runs.log.Log(None, loud, 1)).is_due(1)
