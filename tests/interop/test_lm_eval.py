"""The adapter to lm-evaluation-harness, run by the harness itself on local task files."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import jaxlm
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.continuations import Generation, continued
from jaxlm.interop import lm_eval as adapter
from jaxlm.interop.lm_eval import HarnessLM, generation_of

LINES = ["the cat sat on the mat", "the dog sat on the log", "a cat saw the dog's tail."]
HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
# The harness and its libraries warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


def counted(tokens="words", **options):
    text = jaxlm.read_corpus(LINES * 3, tokens=tokens, fractions=(1.0,), unk="always")
    model = jaxlm.NGram(len(text.vocabulary), order=3, stream=True)
    return jaxlm.fit(model, text, quiet=True, **options)


def asked(*requests):
    return [SimpleNamespace(args=request) for request in requests]


def test_settings_of_a_task():
    assert generation_of({}) == Generation()
    found = generation_of({"until": ["a", "b"], "max_new_tokens": 7, "temperature": 0.0})
    assert found == Generation(7, ("a", "b"), 0.0)
    assert generation_of({"do_sample": False, "temperature": 0.7, "top_k": 3}) == Generation()
    assert generation_of({"temperature": 0.7}) == Generation(temperature=0.7)
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "num_beams": 1, "use_cache": True}
    assert generation_of(settings) == Generation(temperature=1.0)
    with pytest.raises(UserError, match=r"num_beams 4 .* which jaxlm does not have"):
        generation_of({"num_beams": 4})


@pytest.mark.skipif(HAS_HARNESS, reason="lm_eval is installed")
def test_without_the_harness_one_line_says_what_to_install(capsys):
    run = counted()
    for call in (lambda: HarnessLM(run), adapter.register):
        with pytest.raises(UserError, match=r"^lm-eval is missing: pip install lm-eval$"):
            call()
    assert adapter.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not HAS_HARNESS, reason="needs lm_eval")
def test_the_answers_have_the_types_of_the_harness():
    from lm_eval.api.model import LM

    model = HarnessLM(counted(), batch_size=1, max_batch_size=None, device="cuda:0")
    assert isinstance(model, LM)
    ((log_prob, greedy),) = model.loglikelihood(asked(("the cat", " sat")))
    assert type(log_prob) is float and greedy is True
    (document,) = model.loglikelihood_rolling(asked((LINES[0],)))
    assert type(document) is float and document < log_prob
    (text,) = model.generate_until(asked(("the cat", {"until": ["\n"], "max_gen_toks": 5})))
    assert text == " sat on the log" or text == " sat on the mat"


@pytest.mark.skipif(not HAS_HARNESS, reason="needs lm_eval")
def test_refusals_of_the_adapter(tmp_path):
    run = counted()
    with pytest.raises(UserError, match="last word of each line alone"):
        HarnessLM(replace(run, protocol=jaxlm.Protocol(rows=True, last_only=True)))
    with pytest.raises(SettingError, match="keeps none"):
        HarnessLM(replace(run, settings={}), start="warm")
    with pytest.raises(UserError, match="unknown split"):
        HarnessLM(run, split="ptb")
    with pytest.raises(SettingError, match="`seed` 'abc'"):
        HarnessLM(run, seed="abc")
    with pytest.raises(UserError):
        HarnessLM(tmp_path / "nothing")
    with pytest.raises(SettingError, match="run that is loaded"):
        HarnessLM(run, checkpoint_folder="gs://bucket")


PAIRS = [
    ("the cat sat on the log", "the cat sat the on log"),
    ("dog a saw the cat", "a dog saw the cat"),
    ("the zebra sat", "the gnu sat"),
    ("the mat", "mat the sat on a log"),
]
CHOICES = "{{[sentence_good + '\\n', sentence_bad + '\\n']}}"


def write_tasks(folder, document):
    """Write task files and their data: minimal pairs, a document, and questions."""
    pairs = [{"sentence_good": good, "sentence_bad": bad} for good, bad in PAIRS]
    data = {
        "pairs": pairs,
        "document": [{"text": document}, {"text": LINES[0]}],
        "questions": [{"question": "the cat sat", "answer": " on the"}],
    }
    shared = {"dataset_path": "json", "test_split": "test", "target_delimiter": ""}
    tasks = {
        "pairs": {
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "doc_to_target": 0,
            "doc_to_choice": CHOICES,
            "metric_list": [{"metric": "acc"}],
        },
        "document": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        "questions": {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": [" mat", " log"], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    for name, task in tasks.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(record)}\n" for record in data[name]))
        files = {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")}
        task = {"task": f"my_{name}", **shared, **task, "dataset_kwargs": files}
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(task))
    return [f"my_{name}" for name in tasks]


@pytest.mark.full
@pytest.mark.skipif(not HAS_HARNESS, reason="needs lm_eval")
def test_the_harness_says_what_pairs_and_perplexity_say(tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    document = "".join(f"{line}\n" for line in LINES)
    tasks = write_tasks(tmp_path, document)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    for tokens in ("words", "chars"):
        run = counted(tokens)
        model = HarnessLM(run, start="fresh")
        found = simple_evaluate(model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0)
        results = found["results"]
        # The harness takes the first of the likeliest choices, which is the good sentence.
        points = jaxlm.pairs(run, PAIRS, start="fresh").points[0]
        assert (0.5 in points) == (tokens == "words")
        assert results["my_pairs"]["acc,none"] == np.mean(np.ceil(points))
        nll, size = 0.0, 0
        for name, text in (("a", document), ("b", LINES[0])):
            (tmp_path / name).write_text(text)
            nll += jaxlm.perplexity(run, text=tmp_path / name).bits
            size += len(text.encode())
        assert results["my_document"]["bits_per_byte,none"] == pytest.approx(nll / size, rel=1e-6)
        (answer,) = found["samples"]["my_questions"][0]["resps"][0]
        how = Generation(length=8, until=(" mat", " log"))
        assert [answer] == continued(run, [("the cat sat", how)], start="fresh")
        if tokens == "words":
            assert results["my_questions"]["exact_match,none"] == 1
        samples = found["samples"]["my_pairs"]
        scores = jaxlm.pairs(run, PAIRS, start="fresh")
        for index, sample in enumerate(samples):
            (good, _), (bad, _) = (answer for (answer,) in sample["resps"])
            assert (float(good), float(bad)) == pytest.approx(
                (scores.good[0, index], scores.bad[0, index])
            )


@pytest.mark.full
@pytest.mark.skipif(not HAS_HARNESS, reason="needs lm_eval")
def test_the_command_runs_a_task(tmp_path):
    counted(folder=tmp_path / "run")
    write_tasks(tmp_path, LINES[0])
    command = [sys.executable, "-m", "jaxlm.interop.lm_eval", "run", "--model", "jaxlm"]
    command += ["--tasks", "my_pairs", "--include_path", str(tmp_path), "--model_args"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, f"run={tmp_path / 'run'},start=fresh"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0 and "my_pairs" in done.stdout, done.stderr


@pytest.mark.skipif(not HAS_HARNESS, reason="needs lm_eval")
def test_importing_the_adapter_registers_nothing():
    code = (
        "import sys, jaxlm.interop.lm_eval as adapter; from lm_eval.api.registry import "
        "model_registry as known; assert 'jaxlm' not in known; adapter.register(); "
        "adapter.register(); assert known.get('jaxlm') is adapter.HarnessLM; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.full
@pytest.mark.skipif(not HAS_HARNESS, reason="needs lm_eval")
def test_the_harness_makes_the_model_from_its_name(tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    counted(folder=tmp_path / "run")
    write_tasks(tmp_path, LINES[0])
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    adapter.register()
    options = {"tasks": ["my_pairs"], "task_manager": manager, "bootstrap_iters": 0}
    arguments = f"run={tmp_path / 'run'},start=fresh"
    found = simple_evaluate(model="jaxlm", model_args=arguments, **options)
    assert found["results"]["my_pairs"]["acc,none"] == 0.75
    with pytest.raises(UserError, match="none"):
        simple_evaluate(model="jaxlm", model_args=f"run={tmp_path / 'none'}", **options)
