"""One setting: its default, what it means, which values it takes."""

import dataclasses
import difflib
from typing import Any

from keras_apinet.errors import APINetError


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a dataclass: its default, what it means, and which values it takes."""
    rules = {"choices": choices, "low": low, "above": above, "below": below}
    return dataclasses.field(default=default, metadata={"text": text, **rules})


def check(field: Any, value: Any, kind: type, optional: bool) -> None:
    """Checks one value of a setting of a type, and whether it may be `None`.

    Raises:
        APINetError: With the name, the value and what it should be.
    """
    name, rules = field.name, field.metadata
    if value is None and optional:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = {
        bool: isinstance(value, bool),
        int: whole,
        float: whole or isinstance(value, float),
        str: isinstance(value, str),
    }[kind]
    if not fits:
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise APINetError(f"{name}={value!r} must be {words.get(kind, 'a text')}.")
    choices = rules["choices"]
    if choices and value not in choices:
        near = difflib.get_close_matches(value, choices, 1)
        raise APINetError(
            f"{name}={value!r} is not one of {', '.join(choices)}"
            + (f"; did you mean {near[0]!r}?" if near else ".")
        )
    bounds = []
    if rules["low"] is not None:
        bounds.append((value >= rules["low"], f"at least {rules['low']}"))
    if rules["above"] is not None:
        bounds.append((value > rules["above"], f"above {rules['above']}"))
    if rules["below"] is not None:
        bounds.append((value < rules["below"], f"below {rules['below']}"))
    if not all(good for good, _ in bounds):
        raise APINetError(
            f"{name}={value!r} must be {' and '.join(words for _, words in bounds)}."
        )
