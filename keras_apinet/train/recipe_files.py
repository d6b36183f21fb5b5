"""Recipes as TOML files and on the command line."""

import dataclasses
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_apinet.errors import APINetError, printable
from keras_apinet.files.bounds import shown
from keras_apinet.files.schema import read_toml
from keras_apinet.train.recipe import BEFORE, Recipe, check_names, kind_of

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_settings(path: str | Path) -> dict[str, Any]:
    """Reads the settings of a recipe file."""
    return read_toml(Path(path))


def to_toml(recipe: Recipe) -> str:
    """Writes a recipe as TOML, with a description of each setting."""
    lines = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        words = field.metadata["text"]
        if field.metadata["choices"]:
            words += f" ({', '.join(field.metadata['choices'])})"
        lines.append(f"# {words}")
        # TOML has no null: unset values become comments.
        lines.append(
            f"# {field.name} =" if value is None else f"{field.name} = {_toml(value)}"
        )
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # TOML writes strings, numbers and booleans like JSON, except for `1e-05`.
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(
        "[^ -~]",
        lambda c: c[0] if printable(c[0]) == c[0] else f"\\U{ord(c[0]):08x}",
        text,
    )


def parse_value(name: str, text: str) -> Any:
    """Parses the value of a setting from the command line."""
    kind, optional = kind_of(name)
    if optional and text.lower() in ("", "default"):
        return None
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        return kind(text)
    except (KeyError, ValueError) as error:
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise APINetError(f"{name}={shown(text)} must be {words[kind]}.") from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Parses settings from `name=value` strings."""
    texts = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise APINetError(
                f"--set {assignment!r} is not an assignment; use --set name=value."
            )
        texts[name.strip().replace("-", "_")] = text.strip()
    check_names(texts, "--set")
    return {name: parse_value(name, text) for name, text in texts.items()}


def versions() -> dict[str, str]:
    """Versions of Python, Keras, the backend and NumPy."""
    import keras  # not needed to print a recipe

    versions = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in ("keras-apinet", "keras", keras.backend.backend(), "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describes the differences between two descriptions of a run."""
    found = []
    defaults = {**Recipe().asdict(), **BEFORE}
    for what, old, new in (
        ("", {**defaults, **before["settings"]}, now["settings"]),
        ("data ", before["data"], now["data"]),
        ("version of ", before["versions"], now["versions"]),
    ):
        for name in sorted({*old, *new} - {"load", "held_out"}):
            if old.get(name) != new.get(name):
                found.append(f"{what}{name} was {old.get(name)}, is {new.get(name)}")
    return found
