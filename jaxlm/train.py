"""python -m jaxlm.train: train a model on a corpus, and keep it."""

import re
import signal
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxlm.commands import cli
from jaxlm.commands.settings import Config, CountedConfig, default_config, sections_of
from jaxlm.data.text import Text, read_corpus
from jaxlm.errors import UserError
from jaxlm.evaluation.generation import next_words
from jaxlm.models import MODELS, LanguageModel, NeuralModel, make_model
from jaxlm.parallel.mesh import make_mesh, parse_mesh
from jaxlm.parallel.multihost import ProcessConfig, is_first, join_processes
from jaxlm.runs.log import read_records, writing
from jaxlm.runs.plots import loss_curve
from jaxlm.runs.run import CONFIG, Run
from jaxlm.training.fit import fit, fit_many

Network = TypeVar("Network")
ABOUT = """Train a language model on a corpus, and keep it.

Examples:
  python -m jaxlm.train --model nplm
  python -m jaxlm.train --model ngram --order 3
  python -m jaxlm.train --model lstm --corpus ptb --epochs 5
  python -m jaxlm.train --model gru --corpus my.txt --tokens chars --dropout 0.2
  python -m jaxlm.train --model rnn --corpus ptb --seeds 3 --sweep lr=1e-3,2e-3
"""
PROG = "python -m jaxlm.train"


@dataclass(frozen=True)
class Choice:
    """What decides the defaults of everything else, so it is read first."""

    model: str | None = None
    """One of MODELS (none: the recipe's, or nplm)."""
    recipe: str | None = None
    """Start from the settings of a recipe, such as zaremba-small."""
    config: Path | None = None
    """Start from a JSON file of settings, such as another run's config.json."""
    corpus: str = "toy"


@dataclass(frozen=True)
class Flags:
    """The flags that are no settings of the run."""

    model: str | None = None
    """ngram, nplm, modern-nplm, rnn, gru, lstm, mingru, minlstm, mogrifier (none: the recipe's, or
    nplm); it decides which flags there are."""
    recipe: str | None = None
    """Start from a recipe's settings, such as lecture (the toy corpus's default), zaremba-small."""
    config: Path | None = None
    """Start from a JSON file of settings, such as another run's config.json."""
    out: Path | None = None
    """Folder of the run (none: a new one, runs/MODEL-CORPUS)."""
    seeds: int = 1
    """Train so many runs side by side, of this seed and the next, each in a folder in --out."""
    sweep: tuple[str, ...] = ()
    """Train a run for each value: lr=1e-3,2e-3 dropout=0.2,0.4 (also clip, weight_decay)."""
    resume: bool = False
    """Continue the run in --out (without --out: the newest of this model and corpus)."""


@dataclass(frozen=True)
class Command(ProcessConfig, Flags, Config[Network]):
    """The flags of a model trained by gradient."""

    mesh: str | None = None
    """Devices to train on, such as data=4,model=2: streams over `data`, the vocabulary over `model`
    (none: every device on data)."""


@dataclass(frozen=True)
class CountingCommand(Flags, CountedConfig[Network]):
    """The flags of a model trained by counting."""


COMMANDS: dict[str, Any] = {"gradient": Command, "counting": CountingCommand}


def main(argv: Sequence[str]) -> int:
    """Reads the flags, trains, and shows what came of it."""
    choice = cli.parse_known(Choice, [flag for flag in argv if flag not in ("-h", "--help")])
    name, defaults = default_config(choice.model, choice.recipe, choice.config, choice.corpus)
    entry = MODELS[name]
    kind = COMMANDS[entry.kind.trained_by]
    start = kind(**sections_of(defaults))
    command = cli.parse(kind[entry.config], argv, prog=PROG, about=ABOUT, default=start)
    if isinstance(command, Command):
        several = command.distributed or command.coordinator
        if several and (command.seeds != 1 or command.sweep):
            raise UserError(
                "--seeds and --sweep train side by side in one process: start one alone"
            )
        join_processes(command)
    console = Console(quiet=not is_first())
    text = read_corpus(command.text)
    for note in text.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    vocabulary = text.vocabulary
    model = make_model(name, command.network, len(vocabulary), vocabulary.start_id)
    elsewhere = command.training.checkpoint_folder if isinstance(command, Command) else None
    folder = run_folder(command.out, command.resume, name, command.text.corpus, elsewhere)
    # Before anything is shown: a setting that cannot be is refused here.
    summary = model.summary()
    devices = devices_of(command)
    show_corpus(console, text)
    console.print(summary)
    sections = sections_of(command)
    settings = {title: sections[title] for title in sections if title not in ("network", "text")}
    options = settings | {
        "folder": folder,
        "resume": command.resume,
        "config": {"command": ["python", "-m", "jaxlm.train", *argv]},
        "console": console,
    }
    if command.seeds != 1 or command.sweep:
        return train_many(command, model, text, options)
    run = fit(model, text, **options, **devices)
    if run.stopped_by:
        console.print(f"the same command with --resume --out {folder} continues it", soft_wrap=True)
        return 128 + signal.Signals(run.stopped_by)
    if is_first():
        show_result(console, run, text)
    return 0


def devices_of(command: Flags) -> dict[str, Any]:
    """What --mesh says, for `fit`. Raises UserError for a mesh that cannot be."""
    if not isinstance(command, Command) or command.mesh is None:
        return {}
    sizes = parse_mesh(command.mesh)
    make_mesh(sizes)
    return {"mesh": sizes}


def train_many(command: Flags, model: LanguageModel, text: Text, options: dict[str, Any]) -> int:
    """Trains the runs of --seeds and --sweep, and shows what came of them."""
    if not isinstance(model, NeuralModel):
        raise UserError("--seeds and --sweep are for models trained by gradient: a count is exact")
    if devices_of(command):
        raise UserError("--seeds and --sweep train side by side on one device: leave out --mesh")
    console, folder = options["console"], options["folder"]
    sweep = dict(map(parse_sweep, command.sweep))
    runs = fit_many(model, text, seeds=command.seeds, sweep=sweep, **options)
    if runs[0].stopped_by:
        console.print(f"the same command with --resume --out {folder} continues it", soft_wrap=True)
        return 128 + signal.Signals(runs[0].stopped_by)
    if text.valid is not None and len(text.valid):
        console.print(many_table(runs))
    console.print(f"saved in {folder}/*", soft_wrap=True, highlight=False)
    return 0


def parse_sweep(text: str) -> tuple[str, list[float]]:
    """A name and numbers, of a text like lr=1e-3,2e-3. Raises UserError."""
    name, _, values = text.partition("=")
    try:
        return name.strip().replace("-", "_"), [float(value) for value in values.split(",")]
    except ValueError:
        raise UserError(
            f"--sweep {text!r}: give a setting and its values, such as lr=1e-3,2e-3"
        ) from None


def many_table(runs: Sequence[Run]) -> Table:
    """The best validation perplexity of every setting: of each seed, their mean, and its standard
    deviation.
    """
    table = Table()
    for header in ("setting", "seeds", "valid perplexity", "mean", "standard deviation"):
        table.add_column(header)
    of_setting: dict[str, list[tuple[str, float]]] = {}
    for run in runs:
        assert run.folder is not None
        setting, _, seed = run.folder.name.rpartition("seed-")
        records = read_records(run.folder / "metrics.jsonl")
        best = min(record["ppl"] for record in records if record["split"] == "valid")
        of_setting.setdefault(setting.rstrip("-"), []).append((seed, best))
    for setting, found in of_setting.items():
        values = [value for _, value in found]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
        each = " ".join(f"{value:.2f}" for value in values)
        mean = f"{statistics.mean(values):.2f}"
        table.add_row(setting or "-", " ".join(seed for seed, _ in found), each, mean, spread)
    return table


def run_folder(
    out: Path | None, resume: bool, model: str, corpus: str, elsewhere: str | None = None
) -> Path:
    """Where the run goes: --out; or a new folder runs/MODEL-CORPUS; or with --resume the newest
    such folder. elsewhere: the folder of --checkpoint-folder, which may have what --out has lost.
    """
    if out is not None:
        if (
            resume
            and not elsewhere
            and not (out / CONFIG).exists()
            and not list(out.glob(f"*/{CONFIG}"))
        ):
            raise UserError(
                f"--resume: {out} holds no run to continue; leave --resume out to start one"
            )
        return out
    stem = f"{model}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(corpus).stem) or 'corpus'}"
    used = sorted(_numbered(stem))
    if resume:
        if not used:
            raise UserError(
                f"--resume: there is no run runs/{stem} to continue; leave it out to start one"
            )
        return used[-1][1]
    number = used[-1][0] + 1 if used else 1
    return Path("runs") / (stem if number == 1 else f"{stem}-{number}")


def _numbered(stem: str) -> Iterator[tuple[int, Path]]:
    for path in Path("runs").glob(f"{stem}*"):
        if match := re.fullmatch(rf"{re.escape(stem)}(?:-(\d+))?", path.name):
            yield int(match[1] or 1), path


def show_corpus(console: Console, text: Text) -> None:
    """The first lines, and how many tokens there are of what."""
    for line, _ in zip(text.train.source.lines(), range(3), strict=False):
        console.print(escape(line.strip()[:96]), highlight=False, soft_wrap=True)
    counts = ", ".join(f"{name} {len(split):,}" for name, split in text.splits.items())
    unit = {"words": "words", "chars": "characters"}.get(text.tokenizer.name, "tokens")
    console.print(
        f"corpus {text.name}: vocabulary of {len(text.vocabulary):,} {unit}; tokens: {counts}\n",
        highlight=False,
    )


def show_result(console: Console, run: Run, text: Text) -> None:
    """Answers on a small corpus, the curve, and where everything is."""
    if run.in_rows and len(text.train) < 100:
        table = Table(box=None, show_header=False)
        for row in text.train.rows():
            words = [text.vocabulary.tokens[index] for index in row]
            context, target = " ".join(words[:-1]), words[-1]
            ((guess, probability),) = next_words(run, context, 1)
            wrong = "" if guess == target else f"   (the corpus has {target})"
            table.add_row(f"{context} -> {guess}", f"{probability:.4f}{wrong}")
        console.print(table)
    assert run.folder is not None
    records = read_records(run.folder / "metrics.jsonl")
    if any(record["split"] == "train" for record in records):
        with writing(run.folder / "loss.png"):
            loss_curve(records, run.folder / "loss.png")
    console.print(f"saved in {run.folder}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(main)
