"""python -m jaxlm.train: train a model on a corpus, and keep the run."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import contextlib
import json
import math
import os
import re
import signal
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.commands.process import keep_freed_memory
from jaxlm.commands.settings import (
    OWN_TEXT,
    SMALL_TEXT,
    SMALL_TOKENS,
    config_of,
    default_config,
    network_class,
    own_text_config,
    own_text_note,
    read_config_file,
    resumed_config,
    small_text_config,
)
from jaxlm.commands.with_ngram import check_can_mix, count_and_mix, note_on_ngram
from jaxlm.data.batching import BatchingConfig
from jaxlm.data.corpora import corpus_name
from jaxlm.data.text import Text, TextConfig, read_corpus
from jaxlm.data.tokenizers import quoted
from jaxlm.errors import SettingError, UserError, in_any_case, reason
from jaxlm.inspection import write_report
from jaxlm.models import MODELS, LanguageModel, NeuralModel, make_model
from jaxlm.models.ngram import NGram
from jaxlm.models.sizing import WIDTHS, parameter_count, sized
from jaxlm.ngrams.config import CountingConfig
from jaxlm.ops.machine import bfloat16_note
from jaxlm.parallel.mesh import make_mesh, parse_mesh
from jaxlm.parallel.multihost import (
    ProcessConfig,
    allgather_ints,
    is_first,
    join_processes,
    run_on_first,
)
from jaxlm.recipes import RECIPES, recipe_settings
from jaxlm.runs.folder import (
    CONFIG,
    REPORT,
    files_of_run,
    holds_run,
    lost_config,
    read_description,
    read_sections,
)
from jaxlm.runs.log import METRICS, read_records, shown_perplexity
from jaxlm.runs.remote_checkpoints import checkpoints_of, fetch_description, holds_any_run
from jaxlm.runs.remote_checkpoints import holds_run as holds_run_remotely
from jaxlm.runs.run import Run, check_registered, load
from jaxlm.training.config import RunConfig, TrainingConfig, check_length
from jaxlm.training.counting import check_counting
from jaxlm.training.fine_tuning import adapt_model
from jaxlm.training.fit import fit, fit_many
from jaxlm.training.optimizers import OptimizerConfig

Network = TypeVar("Network")
ABOUT = """Train a language model on a corpus, and keep it.

Examples:
  python -m jaxlm.train --model nplm
  python -m jaxlm.train --model ngram --order 3
  python -m jaxlm.train --model lstm --corpus ptb --epochs 5
  python -m jaxlm.train --model gru --corpus my.txt --tokens chars --dropout 0.2
  python -m jaxlm.train --model rnn --corpus ptb --seeds 3 --sweep lr=1e-3,2e-3
  python -m jaxlm.train --from runs/lstm-ptb --corpus my.txt --lr 1e-4
"""
PROG = "python -m jaxlm.train"
FIRST = {
    "run": ("model", "recipe", "from_run", "out", "resume", "seeds", "with_ngram", "report"),
    "text": ("corpus", "tokens"),
    "network": (
        "order",
        "smoothing",
        "n_step",
        "embedding_size",
        "hidden_size",
        "num_layers",
        "dropout",
        "tied",
    ),
    "training": (
        "epochs",
        "steps",
        "max_minutes",
        "batch_size",
        "bptt",
        "optimizer",
        "lr",
        "clip",
        "seed",
        "sample_every",
    ),
}
"""The settings that --help shows, in boxes; --help-all shows all. Settings that only a model of the
user's own has are shown too."""
MODEL_HELP = (
    f"{', '.join(MODELS)} (none: the recipe's, or nplm). The model decides which flags there are."
)

NO_PLOT = (
    f"is gone: every run ends with {REPORT}, which has the learning curve. For a picture: "
    f"python -m jaxlm.show RUN --figure curve --out curve.png"
)


@dataclass(frozen=True)
class Choice:
    """The flags that decide the defaults of all other flags; they are read first."""

    model: str | None = None
    """A name in MODELS (none: the recipe's model, or nplm)."""
    recipe: str | None = None
    """Start from the settings of a recipe, such as zaremba-small."""
    config: Path | None = None
    """Start from a JSON file of settings, such as the config.json of another run."""
    from_run: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start from a trained run."""
    plugin: Path | None = None
    """A Python file with models or cells of your own."""
    corpus: str = "toy"
    """The corpus."""
    epochs: float | None = None
    """Passes over the training text; they replace the steps of a recipe or a file."""
    steps: int | None = None
    """Train steps."""
    max_minutes: float | None = None
    """Stop within this wall-clock time."""


@dataclass(frozen=True)
class Flags:
    """The flags that are not settings of the run."""

    model: Annotated[str | None, tyro.conf.arg(help=MODEL_HELP)] = None
    recipe: str | None = None
    """Start from a recipe's settings, such as zaremba-small (none: the corpus's own, or none)."""
    config: Path | None = None
    """Start from a JSON file of settings, such as the config.json of another run."""
    from_run: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Fine-tune: start from the parameters of a trained run, whose model is then the default."""
    vocabulary: str = "extend"
    """A file with the vocabulary, one word a line, as --vocabulary-file. With --from: extend the
    run's vocabulary with the new text's tokens, or keep it."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    out: Path | None = None
    """Folder of the run (none: a new folder, runs/MODEL-CORPUS)."""
    seeds: int = 1
    """Train this many runs in parallel, with this seed and the next ones, each in a folder of its
    own in --out."""
    sweep: tuple[str, ...] = ()
    """Train a run for each value: lr=1e-3,2e-3 dropout=0.2,0.4 (also clip, weight_decay)."""
    resume: bool = False
    """Continue the run in --out (without --out: the newest run of this model and corpus)."""
    sample_every: int | None = None
    """Validations between two samples of the model's text, 0 for none (none: with characters, at
    each validation, if it takes at most 2% of the time)."""
    params: str | None = None
    """Choose the widths of the model for this number of parameters, such as 3M (none: its settings
    decide). Widths that you give keep their value."""
    report: bool = True
    """Write report.html at the end: a page with the learning curve, samples, the layers, and how
    the model reads a first text."""


@dataclass(frozen=True, kw_only=True)
class Command(ProcessConfig, Flags, Generic[Network]):
    """The flags of a model trained by gradient."""

    network: Network
    """Settings of the model."""
    text: TextConfig = field(default_factory=TextConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    with_ngram: bool = False
    """Also count an n-gram of the text into OUT-ngram, and show what a mixture of the two reaches
    on the validation split."""
    mesh: str | None = None
    """Devices to train on, such as data=4,model=2: streams over `data`, the vocabulary over `model`
    (none: the devices that divide the batch, on data)."""


@dataclass(frozen=True, kw_only=True)
class CountingCommand(Flags, Generic[Network]):
    """The flags of a model trained by counting."""

    network: Network
    """Settings of the model."""
    text: TextConfig = field(default_factory=TextConfig)
    counting: CountingConfig = field(default_factory=CountingConfig)


COMMANDS: dict[str, Any] = {"gradient": Command, "counting": CountingCommand}


def main(argv: Sequence[str]) -> int:
    """Read the flags, train, and show the result."""
    with contextlib.ExitStack() as spare:
        return _train(argv, spare)


def _train(argv: Sequence[str], spare: contextlib.ExitStack) -> int:
    """Do `main`; `spare` removes the copy of the description of a run whose folder was lost."""
    choice = _read_choice(argv)
    start = _start_config(choice)
    command = _parse(start, argv)
    _check_effects(command)
    if isinstance(command, Command):
        keep_freed_memory()
    many = command.seeds != 1 or command.sweep
    if many and command.from_run:
        raise UserError("`seeds` and `sweep` start from random parameters: leave out `from`")
    if isinstance(command, Command):
        if many and (command.distributed or command.coordinator):
            raise UserError(
                "`seeds` and `sweep` train in parallel in one process: start one process alone"
            )
        join_processes(command)
    # Loading uses JAX's devices, and so comes after join_processes.
    start_run = _start_run(choice.from_run, command)
    console = Console(quiet=not is_first())
    config = config_of(start.model, command, {"command": ["python", "-m", "jaxlm.train", *argv]})
    # Before a large text is read.
    config.check_ranges()
    text = _read_text(command, config, start_run)
    if "no_eos" in cli.given_flags(TextConfig, argv) and text.vocabulary.start_id is not None:
        why = f"has no effect with `tokens` {text.tokenizer.name}: leave it out"
        raise SettingError("eos", False, why)
    given = cli.given_flags(network_class(start.model), argv)
    for name in ("hidden_size", "num_layers"):
        if name in given and config.network.get("layer_sizes"):
            why = "has no effect with `layer_sizes`: leave one of them out"
            raise SettingError(name, config.network[name], why)
    sizes = _given_sizes(command, argv, given)
    held = _held_run(start.model, command, text, spare)
    # This text decides which settings suit it. The settings may read the text anew.
    first_text = text
    adapted, note = _config_of_text(choice, command, first_text, held, sizes)
    if adapted is not None:
        command = _parse(adapted, argv)
        config = replace(config_of(adapted.model, command, {}), about=config.about)
        if adapted.text != start.text:
            text = _read_text(command, config, start_run)
    if command.params is not None:
        widths = _widths_of(config, text, command, given, held)
        if adapted is not None:
            # The rate of a text of one's own follows from the width.
            adapted, note = _config_of_text(choice, command, first_text, held, sizes | widths)
            assert adapted is not None
            command = _parse(adapted, argv)
            config = replace(config_of(adapted.model, command, {}), about=config.about)
        config = replace(config, network={**config.network, **widths})
        config = config.with_about(params=command.params)
    elif held is not None and (params := read_description(held)[0].get("params")):
        # config.json is written anew.
        config = config.with_about(params=params)
    flags: set[str] = set()
    if not command.resume and config.optimizer is not None:
        flags = cli.given_flags(OptimizerConfig, argv) | cli.given_flags(BatchingConfig, argv)
        config.check_used(flags)
    if adapted is not None:
        console.print(f"note: {note or own_text_note(config)}", soft_wrap=True, highlight=False)
    with_ngram = isinstance(command, Command) and command.with_ngram
    notes = [*text.notes]
    if "dtype" in config.network:
        notes.append(bfloat16_note(config.network["dtype"]))
    if adapted is not None and not with_ngram and len(text.train) >= SMALL_TOKENS:
        protocol = config.protocol(text.vocabulary.start_id)
        notes.append(note_on_ngram(text, protocol, config.model))
    for note in filter(None, notes):
        console.print(f"note: {escape(cli.with_flags(note))}", soft_wrap=True)
    model = _make_model(config, text, start_run)
    config.check_window(flags, model.context_size)
    if command.params is not None:
        note = _widths_note(command.params, config, model)
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    # Settings that cannot work are refused before anything is shown.
    if isinstance(model, NGram) and config.counting is not None:
        check_counting(model, text, config.counting)
    summary = model.summary()
    devices = devices_of(command)
    folder = run_folder(command.out, command.resume, start.model, text.name, *_place(command))
    show_corpus(console, text)
    if start_run is not None:
        console.print(_vocabulary_note(start_run, text), soft_wrap=True, highlight=False)
    console.print(summary)
    options: dict[str, Any] = {
        "folder": folder,
        "resume": command.resume,
        "config": config,
        "console": _FlagConsole(console),
        "sample_every": command.sample_every,
    }
    if start_run is not None:
        options["from_run"] = start_run
    protocol = config.protocol(model.start_id)
    with _removed_if_empty(folder if command.out is None else None):
        if with_ngram and many:
            raise UserError("`with_ngram` mixes one run: leave out `seeds` and `sweep`")
        if with_ngram:
            check_can_mix(text, protocol, folder, command.resume)
        if many:
            return train_many(command, model, text, options)
        run = fit(model, text, **options, **devices)
    if run.stopped_by:
        console.print(f"the same command with --resume --out {folder} continues it", soft_wrap=True)
        return 128 + signal.Signals(run.stopped_by)
    if is_first():
        show_result(console, run, text, command.report)
        if with_ngram:
            count_and_mix(run, text, console, command.resume)
    return 0


def _read_choice(argv: Sequence[str]) -> Choice:
    """Return the flags that decide the defaults of all other flags."""
    choice = cli.parse_known(Choice, argv, prog=PROG)
    # The models of the plugin come into MODELS.
    load_plugin(choice.plugin)
    return replace(
        choice,
        model=choice.model and in_any_case(choice.model, MODELS),
        recipe=choice.recipe and in_any_case(choice.recipe, RECIPES),
        corpus=corpus_name(choice.corpus),
    )


class _FlagConsole(Console):
    """A console that shows the library's `settings` as flags."""

    def __init__(self, console: Console) -> None:
        super().__init__(quiet=console.quiet)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print the objects, with settings in texts spelled as flags."""
        shown = [cli.with_flags(item) if isinstance(item, str) else item for item in objects]
        super().print(*shown, **options)


def _start_config(choice: Choice) -> RunConfig:
    """Return the settings before any flag.

    With --from, the defaults of the model, the batches and the tokenizer are the run's. With
    --epochs, `steps` is None.
    """
    return _with_length(_config_before_flags(choice), choice)


def _given_sizes(command: Any, argv: Sequence[str], given: set[str]) -> dict[str, int]:
    """Return `hidden_size`, `batch_size` and `bptt`, where the command gives them.

    Args:
      command: the flags.
      argv: the arguments of the command.
      given: the settings of the model that the command gives.
    """
    sizes = {}
    if "hidden_size" in given:
        sizes["hidden_size"] = command.network.hidden_size
    for name in {"batch_size", "bptt"} & cli.given_flags(BatchingConfig, argv):
        sizes[name] = getattr(command.batching, name)
    return sizes


def _held_run(model: str, command: Flags, text: Text, spare: contextlib.ExitStack) -> Path | None:
    """Return the folder of the run that --resume continues; None without --resume or a run.

    Of the runs of --seeds or --sweep, it is the first. If the folder was lost, the description that
    is kept beside the checkpoints is copied to a temporary folder, which `spare` removes. The
    folder of the run stays as it is, because the command may still be refused.
    """
    if not command.resume:
        return None
    remote, many = _place(command)
    folder = run_folder(command.out, True, model, text.name, remote, many)
    held = [folder, *(path.parent for path in sorted(folder.glob(f"*/{CONFIG}")))]
    found = next(filter(holds_run, held), None)
    if found is None and remote is not None and not many:
        place = checkpoints_of(folder, remote)
        if holds_run_remotely(place):
            found = Path(spare.enter_context(tempfile.TemporaryDirectory(prefix="jaxlm-")))
            fetch_description(place, found)
    return found


def _config_of_text(
    choice: Choice, command: Any, text: Text, held: Path | None, sizes: dict[str, int]
) -> tuple[RunConfig | None, str]:
    """Return the settings before any flag that suit the text, and the note on a small text.

    The settings are None where other settings decide: of a corpus with a name, of a recipe, of a
    file of settings, and of a run to start from. A run that is resumed (`held`) keeps its own
    settings, so that they do not depend on the machine. `sizes` has `hidden_size`, `batch_size` and
    `bptt`, where the command gives them.
    """
    others = choice.recipe not in (None, OWN_TEXT), choice.config, choice.from_run
    if any(others):
        return None, ""
    config = _config_before_flags(choice)
    if choice.recipe is None:
        small = small_text_config(config, text, command.text.fractions is not None)
        if small is not None:
            tokens = f"{len(text.train):,} {text.tokenizer.unit}"
            note = (
                f"the text is small ({tokens}), so training starts from the recipe {SMALL_TEXT}, "
                f"which learns it by heart as the lecture does; flags, --recipe and --config "
                f"change it"
            )
            if held is not None:
                small = resumed_config(small, held)
            return _with_length(small, choice), note
    own = own_text_config(
        config,
        text,
        # The runs of --seeds and --sweep share the time.
        minutes=choice.max_minutes and choice.max_minutes / count_runs(command),
        epochs=choice.epochs,
        steps=choice.steps,
        dtype=getattr(getattr(command, "network", None), "dtype", None),
        width=sizes.get("hidden_size"),
        batch={name: sizes[name] for name in ("batch_size", "bptt") if name in sizes},
        always=choice.recipe is not None,
    )
    if own is None:
        return None, ""
    if held is not None:
        own = resumed_config(own, held)
    return _with_length(own, choice), ""


def _place(command: Flags) -> tuple[str | None, bool]:
    """Return --checkpoint-folder, and whether the command has --seeds or --sweep."""
    training = getattr(command, "training", None)
    remote = training.checkpoint_folder if training else None
    return remote, command.seeds != 1 or bool(command.sweep)


def _with_length(config: RunConfig, choice: Choice) -> RunConfig:
    """Return the settings, whose `steps` are None if the command gives another length.

    The other length is --epochs, or --max-minutes if a file of settings has `max_minutes`: its
    `steps` are those that fitted into its own minutes.

    Raises:
      SettingError: for --steps and --epochs together.
    """
    if config.training is None:
        return config
    if choice.epochs is None:
        fitted = choice.config is not None and config.training.max_minutes is not None
        return config.with_steps(None) if fitted and choice.max_minutes else config
    minutes = choice.max_minutes or config.training.max_minutes
    check_length({"epochs": choice.epochs, "steps": choice.steps, "max_minutes": minutes})
    return config.with_steps(None)


def _config_before_flags(choice: Choice) -> RunConfig:
    """Return the settings of the recipe, the file and the run that training starts from."""
    if choice.from_run is None:
        return default_config(choice.model, choice.recipe, choice.config, choice.corpus)
    settings, tokenizer = read_description(choice.from_run)
    check_registered(choice.from_run, settings["model"])
    text = {name: value for name, value in settings.get("text", {}).items() if name == "eos"}
    of_run = {**settings["network"], **settings.get("batching", {}), **text}
    config = RunConfig.default(choice.model or settings["model"])
    config = config.with_options(of_run | {"tokens": tokenizer.name}, str(choice.from_run))
    if choice.recipe is not None:
        recipe = recipe_settings(choice.recipe, config.model)
        config = config.with_options(recipe, f"recipe {choice.recipe}")
    if choice.config is not None:
        config = config.with_options(read_config_file(choice.config), str(choice.config))
    return config


def _parse(start: RunConfig, argv: Sequence[str]) -> Any:
    """Return the flags of the command for the model of `start`, whose settings are the defaults."""
    kind = COMMANDS[MODELS[start.model].kind.trained_by]
    network = network_class(start.model)
    defaults = kind(network=network(**start.network), **start.sections)
    command = cli.parse(
        kind[network],
        argv,
        prog=PROG,
        about=ABOUT,
        default=defaults,
        first=FIRST | {"network": (*FIRST["network"], *_own_settings(start.model))},
        elsewhere=_elsewhere(start.model),
    )
    text = replace(command.text, corpus=corpus_name(command.text.corpus))
    return _with_vocabulary_file(replace(command, text=text))


def _own_settings(model: str) -> list[str]:
    """Return the settings that only a model of the user's own has."""
    builtin = {
        name
        for entry in MODELS.values()
        if entry.kind.__module__.startswith("jaxlm.")
        for name in entry.defaults
    }
    return [name for name in MODELS[model].defaults if name not in builtin]


def _elsewhere(model: str) -> dict[str, str]:
    """Return what to say of the settings that other models have and this model has not."""
    models: dict[str, list[str]] = {}
    for name, entry in MODELS.items():
        config = RunConfig.default(name)
        sections = [item.name for section in config.sections.values() for item in fields(section)]
        for setting in [*entry.defaults, *sections]:
            models.setdefault(setting, []).append(name)
    found = {setting: names for setting, names in models.items() if model not in names}
    by_counting = MODELS[model].kind.trained_by == "counting"
    own = {"with_ngram": f"adds an n-gram to another model, not to {model}"} if by_counting else {}
    return (
        {"plot": NO_PLOT}
        | own
        | {
            setting: f"is a flag of {', '.join(names)}, not of {model}"
            for setting, names in found.items()
        }
    )


def _with_vocabulary_file(command: Any) -> Any:
    """Return the flags with a file that --vocabulary names as the text's `vocabulary_file`.

    Raises:
      UserError: if there is no such file, and for two files.
    """
    name = command.vocabulary
    if name in ("extend", "keep"):
        return command
    if not os.path.isfile(os.path.expanduser(name)):
        raise UserError(f"`vocabulary` {name} is neither a file of words, nor extend or keep")
    if command.text.vocabulary_file is not None:
        raise UserError("`vocabulary` and `vocabulary_file` name two files: give one of the two")
    text = replace(command.text, vocabulary_file=name)
    return replace(command, text=text, vocabulary="extend")


def _check_effects(command: Flags) -> None:
    """Raise UserError for a flag that would have no effect."""
    if command.vocabulary != "extend" and command.from_run is None:
        raise UserError(
            "`vocabulary` keep has no effect without `from`: a new run makes its own vocabulary"
        )


def _read_text(command: Any, config: RunConfig, start_run: Run | None) -> Text:
    """Return the text; with --from it is cut by the run's tokenizer."""
    if start_run is None:
        return read_corpus(config.text)
    extend = command.vocabulary == "extend"
    return read_corpus(config.text, tokenizer=start_run.tokenizer, extend=extend)


def _make_model(config: RunConfig, text: Text, start_run: Run | None) -> LanguageModel:
    """Return the model of the settings, with the vocabulary of the text."""
    if start_run is not None:
        # Refuses a run that cannot be fine-tuned on this text.
        adapt_model(start_run, text)
    vocabulary = text.vocabulary
    return make_model(config.model, config.network, len(vocabulary), vocabulary.start_id)


def _widths_of(
    config: RunConfig, text: Text, command: Flags, given: set[str], held: Path | None
) -> dict[str, int]:
    """Return the widths of the model for --params, by the name of the setting.

    A run that is resumed keeps its widths.

    Args:
      config: the settings; their widths give the proportions.
      text: the text.
      command: the flags.
      given: the settings that the command gives; a width among them keeps its value.
      held: the folder of the run that is resumed, or None.
    """
    assert command.params is not None
    if command.from_run is not None:
        why = "a run that training starts from has its own widths; leave the flag out"
        raise SettingError("params", command.params, why)
    if held is not None:
        saved, _ = read_description(held)
        if saved.get("params") != command.params:
            was = f"has `params` {saved['params']}" if "params" in saved else "was not sized by it"
            why = f"the run in {held} {was}; resume it as it was trained, or choose another `out`"
            raise SettingError("params", command.params, why)
        kept = {name: saved["network"][name] for name in WIDTHS if name in saved["network"]}
        for name in given & kept.keys():
            if config.network[name] != kept[name]:
                why = f"the run in {held} has {kept[name]}; leave the flag out"
                raise SettingError(name, config.network[name], why)
        return kept
    model = _make_model(config, text, None)
    if not isinstance(model, NeuralModel):
        why = f"a model that is counted has no widths ({config.model}); leave the flag out"
        raise SettingError("params", command.params, why)
    chosen = sized(model, command.params, [name for name in WIDTHS if name in given])
    return {name: getattr(chosen, name) for name in WIDTHS if name in config.network}


def _widths_note(params: str, config: RunConfig, model: LanguageModel) -> str:
    """Return the note that says which widths --params has chosen."""
    assert isinstance(model, NeuralModel)
    widths = [f"`{name}` {config.network[name]}" for name in WIDTHS if name in config.network]
    count = parameter_count(model)
    return cli.with_flags(f"`params` {params}: {', '.join(widths)} have {count:,} parameters")


def _start_run(folder: Path | None, command: Any) -> Run | None:
    """Return the run of --from, or None. Its checkpoints may be in --checkpoint-folder."""
    if folder is None:
        return None
    kept_elsewhere = read_sections(folder, "training").get("checkpoint_folder") is not None
    training = getattr(command, "training", None)
    asked = training.checkpoint_folder if training and kept_elsewhere else None
    return load(folder, checkpoint_folder=asked)


def _vocabulary_note(start_run: Run, text: Text) -> str:
    """Return the line that says whether the run's vocabulary was extended."""
    known, size = len(start_run.vocabulary), len(text.vocabulary)
    how = "kept" if size == known else f"extended by {size - known:,} tokens"
    return f"started from {start_run.name}: its vocabulary of {known:,} tokens is {how}\n"


def devices_of(command: Flags) -> dict[str, Any]:
    """Return {"mesh": sizes} for --mesh, or {} without it: arguments of `fit`.

    Raises:
      UserError: for a mesh that this machine does not have.
    """
    if not isinstance(command, Command) or command.mesh is None:
        return {}
    sizes = parse_mesh(command.mesh)
    make_mesh(sizes)
    return {"mesh": sizes}


def train_many(command: Flags, model: LanguageModel, text: Text, options: dict[str, Any]) -> int:
    """Train the runs of --seeds and --sweep, and show the results.

    Args:
      command: the parsed flags.
      model: the model that all runs share.
      text: the corpus.
      options: arguments of `fit_many`.
    """
    if not isinstance(model, NeuralModel):
        raise UserError("`seeds` and `sweep` are for models trained by gradient: a count is exact")
    if devices_of(command):
        raise UserError("`seeds` and `sweep` train in parallel on one device: leave out `mesh`")
    console, folder = Console(quiet=not is_first()), options["folder"]
    sweep = swept_values(command.sweep)
    runs = fit_many(model, text, seeds=command.seeds, sweep=sweep, **options)
    if runs[0].stopped_by:
        console.print(f"the same command with --resume --out {folder} continues it", soft_wrap=True)
        return 128 + signal.Signals(runs[0].stopped_by)
    if text.valid is not None and len(text.valid):
        console.print(many_table(runs))
    console.print(f"saved in {folder}/*/", soft_wrap=True, highlight=False)
    if command.report and is_first():
        report(console, runs, folder / REPORT)
    return 0


def swept_values(sweep: Sequence[str]) -> dict[str, list[float]]:
    """Return the values of each setting of --sweep, by the name of the setting.

    Raises:
      UserError: for a text that is no setting with values, and a setting that is named twice.
    """
    values: dict[str, list[float]] = {}
    for name, numbers in map(parse_sweep, sweep):
        if name in values:
            raise UserError(f"`sweep` gives {name} twice: give all its values in one list")
        values[name] = numbers
    return values


def count_runs(command: Flags) -> int:
    """Return how many runs --seeds and --sweep train: each seed with each combination of values."""
    return max(1, command.seeds) * math.prod(map(len, swept_values(command.sweep).values()))


def parse_sweep(text: str) -> tuple[str, list[float]]:
    """Return the name and the numbers of a text such as lr=1e-3,2e-3.

    Raises:
      UserError: for another text.
    """
    name, _, values = text.partition("=")
    try:
        return name.strip().replace("-", "_"), [float(value) for value in values.split(",")]
    except ValueError:
        raise UserError(
            f"`sweep` {text!r}: give a setting and its values, such as lr=1e-3,2e-3"
        ) from None


def many_table(runs: Sequence[Run]) -> Table:
    """Return a table of the best validation perplexity of each run.

    There is a row for each combination of the swept values, with mean and standard deviation over
    the seeds.
    """
    table = Table()
    for header in ("setting", "seeds", "valid perplexity", "mean", "standard deviation"):
        table.add_column(header)
    by_setting: dict[str, list[tuple[str, float]]] = {}
    for run in runs:
        assert run.folder is not None
        setting, _, seed = run.folder.name.rpartition("seed-")
        records = read_records(run.folder / METRICS)
        # The log leaves out a perplexity of infinity.
        valid = [record for record in records if record.get("split") == "valid"]
        best = min((_perplexity_in(record) for record in valid), default=math.inf)
        by_setting.setdefault(setting.rstrip("-"), []).append((seed, best))
    for setting, results in by_setting.items():
        values = [value for _, value in results]
        finite = len(values) > 1 and math.isfinite(sum(values))
        spread = shown_perplexity(statistics.stdev(values)) if finite else "-"
        each = " ".join(map(shown_perplexity, values))
        mean = shown_perplexity(statistics.mean(values))
        table.add_row(setting or "-", " ".join(seed for seed, _ in results), each, mean, spread)
    return table


def _perplexity_in(record: dict[str, Any]) -> float:
    """Return the perplexity in a record of a log, infinity if it has none."""
    ppl = record.get("ppl")
    return float(ppl) if isinstance(ppl, int | float) else math.inf


def run_folder(
    out: Path | None,
    resume: bool,
    model: str,
    corpus: str,
    remote: str | None = None,
    many: bool = False,
) -> Path:
    """Return the folder of the run.

    Args:
      out: --out, or None for runs/MODEL-CORPUS: a new folder, which is made now so that no other
        command takes it, or with `resume` the newest one.
      resume: whether the run continues.
      model: the name of the model.
      corpus: the name of the corpus.
      remote: --checkpoint-folder, which may have the run that `out` has lost.
      many: whether the command has --seeds or --sweep, so that the folder holds several runs.
    Raises:
      UserError: if there is no run to resume.
    """
    if out is not None:
        here = _holds_run(out, many)
        if resume and not here and _holds_run(out, not many):
            raise UserError(f"`resume`: {_other_kind(out, many)}")
        if resume and not here and not _remote_holds_run(out, remote):
            # For a name that is too long, `glob` raises OSError.
            inside = sorted(out.glob("*/checkpoints")) if os.path.isdir(out) else []
            for folder in (out, *(path.parent for path in inside)):
                if found := files_of_run(folder):
                    raise lost_config(folder, found)
            raise UserError(
                f"`resume`: {out} holds no run to continue; leave `resume` out to start a run"
            )
        return out
    stem = _stem(model, corpus)
    numbers: list[int] = []
    # The first process decides: the others may look when it has made the folder already.
    run_on_first(lambda: numbers.append(_run_number(stem, resume, many)))
    number = int(allgather_ints(numbers or [0])[0, 0])
    return _run_path(stem, number)


def _holds_run(folder: Path, many: bool) -> bool:
    """Return whether a folder holds a run, or with `many` the runs of --seeds and --sweep."""
    if many:
        return os.path.isdir(folder) and any(folder.glob(f"*/{CONFIG}"))
    return os.path.exists(folder / CONFIG)


def _other_kind(folder: Path, many: bool) -> str:
    """Return a message: the folder has a single run for --seeds and --sweep, or the reverse."""
    if many:
        return f"{folder} holds a single run: leave out `seeds` and `sweep`"
    one = next(folder.glob(f"*/{CONFIG}")).parent
    return (
        f"{folder} holds runs in folders of their own, such as {one}: to continue the runs of "
        f"`seeds` or `sweep`, give the same flags"
    )


def _remote_holds_run(folder: Path, remote: str | None) -> bool:
    """Return whether the checkpoints of the run in `folder`, or of its runs, are in `remote`."""
    if remote is None:
        return False
    # Version 0.1.0 kept the runs of a sweep in `remote` itself.
    return holds_any_run(checkpoints_of(folder.resolve(), remote)) or holds_any_run(remote)


def _run_path(stem: str, number: int) -> Path:
    return Path("runs") / (stem if number == 1 else f"{stem}-{number}")


def _run_number(stem: str, resume: bool, many: bool) -> int:
    """Make a new folder runs/STEM-NUMBER and return its number, or that of the run to resume.

    Of two commands that start at the same time, each makes a folder of its own.

    Raises:
      UserError: if there is no run to resume.
    """
    names = [path.name for path in Path("runs").glob(f"{stem}*") if not _has_other_stem(path, stem)]
    matches = [re.fullmatch(rf"{re.escape(stem)}(?:-(\d+))?", name) for name in names]
    used = [int(match[1] or 1) for match in matches if match]
    if not resume:
        number = max(used, default=0) + 1
        while not _made(_run_path(stem, number)):
            number += 1
        return number
    kept = [number for number in used if _holds_run(_run_path(stem, number), many)]
    other = [number for number in used if _holds_run(_run_path(stem, number), not many)]
    if not kept and other:
        raise UserError(f"`resume`: {_other_kind(_run_path(stem, max(other)), many)}")
    if not kept:
        raise UserError(
            f"`resume`: there is no run runs/{stem} to continue; leave it out to start a run"
        )
    return max(kept)


def _has_other_stem(folder: Path, stem: str) -> bool:
    """Return whether the run in a folder is of another corpus, such as wiki-2023 for wiki."""
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return bool(_stem(settings["model"], settings["text"]["corpus"]) != stem)
    except (OSError, ValueError, KeyError, TypeError):
        # No run, several runs, or a run without the name of its corpus.
        return False


def _stem(model: str, corpus: str) -> str:
    """Return the beginning of the name of a run's folder."""
    return f"{model}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(corpus).stem) or 'corpus'}"


def _made(folder: Path) -> bool:
    """Make a folder, and return False if it exists already."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}: give another `out`") from None
    return True


@contextlib.contextmanager
def _removed_if_empty(folder: Path | None) -> Iterator[None]:
    """At the end of this context, remove `folder` if a refused run left it empty."""
    try:
        yield
    finally:
        if folder is not None and is_first():
            with contextlib.suppress(OSError):
                folder.rmdir()


def show_corpus(console: Console, text: Text) -> None:
    """Print the first lines of the text, and the number of tokens of each split."""
    for line, _ in zip(text.train.source.lines(), range(3), strict=False):
        # A file of bytes may have characters that a terminal would obey.
        shown = "".join(c if c.isprintable() else " " for c in line.strip()[:96])
        console.print(shown, highlight=False, markup=False, emoji=False, soft_wrap=True)
    counts = ", ".join(f"{name} {len(split):,}" for name, split in text.splits.items())
    console.print(
        f"corpus {text.name}: vocabulary of {len(text.vocabulary):,} {text.tokenizer.unit}; "
        f"tokens: {counts}\n",
        highlight=False,
    )


def show_result(console: Console, run: Run, text: Text, with_report: bool) -> None:
    """Print the predictions for a small corpus of rows, and the folder of the run.

    Args:
      console: where to print.
      run: the trained run.
      text: its corpus.
      with_report: whether to write report.html.
    """
    if run.protocol.rows and len(text.train) < 100:
        console.print(prediction_table(run, text))
    console.print(f"saved in {run.folder}", soft_wrap=True, highlight=False)
    if with_report:
        assert run.folder is not None
        report(console, [run], run.folder / REPORT)


def report(console: Console, runs: Sequence[Run], path: Path) -> None:
    """Write the page of the trained runs. The runs are saved, so an error is only a warning."""
    try:
        write_report(runs, path)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        console.print(f"warning: no {path}: {escape(why)}", soft_wrap=True, highlight=False)
    else:
        console.print(f"look at it in a browser: {path}", soft_wrap=True, highlight=False)


def prediction_table(run: Run, text: Text) -> Table:
    """Return a table of the most probable last token of each training line, after the others.

    The model reads the ids that it was trained on. Lines without a token to predict from are left
    out.
    """
    start_id = text.vocabulary.start_id
    start = [] if start_id is None else [start_id]
    table = Table(box=None, show_header=False)
    for row in text.train.rows():
        if not run.protocol.last_only and len(row) > 1 and row[-1] == start_id:
            # Of a model that predicts every word, the last word says more than the line's end.
            row = row[:-1]
        if len(start) + len(row) < 2:
            continue
        ids = np.array([*start, *row[:-1]], np.int32)
        log_probs_1V, _ = run.model.next_log_probs(run.params, ids[None, :])
        log_probs_V = np.asarray(log_probs_1V)[0]
        best, target = int(np.argmax(log_probs_V)), int(row[-1])
        guess, right = (quoted(text.tokenizer.token_text(index)) for index in (best, target))
        wrong = "" if best == target else f"   (the corpus has {right})"
        context = text.tokenizer.decode(row[:-1])
        probability = f"{np.exp(log_probs_V[best]):.4f}"
        table.add_row(escape(f"{context} -> {guess}"), escape(probability + wrong))
    return table


if __name__ == "__main__":
    cli.run(main, goes_on=True)
