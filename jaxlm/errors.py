"""Errors that a person can mend: one line that says what was wrong and what to do.

A message names settings by their Python names in backticks, such as `hidden_size`. The library
shows it as it is; a command shows the flag, `--hidden-size` (`jaxlm.commands.cli.with_flags`).
"""

import difflib
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake in what was asked for. Commands print its one line and exit with code 2."""


class SettingError(UserError):
    """A setting has a value that it cannot have.

    Example:
      >>> raise SettingError("hidden_size", 0, "must be at least 1")
      Traceback (most recent call last):
      jaxlm.errors.SettingError: `hidden_size` 0: must be at least 1

    Args:
      field: Python name of the setting.
      value: the value that was given.
      why: what is wrong, and which values are possible.
    """

    def __init__(self, field: str, value: Any, why: str) -> None:
        super().__init__(f"`{field}` {value}: {why}")
        self.field, self.value, self.why = field, value, why


def reason(error: Exception) -> str:
    """Return why an operation of the system failed, never empty.

    An OSError that Python or a library raised with a message alone has no `strerror`.

    Example:
      >>> reason(OSError(28, "No space left on device")), reason(OSError("10 of 20 written"))
      ('No space left on device', '10 of 20 written')
    """
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# Names that other programs give to a setting, and the name of the setting here.
SYNONYMS = {
    "learning_rate": "lr",
    "hidden": "hidden_size",
    "hidden_dim": "hidden_size",
    "hidden_units": "hidden_size",
    "nhid": "hidden_size",
    "embed": "embedding_size",
    "embed_size": "embedding_size",
    "embed_dim": "embedding_size",
    "embedding": "embedding_size",
    "embedding_dim": "embedding_size",
    "emsize": "embedding_size",
    "layers": "num_layers",
    "layer": "num_layers",
    "nlayers": "num_layers",
    "n_layers": "num_layers",
    "n_gram": "order",
    "ngram": "order",
    "ngram_order": "order",
    "batch": "batch_size",
    "bs": "batch_size",
    "seq_len": "bptt",
    "seq_length": "bptt",
    "sequence_length": "bptt",
    "drop": "dropout",
    "tie_weights": "tied",
    "grad_clip": "clip",
    "clip_grad": "clip",
    "gradient_clip": "clip",
    "max_grad_norm": "clip",
    "wd": "weight_decay",
    "wdecay": "weight_decay",
    "warmup": "warmup_steps",
    "optim": "optimizer",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "step": "steps",
    "max_steps": "steps",
    "max_iters": "steps",
    "minutes": "max_minutes",
    "random_seed": "seed",
    "log_interval": "log_every",
    "eval_interval": "eval_every",
    "data": "corpus",
    "dataset": "corpus",
    "tokenizer": "tokens",
    "output": "out",
    "output_dir": "out",
    "out_dir": "out",
    "save": "out",
    "max_tokens": "length",
    "max_new_tokens": "length",
    "num_samples": "samples",
    "temp": "temperature",
    "k": "top",
    "topk": "top_k",
    "topp": "top_p",
}


def with_synonym(name: str, known: Container[str]) -> str:
    """Return the known name that `name` is another program's word for, or else `name` itself.

    Example:
      >>> with_synonym("learning_rate", ("lr", "epochs")), with_synonym("colour", ("lr",))
      ('lr', 'colour')
    """
    if name in known:
        return name
    meant = SYNONYMS.get(name, name)
    return meant if meant in known else name


def in_any_case(name: str, known: Iterable[str]) -> str:
    """Return the known name that differs from `name` only by case and `_`, or else `name` itself.

    Example:
      >>> in_any_case("Modern_NPLM", ("nplm", "modern-nplm")), in_any_case("my.txt", ("nplm",))
      ('modern-nplm', 'my.txt')
    """
    choices = list(known)
    if name in choices:
        return name
    plain = _plain(name)
    return next((choice for choice in choices if _plain(choice) == plain), name)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


MANY_CHOICES = 20_000
"""Among more choices, `nearest` compares a name only with choices of the same first letter."""


def nearest(name: str, choices: Iterable[object], count: int = 3) -> list[str]:
    """Return the choices spelled most like `name`, best first; fewer than `count` if few are.

    Upper and lower case, and `_` and `-`, count as equal.
    """
    texts = [str(choice) for choice in choices]
    if len(texts) > MANY_CHOICES:
        # Comparing a word with a million words takes seconds.
        texts = [text for text in texts if text[:1].lower() == name[:1].lower()][:MANY_CHOICES]
    # A token may differ from another one by its case alone.
    plain: dict[str, list[str]] = {}
    for text in texts:
        plain.setdefault(_plain(text), []).append(text)
    found = difflib.get_close_matches(_plain(name), plain, count, 0.5)
    return [text for match in found for text in plain[match]][:count]


def nearest_setting(name: str, settings: Collection[str]) -> str | None:
    """Return the setting that a wrong name is most likely meant for; None if no name is similar."""
    meant = with_synonym(name, settings)
    if meant != name:
        return meant
    parts = [item for item in settings if len(name) > 2 and _plain(item).startswith(_plain(name))]
    close = difflib.get_close_matches(name, settings, 1, 0.7)
    return next(iter([*parts, *close]), None)


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`; `what` says what kind of thing it is.

    Raises:
      UserError: for an unknown name. The message lists the choices and the nearest one.
    """
    if not isinstance(name, str):
        raise UserError(f"the {what} {name!r} is no text: choose one of {', '.join(table)}")
    if name in table:
        return table[name]
    synonym = with_synonym(name, table)
    close = [synonym] if synonym != name else nearest(name, table, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(f"unknown {what} {name!r}{hint}: choose one of {', '.join(table)}")


def check_at_least(field: str, value: Any, minimum: float) -> None:
    """Raise SettingError unless `value` is at least `minimum`."""
    if not value >= minimum:
        raise SettingError(field, value, f"must be at least {minimum}")
