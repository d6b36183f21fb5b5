"""One setting: its default, what it means, which values it takes."""

import dataclasses
from typing import Any

from keras_apinet.errors import APINetError, did_you_mean
from keras_apinet.files.bounds import Number, shown


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a dataclass: its default, what it means, and which values it takes."""
    bounds = {"low": low, "high": high, "above": above, "below": below}
    rules = {"choices": choices, "bounds": bounds}
    return dataclasses.field(default=default, metadata={"text": text, **rules})


def check(field: Any, value: Any, kind: type, optional: bool) -> None:
    """Checks one value of a setting of a type, and whether it may be `None`.

    Raises:
        APINetError: With the name, the value and what it should be.
    """
    name, rules = field.name, field.metadata
    if value is None and optional:
        return
    if kind in (int, float):
        number = Number(kind, **rules["bounds"])
        # Plain numbers only: they have to go into JSON and TOML.
        if type(value) not in (int, float):
            raise APINetError(f"{name}={shown(value)} must be {number}.")
        number.check(name, value)
    elif not isinstance(value, kind):
        words = "true or false" if kind is bool else "a text"
        raise APINetError(f"{name}={shown(value)} must be {words}.")
    elif isinstance(value, str) and "\0" in value:
        raise APINetError(f"{name}={shown(value)} must be a text without NUL.")
    choices = rules["choices"]
    if choices and value not in choices:
        raise APINetError(
            f"{name}={shown(value)} is not one of {', '.join(choices)}"
            + did_you_mean(value, choices)
        )
