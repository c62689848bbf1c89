"""Measure the n-gram on PTB and WikiText-2: perplexity, seconds, memory; optionally also lmplz.

Command    python experiments/ngram_benchmark.py [folder of corpora] [--lmplz PATH]
Hardware   two CPU cores (AMD EPYC with AVX-512)
Minutes    1
Expected   PTB test 148.28 at order 3, 141.19 at order 5; PTB order 5 in 0.56 s and 287 MB (lmplz
           in the same run 1.12 s), scored in 0.06 s; WikiText-2 order 5 in 1.73 s and 422 MB (lmplz
           2.85 s); Python and JAX are 187 MB of each; lmplz gets `-S 400M`, and takes 117 and
           147 MB of it
Published  KenLM: 148.28 and 141.19; lmplz on two cores of this kind 1.4 s and 418 MB, and 2.6 s and
           450 MB

Each measurement runs in its own process, which reports its peak resident memory. The column
"count+smooth s" starts with token ids in memory and ends with tables in memory. Reading the text
and scoring it have columns of their own. The column "lmplz s" is the time of the whole process: it
starts, reads and hashes the text, counts, smooths and formats an ARPA file. Rounds alternate
between jaxlm and lmplz; the table has the medians. `--lmplz` needs the folder of corpora.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands import find_corpus

PUBLISHED = {("ptb", 3): 148.28, ("ptb", 5): 141.19}


def measure(corpus: str, order: int) -> None:
    """Measure in this process, and print a line of JSON."""
    import resource

    import jaxlm
    from jaxlm.evaluation.scoring import Scorer
    from jaxlm.ngrams.counts import count_ngrams
    from jaxlm.ngrams.smoothing import SMOOTHINGS
    from jaxlm.runs.log import perplexity_of
    from jaxlm.training.counting import sequences

    began = time.perf_counter()
    text = jaxlm.read_corpus(corpus)
    read = time.perf_counter()
    model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=order)
    counts = count_ngrams(sequences(model, text), order, model.vocab_size)
    tables = SMOOTHINGS[model.smoothing](counts).tables
    smoothed = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scorer = Scorer(model)
    scorer.stream(tables, text.test.ids[:1000])
    scored = time.perf_counter()
    scores = scorer.stream(tables, text.test.ids)
    done = time.perf_counter()
    nats = scores.nll / len(scores.log_prob)
    found = {
        "read": read - began,
        "seconds": smoothed - read,
        "score": done - scored,
        "mb": peak / 1024,
        "ppl": perplexity_of(nats),
    }
    print(json.dumps(found))


def measure_in_new_process(corpus: str, order: int) -> dict[str, float]:
    """Run `measure` in a new process, and return its result."""
    argv = [sys.executable, __file__, "--measure", corpus, str(order)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def training_file(corpus: str) -> Path:
    """Return the training text in the folder of a corpus, for lmplz.

    If the folder has no such file, or several, the program ends with exit code 2.
    """
    found = sorted(Path(corpus).glob("*train.txt"))
    if len(found) != 1:
        print(
            f"error: --lmplz needs one file *train.txt in {corpus}/, which has {len(found)}",
            file=sys.stderr,
        )
        sys.exit(2)
    return found[0]


def lmplz(program: str, train: Path, order: int) -> dict[str, float]:
    """Return seconds and peak memory of KenLM's lmplz. It refuses <unk>, which is renamed.

    If lmplz fails, this program ends.
    """
    text = train.read_text(encoding="utf-8").replace("<unk>", "unk_")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        began = time.perf_counter()
        argv = [program, "-o", str(order), "-S", "400M", "--text", file.name]
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"error: {shlex.join(argv)} ended with exit code {child.returncode}")
    return {"seconds": seconds, "mb": usage.ru_maxrss / 1024}


def main() -> None:
    """Alternate jaxlm and lmplz, and print medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, help="folder of corpora")
    parser.add_argument("--lmplz", help="path of KenLM's lmplz, which is timed as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=2)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], int(options.measure[1]))
        return
    if options.lmplz and not options.data:
        parser.error("--lmplz needs the folder of corpora as well, whose texts lmplz reads")
    corpora = {
        name: find_corpus(name, options.data) if options.data else name
        for name in ("ptb", "wikitext-2")
    }
    trains = {name: training_file(corpora[name]) for name in corpora if options.lmplz}
    head = "corpus      order  perplexity  published  read s  count+smooth s  score s   MB"
    print(f"{head}   lmplz s   MB")
    for name, order in (("ptb", 3), ("ptb", 5), ("wikitext-2", 5)):
        rounds, lmplz_rounds = [], []
        for _ in range(options.rounds):
            rounds.append(measure_in_new_process(corpora[name], order))
            if options.lmplz:
                lmplz_rounds.append(lmplz(options.lmplz, trains[name], order))
        median = {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}
        peer = (
            f"{statistics.median(item['seconds'] for item in lmplz_rounds):8.2f}"
            f"{statistics.median(item['mb'] for item in lmplz_rounds):6.0f}"
            if lmplz_rounds
            else "       -     -"
        )
        published = PUBLISHED.get((name, order), "")
        print(
            f"{name:12}{order:4}{median['ppl']:13.2f}{published!s:>11}{median['read']:8.2f}"
            f"{median['seconds']:14.2f}{median['score']:11.3f}{median['mb']:6.0f}{peer}"
        )


if __name__ == "__main__":
    main()
