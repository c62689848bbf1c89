"""README.md of a Hugging Face folder: the model card."""

import json
from pathlib import PurePath
from typing import Any

from jaxlm.runs.folder import TOKENIZER
from jaxlm.runs.log import read_records
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START

METRICS = "metrics.jsonl"
CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- jaxlm
- {network}
---

# {title}

{about}

## Use

The model is PyTorch code in this folder, `modeling_jaxlm.py`, which imports torch and transformers
alone. `trust_remote_code=True` lets transformers run it.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/or/name/of/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
{example}```

In jaxlm, which reads the folder as the run that it was written from:

```python
import jaxlm

run = jaxlm.load("path/of/this/folder")
```

## Start of a text

{start}

## Training

{training}

## Figures

{figures}

## Model

{model}
"""
EXAMPLE = """text = tokenizer.bos_token{prompt}
ids = tokenizer(text, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0], skip_special_tokens=True))
"""
EXAMPLE_WITHOUT_START = """ids = tokenizer({prompt}, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0], skip_special_tokens=True))
"""


def model_card(run: Run, config: dict[str, Any], prompt: str) -> str:
    """Return the text of README.md.

    Args:
      run: the run.
      config: the content of the folder's config.json.
      prompt: the beginning of a text in the example.
    """
    network, V = config["network"], config["vocab_size"]
    corpus = _corpus(run)
    title = f"{network.upper()} language model" + (f" of {corpus}" if corpus else "")
    unit = run.tokenizer.unit
    about = (
        f"A classic language model over {unit}: {_article(network)} {network.upper()} with a "
        f"vocabulary of {V:,} {unit}, trained with jaxlm"
        + (f" on the corpus {corpus}." if corpus else ".")
    )
    shown = json.dumps(prompt, ensure_ascii=False)
    if run.vocabulary.start_id is None:
        example = EXAMPLE_WITHOUT_START
    else:
        example, shown = EXAMPLE, f" + {shown}" if prompt else ""
    return CARD.format(
        network=network,
        title=title,
        about=about,
        example=example.format(prompt=shown),
        start=_start(run, config),
        training=_rows(_training(run)),
        figures=_figures(run),
        model=_rows(_numbers(run, config)),
    )


def _article(network: str) -> str:
    # "an LSTM", "an RNN", "an NPLM", but "a GRU".
    return "a" if network == "gru" else "an"


def _corpus(run: Run) -> str:
    """Return the name of the training corpus; only the last part of a path."""
    corpus = run.settings.get("text", {}).get("corpus")
    return PurePath(corpus).name if isinstance(corpus, str) else ""


def _start(run: Run, config: dict[str, Any]) -> str:
    """Return how the model reads the first token of a text."""
    if run.vocabulary.start_id is None:
        return (
            "The model has no start token, so the first token of a text is not predicted. Tools "
            "that need a start token, such as lm-eval, cannot score a text without a context."
        )
    line = (
        "A text begins with the start token `tokenizer.bos_token`, which the model reads as the "
        "end of a line. The tokenizer does not add the token itself: put it before the text, or "
        "let a tool do so (`bos_token=True` in minicons; lm-eval does it for a text without a "
        "context). `generate` does not stop at the end of a line; "
        f"`eos_token_id={config['start_id']}` makes it stop."
    )
    if config["start"] == "warm":
        line += (
            " The state before it is warm: the state after a stretch of the training text, because "
            "the model was trained on a stream and has seldom seen its initial state. "
            '`from_pretrained(folder, start="fresh", trust_remote_code=True)` begins with the '
            "initial state."
        )
    else:
        line += " The state before it is the initial state."
    return line


def _training(run: Run) -> dict[str, Any]:
    """Return the settings that say how the run was trained, by their names."""
    settings = run.settings
    rows: dict[str, Any] = {"corpus": _corpus(run)}
    chosen = {
        "text": ("tokens", "vocab_size", "min_count", "unk"),
        "batching": ("batching", "batch_size", "bptt"),
        "optimizer": ("optimizer", "lr", "schedule", "weight_decay"),
        "training": ("epochs", "seed"),
    }
    for section, names in chosen.items():
        values = settings.get(section)
        if isinstance(values, dict):
            rows |= {name: values[name] for name in names if values.get(name) is not None}
    rows["step of the parameters"] = run.step
    digests = settings.get("text_sha256")
    if isinstance(digests, dict):
        rows |= {f"sha256 of the token ids, {split}": value for split, value in digests.items()}
    return rows


def _figures(run: Run) -> str:
    """Return the validation perplexity, and how it was counted."""
    records = [] if run.folder is None else read_records(run.folder / METRICS)
    found = [item for item in records if item.get("split") == "valid" and "ppl" in item]
    # The parameters are those of the step with the best validation loss.
    found = [item for item in found if item.get("step") == run.step] or found[-1:]
    unit = run.tokenizer.unit
    protocol = run.protocol
    each = "the last token of each line alone" if protocol.last_only else "each token once"
    state = (
        "the state is reset at each line"
        if protocol.rows
        else "the text is one stream, and the state is carried over line ends"
    )
    counted = f"Protocol: {each}; {state}; `<unk>` counts as a token."
    if not found:
        return f"The run keeps no validation perplexity. {counted}"
    tokens = found[-1].get("tokens")
    size = f" over {tokens:,} {unit}" if isinstance(tokens, int) else ""
    return f"Validation perplexity {found[-1]['ppl']:.2f} a token{size}. {counted}"


def _numbers(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the model."""
    names = ("network", "embedding_size", "layer_sizes", "tied", "residual", "layer_norm")
    rows = {name: config[name] for name in names}
    if config["network"] == "nplm":
        rows |= {name: config[name] for name in ("window", "direct")}
    rows["vocabulary"] = f"{config['vocab_size']:,} {run.tokenizer.unit}"
    if WARM_START in run.settings:
        length = len(run.settings[WARM_START])
        rows["warm start"] = f"{length} tokens of the training text, in config.json"
    rows["tokenizer"] = f"{run.tokenizer.name}, in {TOKENIZER}"
    return rows


def _rows(values: dict[str, Any]) -> str:
    """Return a table in Markdown."""
    lines = ["| what | value |", "|---|---|"]
    for name, value in values.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f"| {name} | {shown.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)
