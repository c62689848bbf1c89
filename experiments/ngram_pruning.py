"""Measure what pruning an n-gram costs: size against perplexity on PTB and WikiText-2.

Command    python experiments/ngram_pruning.py [folder of corpora]
Hardware   two CPU cores (AMD EPYC)
Minutes    10
Expected   the tables of docs/ngrams.md, section "Smaller files"
Published  none for these corpora

Rows differ in `prune` (by count, as lmplz) or `prune_entropy` (Stolcke 1998), with P(h) from the
counts of the training text or from the model. "memory" is the size of the tables in memory, and of
the folder of the run. Each row has the perplexity of the validation split. The smallest file whose
perplexity is at most 2% above the unpruned model's is the choice, which scores the test split.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from commands import find_corpus

import jaxlm
from jaxlm.interop.arpa_runs import export_arpa

ORDERS = (3, 5)
THRESHOLDS = (1e-9, 1e-8, 1e-7, 3e-7, 1e-6)
# The thresholds at which P(h) comes from the model, too.
COMPARED = (1e-7, 1e-6)
ALLOWED = 1.02


class Row(NamedTuple):
    """A pruned model: its settings, its sizes in n-grams and bytes, and its perplexity on valid."""

    settings: dict[str, Any]
    ngrams: int
    arpa: int
    packed: int
    memory: int
    valid: float


def settings_of(order: int) -> list[dict[str, Any]]:
    """Return the settings of all rows of a table."""
    counts = [(0, 0, 1), (0, 1, 1), (0, 1, 2)] + ([(0, 0, 1, 2)] if order > 3 else [])
    return [
        {},
        *({"prune": thresholds} for thresholds in counts),
        *({"prune_entropy": threshold} for threshold in THRESHOLDS),
        *({"prune_entropy": threshold, "prune_history": "model"} for threshold in COMPARED),
    ]


def name_of(settings: dict[str, Any]) -> str:
    """Return the settings of a row as flags."""
    if "prune" in settings:
        return "`--prune " + " ".join(map(str, settings["prune"])) + "`"
    if "prune_entropy" not in settings:
        return "all"
    history = " --prune-history model" if "prune_history" in settings else ""
    return f"`--prune-entropy {settings['prune_entropy']:g}{history}`"


def fit(text: jaxlm.Text, order: int, settings: dict[str, Any]) -> jaxlm.Run:
    """Train an n-gram."""
    return jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=order), text, quiet=True, **settings)


def measure(text: jaxlm.Text, order: int, settings: dict[str, Any]) -> Row:
    """Train, write ARPA files, and score the validation split."""
    run = fit(text, order, settings)
    with tempfile.TemporaryDirectory() as folder:
        sizes = []
        for name in ("model.arpa", "model.arpa.gz"):
            export_arpa(run, Path(folder) / name)
            sizes.append((Path(folder) / name).stat().st_size)
    memory = sum(array.nbytes for array in run.params.arrays().values())
    valid = jaxlm.perplexity(run, text.valid).perplexity
    return Row(settings, sum(run.params.sizes), *sizes, memory, valid)


def show_table(text: jaxlm.Text, order: int) -> None:
    """Measure every row, print the table, and score the test split with the choice."""
    print("| n-grams kept | number | ARPA | ARPA.gz | memory | valid |")
    print("|---|---|---|---|---|---|")
    rows = []
    for settings in settings_of(order):
        row = measure(text, order, settings)
        rows.append(row)
        sizes = " | ".join(f"{size / 1e6:.1f} MB" for size in (row.arpa, row.packed, row.memory))
        print(
            f"| {name_of(settings)} | {row.ngrams:,} | {sizes} | {row.valid:.2f} |",
            flush=True,
        )
    whole = rows[0]
    allowed = (row for row in rows if row.valid <= ALLOWED * whole.valid)
    chosen = min(allowed, key=lambda row: row.packed)
    tests = [
        jaxlm.perplexity(fit(text, order, row.settings), text.test).perplexity
        for row in (whole, chosen)
    ]
    print(
        f"\nchosen {name_of(chosen.settings)}: test {tests[1]:.2f} (all n-grams {tests[0]:.2f}), "
        f"ARPA.gz {chosen.packed / whole.packed:.0%} of the size",
        flush=True,
    )


def main() -> None:
    """Print a table for each corpus and order."""
    for corpus in ("ptb", "wikitext-2"):
        text = jaxlm.read_corpus(find_corpus(corpus))
        for order in ORDERS:
            print(f"\n{corpus}, order {order}\n")
            show_table(text, order)


if __name__ == "__main__":
    main()
