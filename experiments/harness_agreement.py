"""Compare BLiMP in lm-evaluation-harness with `jaxlm.pairs`: all sentences of 67 paradigms.

Command    python experiments/harness_agreement.py FOLDER [RUN ...]   (FOLDER holds blimp/)
Hardware   two CPU cores
Minutes    5 (a 5-gram by words, beside other work: 41 s by pairs, 228 s by the harness)
Expected   67,000 pairs: no log-likelihood and no accuracy differs

Install the harness with `pip install -e ".[lm-eval]"`. The runs are over words, as those of
blimp.py. The harness counts a tie as right, because the good sentence is the first choice;
`pairs` counts it half.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from commands import find_corpus

import jaxlm
from jaxlm.evaluation.pairs import PairScores, pairs, read_pairs
from jaxlm.interop.lm_eval import HarnessLM


def main() -> None:
    """Run each run in the harness and by `pairs`, and print the largest differences."""
    runs = sys.argv[2:]
    if not runs:
        print("error: give the folder that holds blimp/, and runs over words", file=sys.stderr)
        sys.exit(2)
    folder = Path(find_corpus("blimp"))
    listed = read_pairs(folder)
    for name in runs:
        run = jaxlm.load(name)
        seconds = -time.perf_counter()
        found = pairs(run, listed, split="wikitext")
        seconds += time.perf_counter()
        with tempfile.TemporaryDirectory() as tasks:
            write_tasks(folder, Path(tasks))
            wall = -time.perf_counter()
            results, samples = harness(HarnessLM(run, split="wikitext"), tasks)
            wall += time.perf_counter()
        compare(found, results, samples)
        print(f"{name}: {seconds:.0f} s by pairs, {wall:.0f} s by the harness", flush=True)


def write_tasks(folder: Path, tasks: Path) -> None:
    """Write a task of the harness for each file of BLiMP."""
    for file in sorted(folder.glob("*.jsonl")):
        task = {
            "task": file.stem,
            "tag": "pairs",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file.resolve())}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "target_delimiter": "",
            "doc_to_choice": "{{[sentence_good + '\\n', sentence_bad + '\\n']}}",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc"}],
        }
        (tasks / f"{file.stem}.yaml").write_text(json.dumps(task))


def harness(model: HarnessLM, tasks: str) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the accuracy, and the log-likelihoods [pairs, 2], of each task by the harness."""
    # The data are local files. Without these settings the harness asks its hub for them, and shows
    # a bar of progress for each paradigm.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks, include_defaults=False)
    found = simple_evaluate(
        model=model, tasks=["pairs"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    accuracy = {
        name: values["acc,none"] for name, values in found["results"].items() if name != "pairs"
    }
    scores = {}
    for name, kept in found["samples"].items():
        kept = sorted(kept, key=lambda sample: sample["doc_id"])
        scores[name] = np.array(
            [[good[0], bad[0]] for good, bad in (k["filtered_resps"] for k in kept)]
        )
    return accuracy, scores


def compare(found: PairScores, accuracy: dict[str, float], scores: dict[str, np.ndarray]) -> None:
    """Print how far the log-likelihoods and the accuracies are apart, over all paradigms."""
    paradigms = np.array([pair.paradigm for pair in found.pairs])
    score, right = 0.0, 0.0
    for name, values in scores.items():
        rows = paradigms == name
        assert rows.sum() == len(values)
        good, bad = found.good[0, rows], found.bad[0, rows]
        score = max(score, np.abs(np.stack([good, bad], axis=1) - values).max())
        right = max(right, abs(np.mean(good >= bad) - accuracy[name]))
    print(
        f"{len(scores)} paradigms, {sum(map(len, scores.values())):,} pairs: largest difference of "
        f"a log-likelihood {score:.2g} nats, of an accuracy (a tie is right) {right:.2g}"
    )


if __name__ == "__main__":
    main()
