"""Runs in EleutherAI's lm-evaluation-harness: `HarnessLM`, and its command with the model `jaxlm`.

    python -m jaxlm.interop.lm_eval --model jaxlm --model_args run=runs/mine --tasks my_task

The harness has no table of models of other packages, so its own command `lm_eval` does not know the
name `jaxlm`. This module registers the name when `main` or `register` is called, not on import.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.data.splitting import NONE, check_split
from jaxlm.errors import SettingError, UserError
from jaxlm.evaluation.continuations import (
    Generation,
    check_predicts_all,
    continuations,
    continued,
    documents,
)
from jaxlm.ranges import Seed, checked
from jaxlm.runs.run import Run, load
from jaxlm.runs.starts import start_of

NAME = "jaxlm"
MISSING = "lm-eval is missing: pip install lm-eval"
# Names that tasks use for the largest number of tokens to generate.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def _harness_base() -> Any:
    """Return the harness's class of models; `object` if the harness is not installed."""
    try:
        from lm_eval.api.model import LM
    except ImportError:
        return object
    return LM


_Base: Any = _harness_base()


class HarnessLM(_Base):
    """A run as a model of lm-evaluation-harness, of any kind: n-gram, NPLM, recurrent.

    - `loglikelihood`: log P(continuation | context). White space at the end of the context belongs
      to the continuation.
    - `loglikelihood_rolling`: log P of a document, each by itself, as `jaxlm.perplexity` counts it.
    - `generate_until`: a continuation up to a stop text. It is greedy unless the task says
      `do_sample: true`, or a temperature above 0.

    Example:
      With lm-eval installed:

          from lm_eval import simple_evaluate
          from jaxlm.interop.lm_eval import HarnessLM

          model = HarnessLM(jaxlm.load("runs/mine"))
          found = simple_evaluate(model=model, tasks=["my_task"], task_manager=...)

    Args:
      run: a run, or its folder.
      start: the state before each text: "fresh", "warm" (after a stretch of the training text), or
        None for warm if the run keeps such a stretch.
      split: "treebank" or "wikitext": split the texts into words as the training text of a run over
        words is split; "none": leave them as they are. See `split_words`.
      seed: seed of sampled continuations.
      checkpoint_folder: the folder of the checkpoints, if training wrote them elsewhere.
      batch_size, max_batch_size, device: the harness gives them, and they change nothing. Requests
        are batched by their lengths, and JAX chooses the device, by the variable JAX_PLATFORMS.
    Raises:
      UserError: if lm-eval is not installed, for a folder without a run, and for a run that
        predicts the last word of each line alone.
      SettingError: for a start that the run does not have, and another bad setting.
    """

    def __init__(
        self,
        run: Run | str | Path,
        *,
        start: str | None = None,
        split: str = NONE,
        seed: Seed = 0,
        checkpoint_folder: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        if _Base is object:
            raise UserError(MISSING)
        super().__init__()
        if not isinstance(run, Run):
            # The harness makes a number of an argument such as 7.
            run = load(str(run), checkpoint_folder=checkpoint_folder)
        elif checkpoint_folder is not None:
            why = "is for the folder of a run, not for a run that is loaded: leave it out"
            raise SettingError("checkpoint_folder", checkpoint_folder, why)
        check_predicts_all(run)
        check_split(split)
        checked("seed", seed, Seed)
        start_of(run, start)
        self.run, self.start, self.split, self.seed = run, start, split, seed

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        asked = [request.args for request in requests]
        found = continuations(self.run, asked, start=self.start, split=self.split)
        return self._kept("loglikelihood", asked, [tuple(item) for item in found])

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        asked = [request.args for request in requests]
        texts = [text for (text,) in asked]
        found = documents(self.run, texts, start=self.start, split=self.split)
        return self._kept("loglikelihood_rolling", asked, found)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        asked = [request.args for request in requests]
        found = continued(
            self.run,
            [(context, generation_of(settings)) for context, settings in asked],
            start=self.start,
            split=self.split,
            seed=self.seed,
        )
        return self._kept("generate_until", asked, found)

    def _kept(self, method: str, asked: Sequence[Any], answers: list[Any]) -> list[Any]:
        """Return the answers. Give them to the harness's cache too, if it has one."""
        for arguments, answer in zip(asked, answers, strict=True):
            self.cache_hook.add_partial(method, arguments, answer)
        return answers


def generation_of(settings: dict[str, Any]) -> Generation:
    """Return how to continue a text, from the `generation_kwargs` of a task.

    The continuation is greedy if `do_sample` is False, or if it is left out and there is no
    temperature above 0. With `do_sample` the temperature is 1 unless it is given.

    Example:
      >>> generation_of({"until": "\\n", "max_gen_toks": 8})
      Generation(length=8, until=('\\n',), temperature=0.0, top_k=None, top_p=None)
      >>> generation_of({"do_sample": True, "top_k": 5}).temperature
      1.0

    Args:
      settings: until, max_gen_toks (or another name in LENGTHS), do_sample, temperature, top_k and
        top_p; each may be left out.
    Raises:
      UserError: for a setting that changes the text and is not known here, such as num_beams.
    """
    left = {name: value for name, value in settings.items() if value is not None}
    until = left.pop("until", ())
    lengths = [left.pop(name) for name in LENGTHS if name in left]
    sample = left.pop("do_sample", None)
    temperature = left.pop("temperature", 1.0 if sample else 0.0)
    greedy = sample is False or (sample is None and not temperature)
    top_k, top_p = left.pop("top_k", None), left.pop("top_p", None)
    # A beam of one is greedy decoding, and the cache of a Transformer does not change the text.
    harmless = {"num_beams": (1,), "use_cache": (True, False)}
    for name, value in left.items():
        if value not in harmless.get(name, ()):
            known = ", ".join(("until", LENGTHS[0], "do_sample", "temperature", "top_k", "top_p"))
            raise UserError(
                f"the task asks for {name} {value!r} of generate_until, which jaxlm does not have; "
                f"it has {known}"
            )
    return Generation(
        length=int(lengths[0]) if lengths else Generation.length,
        until=(until,) if isinstance(until, str) else tuple(until),
        temperature=0.0 if greedy else float(temperature),
        # Transformers reads 0 and 1.0 as no limit.
        top_k=None if greedy else (top_k or None),
        top_p=None if greedy or top_p == 1 else top_p,
    )


def register() -> None:
    """Register `jaxlm` as the name of a model in the harness, for `simple_evaluate(model="jaxlm")`.

    Raises:
      UserError: if lm-eval is not installed.
    """
    if _Base is object:
        raise UserError(MISSING)
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{__spec__.name}:{HarnessLM.__name__}")


def main() -> int:
    """Run the command of the harness with the model `jaxlm`; return the exit code."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
