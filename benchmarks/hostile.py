"""Hostile inputs, made by the hundred: files that lie, numbers, names.

Each case is a command line or a call of the package with what it is given. It must end
in one sentence that names what is wrong, or do what was asked: never in a traceback.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DEEP = 200_000

# Texts that are no JSON or TOML of any use.
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "text": b'"x"',
    "true": b"true",
    "object": b"{}",
    "cut off": b'{"settings": {"a": ',
    "nul bytes": b"\0" * 64,
    "nul inside": b'{"settings": "a\0b"}',
    "binary": bytes(range(256)) * 4,
    "utf-16": '{"settings": {}}'.encode("utf-16"),
    "utf-32": '{"settings": {}}'.encode("utf-32"),
    "latin-1": '{"settings": {"backbone": "né"}}'.encode("latin-1"),
    "surrogate bytes": b'{"settings": "\xed\xb2\x80"}',
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep and closed": b"[" * DEEP + b"]" * DEEP,
    "NaN": b'{"image_size": NaN}',
    "infinity": b'{"image_size": -Infinity}',
    "too large a number": b'{"image_size": 1e999}',
    "5,000 digits": b'{"image_size": ' + b"9" * 5000 + b"}",
    "twice": b'{"image_size": 1, "image_size": 2}',
    "two documents": b"{}{}",
    "comment": b"{} // so",
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "html": b"<!DOCTYPE html><html></html>",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
    "zip": b"PK\x05\x06" + b"\0" * 18,
}
# In place of any value.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "x",
    "empty text": "",
    "number": -1,
    "huge": 10**30,
    "fraction": 0.5,
    "list": [],
    "nested list": [[[]]],
    "list of null": [None],
    "object": {"a": {"b": []}},
    "nul": "a\0b",
}
# As options of the command line and in recipes.
NUMBERS = (
    *("nan", "inf", "-inf", "1e309", "-1", "-5", "1e12", "1099511627776000"),
    *("9" * 5000, "", " ", "x", "0x10", "1,5", "٣x", "--", "1e", "None"),
)
# Names of classes and files that show more than themselves, or less.
NAMES = {
    "escape": "wren\x1b[31mred\x1b]0;title\x07",
    "carriage return": "wren\rrobin",
    "line feed": "wren\nrobin",
    "both": "wren\r\nrobin",
    "vertical tab": "wren\vrobin",
    "form feed": "wren\frobin",
    "separators": "a\x1cb\x1dc\x1ed",
    "next line": "wren\x85robin",
    "line separator": "wren\u2028robin",
    "paragraph separator": "wren\u2029robin",
    "right to left": "wren\u202egpj.exe",
    "isolates": "\u2066wren\u2069\u200f",
    "zero width": "wr\u200ben\ufeff\u2060",
    "c1 control": "wren\x9b31m",
    "delete": "wren\x7f",
    "backspace": "wren\b\b\b\brat",
    "not utf-8": os.fsdecode(b"wr\xe9n\xff"),
    "lone surrogate": "wren\ud800",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "formula": "=cmd|'/c calc'!A1",
    "markdown": "[x](javascript:alert(1)) `|` # * _",
    "rich markup": "[red]wren[/red] [/]",
    "format": "%s%n{0}{{x}}",
    "spaces": "   ",
    "long": "w" * 200,
    "emoji": "\U0001f469\u200d\U0001f52c",
    "tag": "wren\U000e0041",
}


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: What it is.
        make: Writes what is needed into a folder; gives the arguments of the command
            line, or a call.
        fails: Whether it must be refused; otherwise it may work.
        says: What the sentence must name.
    """

    name: str
    make: Callable[[Path], list[str] | Callable[[], Any]]
    fails: bool = True
    says: str = ""


# What a run folder says of itself when all is well.
RUN: dict[str, Any] = {
    "settings": {"backbone": "tiny", "resize": "fit"},
    "class_names": ["a", "b", "c"],
    "image_size": 32,
    "data": {"load": {"name": "photos", "seed": 0, "validation": 0.1}, "images": {}},
    "versions": {"keras": "3"},
}
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "images": 9}
CONFIDENCE = {**FIGURE, "confidence": 0.9, "accuracy": 0.4, "verdict": None}
EVALUATION: dict[str, Any] = {
    "data": "photos",
    "split": "test",
    "given": False,
    "whole": False,
    "model": "best",
    "images": 9,
    "classes": 3,
    "left_out": 0,
    "unreadable": {"broken.png": "cut off"},
    "metrics": {"top1": FIGURE, "nll": FIGURE, "ece": FIGURE, "macro_f1": FIGURE},
    "confidence": CONFIDENCE,
    "calibrated": {
        "temperature": 1.5,
        "nll": FIGURE,
        "ece": FIGURE,
        "confidence": CONFIDENCE,
        "reason": None,
    },
    "per_class": [
        {
            "class": "a",
            "images": 9,
            "accuracy": 0.5,
            "intervals": {"recall": [0.4, 0.6]},
        }
    ],
    "classes_without_images": [],
    "errors": 4,
    "confused_pairs": [{"classes": ["a", "b"], "errors": 3, "of": 4}],
    "groups": {},
    "warnings": ["Only 9 images."],
}
CALIBRATION: dict[str, Any] = {
    "temperature": 1.5,
    "reason": None,
    "method": "likelihood",
    "images": 9,
    "right": 5,
    "ece_before": 0.3,
    "nll_before": 2.0,
    "ece_after": 0.2,
    "nll_after": 1.0,
    "model": "best",
    "weights": "39153d6e9839df63",
}
CLASSIFIER: dict[str, Any] = {
    "class_names": ["a", "b", "c"],
    "image_size": 32,
    "resize": "fit",
    "temperature": 1.0,
}
FILES = {
    "run.json": RUN,
    "evaluation_test.json": EVALUATION,
    "calibration.json": CALIBRATION,
}


def write_run(folder: Path, **contents: bytes) -> list[str]:
    """Writes an evaluated run without a model, some files of it as given.

    Returns:
        The command that reads all of it but the temperature, which goes with a model.
    """
    for name, content in FILES.items():
        given = contents.get(name.split("_")[0].split(".")[0])
        (folder / name).write_bytes(
            json.dumps(content).encode() if given is None else given
        )
    return ["card", str(folder)]


def read_run(folder: Path, **contents: bytes) -> list[str] | Callable[[], Any]:
    """As `write_run`, and what reads the one file that is given."""
    from keras_apinet.runs import Run

    command = write_run(folder, **contents)
    if "calibration" in contents:
        return lambda: Run.open(folder).read("calibration.json")
    return command


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one value replaced."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = changed(content[path[0]], path[1:], value)
    return copy


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a nested value."""
    if path:
        yield path
    if isinstance(content, (dict, list)):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from places(value, (*path, key))


def run_files() -> Iterator[Case]:
    """Run folders that lie."""
    for name, good in FILES.items():
        short = name.split("_")[0].split(".")[0]
        for kind, content in CONTENTS.items():
            # An empty calibration file would be one without a temperature.
            yield Case(
                f"{name}: {kind}",
                lambda folder, s=short, c=content: read_run(folder, **{s: c}),
                says=name,
            )
        for path in places(good):
            at = ".".join(map(str, path))
            for kind, value in VALUES.items():
                text = json.dumps(changed(good, path, value)).encode()
                yield Case(
                    f"{name}: {at} is {kind}",
                    lambda folder, s=short, c=text: read_run(folder, **{s: c}),
                    fails=False,
                )
            if len(path) == 1:
                rest = {k: v for k, v in good.items() if k != path[0]}
                text = json.dumps(rest).encode()
                yield Case(
                    f"{name}: without {at}",
                    lambda folder, s=short, c=text: read_run(folder, **{s: c}),
                    # Of a temperature, only itself is needed.
                    fails=name.startswith("evaluation")
                    or path[0] in ("settings", "class_names", "image_size")
                    or path[0] == "temperature",
                )
    for size in (10_000_000, 0, -1, 4097, 1.5, "32"):
        text = json.dumps({**RUN, "image_size": size}).encode()
        yield Case(
            f"run.json: image_size is {size!r}",
            lambda folder, c=text: read_run(folder, run=c),
            says="image_size",
        )
    for temperature in (0, -1.0, 1e300, "1"):
        text = json.dumps({**CALIBRATION, "temperature": temperature}).encode()
        yield Case(
            f"calibration.json: temperature is {temperature!r}",
            lambda folder, c=text: read_run(folder, calibration=c),
            says="temperature",
        )
    for names in (["a", "a"], ["a", 1], [], [None], "abc", {"a": 1}):
        text = json.dumps({**RUN, "class_names": names}).encode()
        yield Case(
            f"run.json: class_names is {names!r}",
            lambda folder, c=text: read_run(folder, run=c),
            says="class_names",
        )
    yield Case("run.json: gigabytes", _sparse, says="bytes")
    for kind in ("folder", "link to nothing", "loop of links", "pipe"):
        yield Case(f"run.json: {kind}", lambda folder, k=kind: _odd(folder, k))


def _sparse(folder: Path) -> list[str]:
    arguments = write_run(folder)
    with (folder / "run.json").open("wb") as file:
        file.truncate(3 * 2**30)
    return arguments


def _odd(folder: Path, kind: str) -> list[str]:
    arguments = write_run(folder)
    path = folder / "run.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    elif kind == "loop of links":
        path.symlink_to("run.json")
    elif kind == "pipe":
        os.mkfifo(path)
    return arguments


def recipes() -> Iterator[Case]:
    """Recipes that do not fit."""
    from keras_apinet.train import Recipe

    def written(folder: Path, content: bytes) -> list[str]:
        (folder / "recipe.toml").write_bytes(content)
        return ["train", str(folder / "recipe.toml"), "--print-recipe"]

    for kind, content in CONTENTS.items():
        if kind != "nothing":  # a recipe may leave everything open
            yield Case(
                f"recipe: {kind}",
                lambda folder, c=content: written(folder, c),
                says="recipe.toml",
            )
    deep = {
        "deep array": b"a = " + b"[" * DEEP,
        "deep table": b"[" + b"a." * DEEP + b"a]",
        "a setting twice": b"seed = 1\nseed = 2",
        "tables": b"[seed]\nx = 1",
        "date": b"seed = 2020-01-01",
        "nul": b'data = "a\\u0000b"',
    }
    for kind, content in deep.items():
        yield Case(f"recipe: {kind}", lambda folder, c=content: written(folder, c))
    for field in dataclasses.fields(Recipe):
        for value in ("nan", "inf", "-inf", "-1", "1e300", "[]", "{}", '"x"', "1" * 40):
            numeric = isinstance(field.default, (int, float)) and not isinstance(
                field.default, bool
            )
            yield Case(
                f"recipe: {field.name} = {value[:9]}",
                lambda folder, n=field.name, v=value: written(
                    folder, f"{n} = {v}".encode()
                ),
                fails=numeric,
                says=field.name if numeric else "",
            )


OPTIONS = {
    "data": ("seed", "validation", "image-size", "classes-per-batch"),
    "evaluate": ("batch-size", "bootstrap"),
    "predict": ("top",),
    "export": ("image-size", "min-agreement", "max-difference"),
    "train": ("devices", "model-devices", "processes", "process-index"),
}


def options() -> Iterator[Case]:
    """Numbers of every command."""
    from keras_apinet.train import Recipe

    every = {name: list(values) for name, values in OPTIONS.items()}
    every["data"].append("images-per-class")
    for field in dataclasses.fields(Recipe):
        kind = type(field.default)
        if kind in (int, float):
            every["train"].append(field.name.replace("_", "-"))
    others = {"data": ["x"], "evaluate": ["x"], "predict": ["x", "y"], "export": ["x"]}
    for command, names in every.items():
        for name in names:
            for value in NUMBERS:
                line = [command, *others.get(command, []), f"--{name}={value}"]
                fails = True  # at the latest because there is no such data
                if command == "train":
                    line += ["--print-recipe"]  # some are numbers, and train for long
                    # argparse takes "--" for the end of the options.
                    may = ("-1", "-5", "1e12", "1099511627776000", "--")
                    fails = value not in may
                yield Case(
                    f"{command} --{name}={value[:9]!r}", lambda f, a=line: a, fails
                )


def descriptions() -> Iterator[Case]:
    """TFLite files whose description lies."""
    from keras_apinet.export import load_classifier

    def load(folder: Path, content: bytes) -> Callable[[], Any]:
        buffer = io.BytesIO(b"\0\0\0\0TFL3" + b"\0" * 8)
        buffer.seek(0, io.SEEK_END)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("classifier.json", content)
            archive.writestr("sha256.txt", "0")
        path = folder / "model.tflite"
        path.write_bytes(buffer.getvalue())
        return lambda: load_classifier(path)

    for kind, content in CONTENTS.items():
        yield Case(
            f"classifier.json: {kind}",
            lambda folder, c=content: load(folder, c),
            says="model.tflite",
        )
    for path in places(CLASSIFIER):
        for kind, value in VALUES.items():
            text = json.dumps(changed(CLASSIFIER, path, value)).encode()
            yield Case(
                f"classifier.json: {'.'.join(map(str, path))} is {kind}",
                lambda folder, c=text: load(folder, c),
                says="model.tflite",
            )


def calls() -> Iterator[Case]:
    """Numbers of the Python functions."""
    from keras_apinet import data
    from keras_apinet.backbones import create
    from keras_apinet.evaluate import evaluate_run
    from keras_apinet.train import Devices, Recipe

    bad = (float("nan"), float("inf"), -1, 2**70, "1", None, True, [], 1e300)
    photos = np.zeros((4, 8, 8, 3), "uint8")
    labels = np.array([0, 0, 1, 1])
    sizes = {"image_size": 8, "images_per_class": 2, "classes_per_batch": 2}

    def evaluated(folder: Path, name: str, value: Any) -> Callable[[], Any]:
        write_run(folder)
        return lambda: evaluate_run(folder, **{name: value})

    for value in bad:
        yield Case(f"Recipe(seed={value!r})", lambda f, v=value: lambda: Recipe(seed=v))
        yield Case(
            f"Devices(processes={value!r})",
            lambda f, v=value: lambda: Devices(processes=v),
        )
        yield Case(
            f"create(image_size={value!r})",
            lambda f, v=value: lambda: create("tiny", v, None),
            fails=value is not None,
        )
        for name in ("batch_size", "bootstrap"):
            yield Case(
                f"evaluate_run({name}={value!r})",
                lambda folder, n=name, v=value: evaluated(folder, n, v),
            )
        for name in ("images_per_class", "classes_per_batch", "image_size"):
            yield Case(
                f"balanced_batches({name}={value!r})",
                lambda f, n=name, v=value: (
                    lambda: data.balanced_batches(
                        (photos, labels),
                        **{**sizes, n: v},
                    )
                ),
            )


def everything() -> Iterator[Case]:
    """All cases that need no model."""
    for source in (run_files, recipes, options, descriptions, calls):
        yield from source()


def trouble(case: Case, folder: Path) -> str | None:
    """Runs a case in this process, in an empty folder; says what is wrong, if it is."""
    from keras_apinet.cli import main
    from keras_apinet.errors import APINetError, printable

    target = case.make(folder)
    before = snapshot(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = main(target) if isinstance(target, list) else target() and 0
        except APINetError as error:
            code = 2
            err.write(f"keras-apinet: error: {error}")
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:500]
    said = err.getvalue().strip()
    if code not in (0, None, 2) or (case.fails and code != 2):
        return f"exit code {code}: {said[-300:]}"
    if code == 2 and not said.startswith("keras-apinet: error: "):
        return f"no error: {said[-300:]}"
    if said != printable(said):
        return f"several lines or control codes: {said[:300]!r}"
    if printable(out.getvalue(), keep="\n") != out.getvalue():
        return f"control codes: {out.getvalue()[:300]!r}"
    if len(said) > 2000:
        return f"a sentence of {len(said)} characters"
    if code == 2 and case.says not in said:
        return f"{case.says!r} is not named: {said[:300]}"
    after = snapshot(folder)
    lost = [name for name, digest in before.items() if after.get(name) != digest]
    return f"changed {lost}" if lost else None


def snapshot(folder: Path) -> dict[str, str]:
    """The files below a folder, and digests of those of a usual size."""
    found = {}
    for path in sorted(folder.rglob("*")):
        small = path.is_file() and path.stat().st_size < 2**24
        content = path.read_bytes() if small else b""
        found[os.fspath(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found
