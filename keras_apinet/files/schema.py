"""Shapes that describe the content of JSON and TOML files, and readers that check them.

A shape is written with plain Python values:

```
str, bool, int, float        a value of this type; numbers are finite
Number(int, 1, 4096)         a number within bounds
"fit"                        this text
None                         null
(None, str)                  one of these
[str]                        a list of these
{"name": str, "size?": int}  an object; keys with ? may be absent, others are ignored
{"name": str, ...: str}      an object whose other keys all hold this
```
"""

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_apinet.errors import APINetError, printable, reason
from keras_apinet.files.bounds import Number, shown

Shape = Any
# The files list classes and figures, which takes a megabyte for ten thousand classes.
LARGEST_FILE = 64 * 2**20
# A recipe is a page of text, and parsing keys takes time quadratic in their depth.
LARGEST_TOML = 2**16
# Names of arguments and settings in files from before version 0.2.
NEW_NAMES = {
    "accumulate": "gradient_accumulation_steps",
    "ema": "ema_momentum",
    "frozen": "freeze_fraction",
    "jit": "jit_compile",
    "licence": "license",
    "memory": "memory_size",
    "partners": "num_partners",
    "rising": "warmup_fraction",
    "strategy": "mining",
    "views": "cached_views",
    "views_dir": "cached_views_dir",
    "warmup_cached": "cached_head_features",
    "warmup_epochs": "head_epochs",
}
# For a file that cannot be recreated; the errors of other files say how they can.
DAMAGED = "it is damaged"


def with_new_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces old names in the content of a file by the current ones."""
    return {NEW_NAMES.get(name, name): value for name, value in content.items()}


def names_of_classes(value: Any) -> str | None:
    """Checks for a non-empty list of different strings; usable as a shape."""
    if not isinstance(value, list) or not value:
        return "a list of names"
    if not all(isinstance(name, str) for name in value):
        return "a list of texts"
    twice = len(value) - len({printable(name) for name in value})
    return "a list without repetitions" if twice else None


def check(value: Any, shape: Shape, where: str, remedy: str = DAMAGED) -> None:
    """Checks the content of a file; errors end with `remedy`, which says what to do."""
    wrong = _wrong(value, shape, "")
    if wrong:
        raise APINetError(f"{where!r} cannot be used: {wrong}; {remedy}.")


def _wrong(value: Any, shape: Shape, at: str) -> str | None:
    """Describes the first violation of a shape."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _must_be(at, value, "an object")
        rest = dict(value)
        for key, inner in shape.items():
            if key is ...:
                continue
            name = key.removesuffix("?")
            if name not in rest:
                if key == name:
                    return f"{_key(at, name)} is missing"
                continue
            wrong = _wrong(rest.pop(name), inner, _key(at, name))
            if wrong:
                return wrong
        inner = shape.get(..., object)
        found = (_wrong(item, inner, _key(at, name)) for name, item in rest.items())
        return next(filter(None, found), None)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _must_be(at, value, "a list")
        items = enumerate(value)
        found = (_wrong(item, shape[0], f"{at}[{i}]") for i, item in items)
        return next(filter(None, found), None)
    if isinstance(shape, tuple):
        tried = [_wrong(value, inner, at) for inner in shape]
        if None in tried:
            return None
        nested = [
            w for w, inner in zip(tried, shape, strict=True) if _alike(value, inner)
        ]
        return next(iter(nested), None) or _must_be(
            at, value, " or ".join(map(_words, shape)) or "absent"
        )
    if callable(shape) and not isinstance(shape, (type, Number)):
        words = shape(value)
        return _must_be(at, value, words) if words else None
    return None if _fits(value, shape) else _must_be(at, value, _words(shape))


def _alike(value: Any, shape: Shape) -> bool:
    return isinstance(shape, (dict, list)) and isinstance(value, type(shape))


def _fits(value: Any, shape: Shape) -> bool:
    if isinstance(shape, Number):
        return shape.fits(value)
    if shape in (int, float):
        return Number(shape).fits(value)
    if shape is str:
        return isinstance(value, str) and "\0" not in value
    if isinstance(shape, type):
        return isinstance(value, shape)
    return bool(value == shape) and type(value) is type(shape)


def _words(shape: Shape) -> str:
    words = {None: "null", bool: "true or false", str: "a text", dict: "an object"}
    if isinstance(shape, (dict, list)):
        return "an object" if isinstance(shape, dict) else "a list"
    if shape in (int, float):
        shape = Number(shape)
    return words[shape] if shape in words else str(shape)


def _key(at: str, name: str) -> str:
    return printable(f"{at}.{name}" if at else name)[:200]


def _must_be(at: str, value: Any, words: str) -> str:
    return f"{at + '=' if at else 'it holds '}{shown(value)} must be {words}"


def read_json(path: Path, shape: Shape, remedy: str = DAMAGED) -> Any:
    """Reads a JSON file, which must be valid UTF-8 and match a shape; see `check`."""
    return parse_json(read_content(path), shape, str(path), remedy)


def parse_json(
    content: bytes | str, shape: Shape, where: str, remedy: str = DAMAGED
) -> Any:
    """Parses JSON text; see `read_json`."""
    options: dict[str, Any] = {
        "object_pairs_hook": _without_repetitions,
        "parse_constant": _no_number,
    }
    value = _parsed(
        content, lambda text: json.loads(text, **options), "JSON", where, remedy
    )
    check(value, shape, where, remedy)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file in UTF-8, of at most `LARGEST_TOML`."""
    content: dict[str, Any] = _parsed(
        read_content(path, LARGEST_TOML), tomllib.loads, "TOML", str(path)
    )
    return content


def to_json(content: Any, indent: int | None = 2) -> str:
    """Formats plain values as JSON text that is safe to show in a terminal.

    Non-finite figures become `null`, which every reader understands.
    """
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=False)
    # Line breaks only come from the layout, because `json` escapes those in strings.
    return re.sub(
        r"[^\n -~]",
        lambda c: c[0] if printable(c[0]) == c[0] else json.dumps(c[0])[1:-1],
        text,
    ).replace("\x7f", "\\u007f")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def read_content(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """Reads the bytes of a regular file of at most `largest` bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise APINetError(f"{str(path)!r} is not a file that can be read.")
        if status.st_size > largest:
            raise APINetError(
                f"{str(path)!r} has {status.st_size:,} bytes, but such a file has at "
                f"most {largest:,}; it is damaged or something else."
            )
        with path.open("rb") as file:
            return file.read(largest + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, APINetError):
            raise
        raise APINetError(
            f"{os.fspath(path)!r} cannot be read ({reason(error)}); give another."
        ) from error


def _parsed(
    content: bytes | str,
    parse: Callable[[str], Any],
    language: str,
    where: str,
    remedy: str = DAMAGED,
) -> Any:
    try:
        if isinstance(content, bytes):
            content = content.decode("utf-8-sig")
        return parse(content)
    except UnicodeDecodeError as error:
        why = f"it is not UTF-8 text, at byte {error.start}"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        why = reason(error)
    raise APINetError(f"{where!r} cannot be read as {language} ({why}); {remedy}.")


def _without_repetitions(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {shown(key)} occurs twice")
        content[key] = value
    return content


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a valid JSON number")
