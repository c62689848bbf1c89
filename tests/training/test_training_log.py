"""The log of a run on a terminal, in a pipe, and in the files of records."""

import io
import json
import math
import signal

import pytest
import tiny_runs
from rich.console import Console

import jaxlm
from jaxlm.runs.log import Log, keep_records_up_to, perplexity_of, read_records, shown_perplexity
from jaxlm.train import _FlagConsole


def shown(terminal: bool, **options) -> str:
    """Return the output of a log of three steps."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=60, **options)
    with Log(None, console, 3, False) as log:
        log.start_from(0)
        for step in (1, 2, 3):
            log.record(
                step, {"split": "train"}, f"step {step}  loss [/b] [red]1.5[/red] {'long ' * 20}"
            )
            log.advance(step, 7, 1.5)
        log.warn("not so good")
    return console.file.getvalue()


def test_without_a_terminal_the_log_prints_plain_lines():
    output = shown(terminal=False)
    assert "\x1b" not in output and "\r" not in output
    lines = output.splitlines()
    assert len(lines) == 4, "each record is a single line"
    assert lines[0].startswith("step 1  loss [/b] [red]1.5[/red] long")
    assert lines[3] == "warning: not so good"


def test_on_a_terminal_records_are_printed_above_the_live_line():
    output = shown(terminal=True)
    assert "\x1b[" in output
    for line in ("step 1  loss [/b] [red]1.5[/red] long", "warning: not so good", "step 3/3"):
        assert line in output
    assert output.index("step 1  loss") < output.index("step 2  loss")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_prints_its_records_on_a_terminal_and_in_a_pipe(terminal, text):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    model = tiny_runs.make(jaxlm.RNN, text)
    batching = jaxlm.BatchingConfig("streams", 6, 8)
    tiny_runs.fit(model, text, batching=batching, steps=12, log_every=4, console=console)
    output = console.file.getvalue()
    for step in (4, 8, 12):
        assert f"step {step:6d}  epoch" in output
    assert "valid loss" in output and "best" in output
    assert ("\x1b[" in output) == terminal


def test_the_live_line_is_removed_when_a_run_fails():
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(RuntimeError), Log(None, console, 3, False) as log:
        log.advance(1, 7, 1.5)
        raise RuntimeError
    console.file.truncate(0)
    with Log(None, console, 3, False) as log:
        log.note("a second log may be live on the same terminal")


def test_a_quiet_log_leaves_what_callbacks_print(capsys):
    # In a notebook and on a terminal a live bar would take it, and a quiet console would drop it.
    with Log(None, Console(quiet=True, force_terminal=True), 3, callbacks=[print]) as log:
        log.record(1, {"split": "train"}, "step 1")
    assert "'split': 'train'" in capsys.readouterr().out


def test_an_incomplete_last_record_is_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(1, 6)]
    path.write_text("".join(lines) + '{"step": 6, "lo')
    assert [record["step"] for record in read_records(path)] == [1, 2, 3, 4, 5]
    keep_records_up_to(path, 3)
    assert path.read_text() == "".join(lines[:3])
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert read_records(tmp_path / "none.jsonl") == []


def test_a_perplexity_that_overflows_is_infinite():
    assert perplexity_of(0) == 1
    assert perplexity_of(700) == perplexity_of(1e9) == float("inf")


def test_exploding_training_is_told_once(text):
    console = tiny_runs.quiet()
    model = tiny_runs.make(jaxlm.RNN, text)
    sizes = {"batch_size": 4, "bptt": 8, "steps": 12, "log_every": 3, "eval_every": 6}
    tiny_runs.fit(model, text, optimizer="sgd", lr=3000, console=console, **sizes)
    output = console.file.getvalue()
    assert output.count("warning: the training explodes (norm of the gradient ") == 1
    assert "try `clip` 1, or a lower `lr`" in output and "  gradient " in output
    assert f"worse than guessing (ppl {len(text.vocabulary)})" in output and "best" not in output
    assert max(len(line) for line in output.splitlines()) < 110


def test_training_that_goes_well_does_not_show_its_gradient(text):
    console = tiny_runs.quiet()
    model = tiny_runs.make(jaxlm.RNN, text)
    tiny_runs.fit(model, text, batch_size=4, bptt=8, steps=12, log_every=3, console=console)
    output = console.file.getvalue()
    assert "gradient" not in output and "best" in output


@pytest.mark.parametrize(
    ("perplexity", "text"),
    [(61.234, "61.23"), (1e6, "1000000.00"), (1.23e35, "1.2e+35"), (math.inf, "inf")],
)
def test_a_large_perplexity_is_short(perplexity, text):
    assert shown_perplexity(perplexity) == text
    assert shown_perplexity(perplexity, 12) == text.rjust(12)


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_says_what_is_saved(kept, text, tmp_path):
    def interrupt(record):
        if record["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    console, folder = tiny_runs.quiet(), tmp_path / "run" if kept else None
    model = tiny_runs.make(jaxlm.RNN, text)
    sizes = {"batch_size": 4, "bptt": 8, "steps": 10**6, "log_every": 3, "eval_every": 10**6}
    run = tiny_runs.fit(model, text, folder, console=console, callbacks=[interrupt], **sizes)
    assert run.stopped_by == signal.SIGINT
    saved = "saved" if kept else "nothing is saved, because there is no folder"
    last = console.file.getvalue().splitlines()[-1]
    assert last == f"stopped at step {run.step} of 1000000; {saved}"
    assert (tmp_path / f"run/checkpoints/last/{run.step}").is_dir() == kept


def test_a_sample_is_printed_as_the_model_wrote_it():
    written = "`lr` :fire: [red] `eos` False"
    out = io.StringIO()
    console = _FlagConsole(Console())
    console.file = out
    with Log(None, console, 3, False) as log:
        log.sample(1, written)
        log.note("give `lr` :fire: [red]")
    assert written in out.getvalue() and "give --lr :fire: [red]" in out.getvalue()
