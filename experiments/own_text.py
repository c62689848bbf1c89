"""Train texts of one's own for some minutes, by the settings of the recipe and by plain settings.

Command    python experiments/own_text.py FILE [FILE ...] [--minutes 3] [--model lstm]
Hardware   two CPU cores; nothing else should run on them
Minutes    twice the minutes for each file
Expected   experiments/own_text.md
Published  nanoGPT's example for a CPU: 1.88 nats per character of tiny Shakespeare, 3 minutes

Each file is read by characters: 90% to train, 5% to validate, 5% to test. Both commands differ in
one flag: `--config` with an empty file keeps the plain settings (200 units, 20 streams of 35 steps,
Adam at a constant rate of 0.001), which were the defaults before the recipe. The figure is the
validation loss in nats per character of the best validation, as `evaluate` measures it.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import jaxlm


def trained(file: Path, out: Path, options: argparse.Namespace, *more: str) -> jaxlm.Run:
    """Train on a file by characters, and return the run."""
    flags = ["--model", options.model, "--corpus", str(file), "--tokens", "chars"]
    flags += ["--max-minutes", str(options.minutes), "--out", str(out), "--no-report", *more]
    command = [sys.executable, "-m", "jaxlm.train", *flags, "--sample-every", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return jaxlm.load(out)


def main() -> None:
    """Train each file twice, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--model", default="lstm")
    parser.add_argument("--only-new", action="store_true", help="leave out the plain settings")
    options = parser.parse_args()
    print("| text | minutes | plain settings | own-text | with an n-gram | n-gram | units |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for file in options.files:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            before = ""
            if not options.only_new:
                (folder / "plain.json").write_text("{}")
                plain = trained(
                    file, folder / "plain", options, "--config", str(folder / "plain.json")
                )
                before = f"{jaxlm.perplexity(plain, split='valid').nats_per_token:.4f}"
            run = trained(file, folder / "own", options, "--with-ngram")
            ngram = jaxlm.load(folder / "own-ngram")
            mixed = jaxlm.mixture([run, ngram], split="valid")
            own, counted = (f"{report.nats_per_token:.4f}" for report in mixed.alone)
            together = f"{mixed.together.nats_per_token:.4f}"
            cells = (file, options.minutes, before, own, together, counted)
            units = run.settings["network"]["hidden_size"]
            print(f"| {' | '.join(map(str, cells))} | {units} |", flush=True)


if __name__ == "__main__":
    main()
