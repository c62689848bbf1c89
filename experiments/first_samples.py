"""Draw samples from runs, and count the samples that are garbage.

Command    python -m jaxlm.train --model lstm --corpus t.txt --tokens chars --epochs 1 --out r
           --config experiments/plain.json
           python experiments/first_samples.py t.txt r
Hardware   two CPU cores (AMD EPYC)
Minutes    1.5 to train a model, 0.3 for its samples
Expected   0 of 50 samples of each row that starts warm are garbage
Published  none

A 5-gram of the characters of the text scores each sample. A sample is garbage if its mean negative
log-likelihood is above the entropy of the single characters: then characters drawn without any
context would fit the text better. The table has a row for each run, prompt and start.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxlm
from jaxlm.runs.starts import STARTS, WARM_START

SAMPLES = 50
LENGTH = 200


def judge_of(corpus: str) -> tuple[jaxlm.Run, float]:
    """Return a character 5-gram of the text, and the entropy of its characters in nats."""
    text = jaxlm.read_corpus(corpus, tokens="chars", unk="always")
    model = jaxlm.NGram(len(text.vocabulary), order=5, stream=True)
    counts = np.array(list(Counter(text.train.ids.tolist()).values()), float)
    shares = counts / counts.sum()
    return jaxlm.fit(model, text, quiet=True), float(-shares @ np.log(shares))


def nats(judge: jaxlm.Run, sample: str) -> float:
    """Return the mean negative log-likelihood of the characters of `sample`, in nats."""
    bits = jaxlm.Session(judge, start="fresh").push(sample)
    return math.log(2) * float(np.mean(bits))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="the text that the runs were trained on")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs by characters")
    parser.add_argument("--prompts", nargs="*", default=["", "ROMEO:"])
    arguments = parser.parse_args()
    judge, entropy = judge_of(arguments.corpus)
    table = Table(title=f"garbage: above {entropy:.2f} nats per character")
    for header in ("run", "prompt", "start", "garbage", "mean nats", "worst"):
        table.add_column(header)
    for folder in arguments.runs:
        run = jaxlm.load(folder)
        for prompt in arguments.prompts:
            for start in STARTS if run.settings.get(WARM_START) else STARTS[:1]:
                texts = jaxlm.sample(run, prompt, length=LENGTH, samples=SAMPLES, start=start)
                scores = [nats(judge, text[len(prompt) :]) for text in texts]
                garbage = sum(score > entropy for score in scores)
                figures = f"{np.mean(scores):.3f}", f"{max(scores):.3f}"
                count = f"{garbage} of {SAMPLES}"
                table.add_row(str(folder), repr(prompt), start, count, *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
