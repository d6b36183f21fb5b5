"""What the documentation shows runs: docstring examples, README commands and code."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_apinet
from keras_apinet import APINetError
from keras_apinet.cli import parser

README = Path(__file__).parent.parent / "README.md"
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(keras_apinet.__path__, "keras_apinet.")
    if not info.name.endswith("__main__")
)


def of_each_backend(name):
    """What computes with Keras runs on each backend, everything else on one."""
    rooms = {"layers", "losses", "optimizers", "backbones", "model", "loading", "train"}
    return () if name.split(".")[1] in rooms else pytest.mark.one_backend


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=of_each_backend(name)) for name in MODULES]
)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    names = {**vars(module), "np": np, "keras": keras, "ops": keras.ops}
    names |= {"keras_apinet": keras_apinet}
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, extraglobs=names, optionflags=flags)
    assert result.failed == 0


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.S)


@pytest.mark.one_backend
def test_readme_commands_are_commands():
    lines = [line for block in blocks("") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("keras-apinet ")]
    assert len(commands) >= 4
    for line in commands:
        parser().parse_args(shlex.split(line.split(" > ")[0])[1:])


@pytest.mark.slow
@pytest.mark.one_backend
def test_readme_code_runs(tmp_path, monkeypatch):
    """On drawn birds and random weights, in place of downloads."""
    (code,) = blocks("python")
    load, build = keras_apinet.data.load, keras_apinet.build
    birds = load("synthetic_birds")
    few = {
        name: split.take(np.arange(0, len(split), 15))
        for name, split in birds.splits.items()
    }
    monkeypatch.setattr(
        keras_apinet.data,
        "load",
        lambda name, **options: type(birds)(name, birds.class_names, few),
    )
    monkeypatch.setattr(
        keras_apinet,
        "build",
        lambda name, num_classes, class_names: build(
            {"efficientnet": "tiny"}[name],
            18,
            image_size=64,
            weights=None,
            class_names=class_names,
        ),
        raising=False,
    )
    monkeypatch.chdir(tmp_path)
    for real, small in (
        ("image_size=224", "image_size=64"),
        ("classes_per_batch=30", "classes_per_batch=18"),
        ("epochs=20", "epochs=1"),
    ):
        assert real in code
        code = code.replace(real, small)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "birds.tflite").stat().st_size > 1_000_000


def test_errors_are_value_errors():
    assert issubclass(APINetError, ValueError)
