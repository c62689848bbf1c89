"""Options by name, put into the configurations they belong to."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from jaxlm.errors import choose


def with_options(sections: Sequence[Any], options: dict[str, Any]) -> list[Any]:
    """The configurations `sections`, with each option in the one that has its name.

    Raises UserError for a name that none has.
    """
    changed = list(sections)
    known = {item.name: index for index, config in enumerate(sections) for item in fields(config)}
    for name, value in options.items():
        index = choose(known, name, "option of fit")
        changed[index] = replace(changed[index], **{name: value})
    return changed
