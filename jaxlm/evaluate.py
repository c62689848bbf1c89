"""python -m jaxlm.evaluate: exact perplexity of one run or several, with its protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from jaxlm.commands import cli
from jaxlm.errors import UserError
from jaxlm.evaluation.adaptation import Adaptation, adapted
from jaxlm.evaluation.mixing import Mixed, mixture
from jaxlm.evaluation.perplexity import Report, open_split, report, score, write_per_token
from jaxlm.runs.run import Run, load

ABOUT = """Exact perplexity of one run or several: every token scored once, the protocol printed.

Examples:
  python -m jaxlm.evaluate runs/lstm-ptb
  python -m jaxlm.evaluate runs/nplm-ptb runs/lstm-ptb --split valid
  python -m jaxlm.evaluate runs/lstm-ptb --text my.txt --per-token scores.tsv
  python -m jaxlm.evaluate runs/ngram-ptb runs/lstm-ptb --mix --unigram-cache 80
  python -m jaxlm.evaluate runs/lstm-ptb --cache 500 --dynamic --temperature auto
"""


@dataclass(frozen=True)
class Command:
    """Which runs, on which text."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    corpus: str | None = None
    """A corpus by name or path (none: the one each run was trained on)."""
    split: str | None = None
    """train, valid or test (none: test, or else valid, or else train)."""
    text: Path | None = None
    """A text file, measured whole, in place of a corpus."""
    per_token: Path | None = None
    """Write token, log-probability, surprisal, rank and entropy to this file (one run)."""
    mix: bool = False
    """Interpolate the runs' probabilities too: each alone, and all together."""
    weights: str | None = None
    """With --mix: their weights, such as .5,.5 (none: the best on the validation split, by EM)."""
    unigram_cache: int | None = None
    """With --mix: one more component, each token's share of the recent text; a token's weight
    halves every so many."""
    temperature: str | None = None
    """Divide the logits by this, or by what suits the validation split best: auto."""
    cache: int = 0
    """Continuous cache: keep the last so many states, and what followed each (0: none)."""
    cache_flatness: float | None = None
    """How much more a state that is more alike counts (none: the best on the validation split)."""
    cache_share: float | None = None
    """The cache's share of the probability (none: the best on the validation split, by EM)."""
    dynamic: bool = False
    """Dynamic evaluation: the parameters follow the text, once it is scored, by gradient."""
    dynamic_rule: str = "rms"
    """How they follow: rms (each by its gradients in training), sgd."""
    dynamic_lr: float | None = None
    """Their rate (none: the best on the beginning of the validation split)."""
    dynamic_decay: float | None = None
    """Share by which a step pulls them back to the trained ones (none: as the rate)."""
    dynamic_steps: int = 10
    """Tokens from one step of theirs to the next."""
    mc_samples: int = 0
    """Average the probabilities of so many networks with dropout (0: one, without)."""
    seed: int = 0
    """Fixes the masks of --mc-samples."""


def main(argv: Sequence[str]) -> int:
    """Scores each run and prints one table."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.evaluate", about=ABOUT)
    if not command.runs:
        raise UserError("name at least one run: python -m jaxlm.evaluate runs/nplm-toy")
    if command.per_token and len(command.runs) > 1:
        raise UserError(
            f"--per-token takes one run, not {len(command.runs)}: evaluate them one by one"
        )
    if command.text and (command.corpus or command.split):
        raise UserError("--text is a text of its own: leave out --corpus and --split")
    if not command.mix and (command.weights or command.unigram_cache is not None):
        raise UserError("--weights and --unigram-cache belong to --mix: add it, or leave them out")
    if command.mix and command.per_token:
        raise UserError("--per-token takes one run, and --mix several: leave one of them out")
    how = adaptation(command)
    if how and command.per_token:
        raise UserError("--per-token is of the run as it was trained: leave out what adapts it")
    runs = [load(folder) for folder in command.runs]
    mixed = mix(command, runs, how) if command.mix else None
    reports = [*mixed.alone, mixed.together] if mixed else [evaluate(command, run) for run in runs]
    if how and not mixed:
        where = {"corpus": command.corpus, "split": command.split, "text": command.text}
        reports += [adapted(run, how, **where) for run in runs]  # type: ignore[arg-type]
    # Wide enough for every figure, also where the output is a file.
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(result_table(reports))
    for item in reports:
        if item.impossible:
            noun = "token" if item.impossible == 1 else "tokens"
            text = f"{item.run} gives {item.impossible:,} {noun} probability 0"
            console.print(text, highlight=False, soft_wrap=True)
    for protocol in dict.fromkeys(item.protocol for item in reports):
        console.print(protocol, highlight=False, soft_wrap=True)
    if mixed:
        console.print(str(mixed), highlight=False, soft_wrap=True)
    return 0


def adaptation(command: Command) -> Adaptation | None:
    """What --temperature, --cache, --dynamic and --mc-samples ask for. Raises UserError."""
    belongs = {
        "cache": ("cache_flatness", "cache_share"),
        "dynamic": ("dynamic_rule", "dynamic_lr", "dynamic_decay", "dynamic_steps"),
        "mc_samples": ("seed",),
    }
    for whole, parts in belongs.items():
        for part in parts:
            if not getattr(command, whole) and getattr(command, part) != getattr(Command, part):
                flag, needed = (name.replace("_", "-") for name in (part, whole))
                raise UserError(f"--{flag} belongs to --{needed}: add it, or leave --{flag} out")
    if command.temperature is None and not any(getattr(command, whole) for whole in belongs):
        return None
    text = command.temperature or "1"
    try:
        temperature = None if text == "auto" else float(text)
    except ValueError:
        raise UserError(f"--temperature {text!r}: give a number above 0, or auto") from None
    found = Adaptation(
        temperature,
        command.cache,
        command.cache_flatness,
        command.cache_share,
        dynamic=command.dynamic_rule if command.dynamic else "none",
        dynamic_lr=command.dynamic_lr,
        dynamic_decay=command.dynamic_decay,
        dynamic_steps=command.dynamic_steps,
        samples=command.mc_samples,
        seed=command.seed,
    )
    found.check()
    return found


def mix(command: Command, runs: Sequence[Run], how: Adaptation | None) -> Mixed:
    """The runs alone and together."""
    return mixture(
        runs,
        weights=None if command.weights is None else parse_weights(command.weights),
        unigram_cache=command.unigram_cache,
        adaptation=how,
        corpus=command.corpus,
        split=command.split,
        text=command.text,
    )


def parse_weights(text: str) -> list[float]:
    """The numbers of a text like .5,.5. Raises UserError."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--weights {text!r}: give one number a run, with commas between, such as .5,.5"
        ) from None


def evaluate(command: Command, run: Run) -> Report:
    """Scores one run, and writes its table of tokens if asked."""
    split = open_split(run, command.corpus, command.split, command.text)
    scores = score(run, split, detail=command.per_token is not None)
    if command.per_token:
        write_per_token(run, split, scores, command.per_token)
    return report(run, split, scores)


def result_table(reports: Sequence[Report]) -> Table:
    """One row a run; bits are what the whole text cost, shared out over tokens, words, characters
    and bytes.
    """
    table = Table()
    for header in ("run", "text"):
        table.add_column(header, overflow="fold")
    for header in (
        "tokens",
        "<unk>",
        "nats/token",
        "perplexity",
        "bits/token",
        "/word",
        "/char",
        "/byte",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for item in reports:
        size = item.size
        counts = (size.words, size.characters, size.bytes) if size else (0, 0, 0)
        per = [f"{item.bits / count:.4f}" if count else "-" for count in (item.tokens, *counts)]
        figures = (
            f"{item.tokens:,}",
            f"{item.unknown:,}",
            f"{item.nats_per_token:.4f}",
            f"{item.perplexity:.2f}",
        )
        table.add_row(item.run, item.split, *figures, *per)
    return table


if __name__ == "__main__":
    cli.run(main)
