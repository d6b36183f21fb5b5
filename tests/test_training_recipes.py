"""The recipes in training/: each one loads, says what it is, and runs."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from factories import pattern_folders

from keras_apinet import backbones
from keras_apinet.cli import main
from keras_apinet.train import Recipe
from keras_apinet.train.recipe_files import read_settings

pytestmark = pytest.mark.one_backend

FOLDER = Path(__file__).parents[1] / "training"
RECIPES = sorted(FOLDER.glob("*.toml"))


# Top-1 in per cent: with resnet50, resnet101 and densenet161.
PUBLISHED = {
    "caltech_birds2011": [87.7, 88.6, 90.0],
    "data/fgvc-aircraft-2013b": [93.0, 93.4, 93.9],
    "cars196": [94.8, 94.9, 95.3],
    "stanford_dogs": [88.3, 90.3, 89.4],
    "data/nabirds": [86.2, 86.7, 88.1],
}


def test_the_published_results_are_all_there():
    text = (FOLDER / "paper.toml").read_text("utf-8")
    assert re.search("--data +resnet50 +resnet101 +densenet161\n", text)
    rows = re.findall(r"^# \w+ +(\S+) +([\d.]+) +([\d.]+) +([\d.]+)$", text, re.M)
    assert {data: [*map(float, rest)] for data, *rest in rows} == PUBLISHED


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "densenet161"])
@pytest.mark.parametrize("data", PUBLISHED)
def test_the_command_line_picks_a_published_result(data, backbone, capsys):
    flags = ["--data", data, "--backbone", backbone]
    assert main(["train", str(FOLDER / "paper.toml"), *flags, "--print-recipe"]) == 0
    found = tomllib.loads(capsys.readouterr().out)
    assert (found.pop("data"), found.pop("backbone")) == (data, backbone)
    plain = read_settings(FOLDER / "paper.toml")
    del plain["data"], plain["backbone"]
    assert plain.items() <= found.items()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_says_what_it_is(path):
    text = path.read_text("utf-8")
    assert text.startswith("#!/usr/bin/env -S keras-apinet train\n")
    assert os.access(path, os.X_OK)
    for word in ("Data ", "Hardware ", "Time ", "Accuracy "):
        assert re.search(f"^# {word} +\\S", text, re.MULTILINE)
    assert f"keras-apinet train training/{path.name} --out" in text
    recipe = Recipe.of(read_settings(path), path.name)
    name = recipe.backbone
    if ":" not in name:
        assert name in {info.name for info in backbones.available()}
    assert recipe.epochs + (recipe.head_epochs or 0) <= 100


def test_the_papers_recipe_has_the_published_settings():
    recipe = read_settings(FOLDER / "paper.toml")
    assert recipe["head_epochs"] + recipe["epochs"] == 100
    assert (recipe["classes_per_batch"], recipe["images_per_class"]) == (30, 4)
    assert (recipe["optimizer"], recipe["learning_rate"]) == ("sgd", 0.01)
    assert (recipe["schedule"], recipe["weight_decay"]) == ("cosine", 5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "cub_resnet50_16gb"])
def test_a_recipe_runs_as_a_program(name, tmp_path):
    """With another data set and a small backbone, as no photos are here."""
    changes = {
        "data": str(pattern_folders(tmp_path / "photos", 60, 6)),
        "group_by": "none",
        "backbone": "tiny",
        "weights": "none",
        "image_size": 32,
        "head_epochs": 1,
        "epochs": 1,
        "steps_per_epoch": 3,
        "classes_per_batch": 6,
        "dtype": "float32",
    }
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(FOLDER / f"{name}.toml"), "--out", str(tmp_path / "run"), "--plain"]
        + [f"--set={key}={value}" for key, value in changes.items()],
        env={**os.environ, "PATH": tools},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Epoch 1/1 " in done.stdout
    assert (tmp_path / "run" / "best.keras").is_file()


@pytest.mark.slow
def test_densenet161_weights_from_torch(rng):
    """Against the network in torch, from the published description."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional as f

    state = {}

    def conv(name, into, out, size):
        scale = (2 / (into * size * size)) ** 0.5
        state[f"{name}.weight"] = rng.normal(0, scale, (out, into, size, size))

    def norm(name, channels):
        state[f"{name}.weight"] = rng.uniform(0.5, 1.5, channels)
        state[f"{name}.bias"] = rng.normal(0, 0.1, channels)
        state[f"{name}.running_mean"] = rng.normal(0, 0.1, channels)
        state[f"{name}.running_var"] = rng.uniform(0.5, 1.5, channels)

    depths, growth, channels = (6, 12, 36, 24), 48, 96
    conv("features.conv0", 3, 96, 7)
    norm("features.norm0", 96)
    for block, depth in enumerate(depths, 1):
        for layer in range(1, depth + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            norm(f"{name}.norm1", channels)
            conv(f"{name}.conv1", channels, 4 * growth, 1)
            norm(f"{name}.norm2", 4 * growth)
            conv(f"{name}.conv2", 4 * growth, growth, 3)
            channels += growth
        if block < 4:
            norm(f"features.transition{block}.norm", channels)
            conv(f"features.transition{block}.conv", channels, channels // 2, 1)
            channels //= 2
    norm("features.norm5", channels)
    state = {name: value.astype("float32") for name, value in state.items()}

    tensors = {name: torch.from_numpy(value) for name, value in state.items()}

    def relu_norm(x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return f.relu(f.batch_norm(x, *(tensors[f"{name}.{p}"] for p in parts)))

    def plain(x, name, **options):
        return f.conv2d(x, tensors[f"{name}.weight"], **options)

    images = rng.normal(0, 1, (2, 64, 64, 3)).astype("float32")
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    x = relu_norm(plain(x, "features.conv0", stride=2, padding=3), "features.norm0")
    x = f.max_pool2d(x, 3, 2, 1)
    for block, depth in enumerate(depths, 1):
        for layer in range(1, depth + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            y = plain(relu_norm(x, f"{name}.norm1"), f"{name}.conv1")
            y = plain(relu_norm(y, f"{name}.norm2"), f"{name}.conv2", padding=1)
            x = torch.cat([x, y], 1)
        if block < 4:
            name = f"features.transition{block}"
            x = f.avg_pool2d(plain(relu_norm(x, f"{name}.norm"), f"{name}.conv"), 2)
    expected = relu_norm(x, "features.norm5").numpy().transpose(0, 2, 3, 1)

    script = FOLDER / "densenet161_weights.py"
    spec = importlib.util.spec_from_file_location("densenet161_weights", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.convert(state, image_size=64)
    found = np.asarray(model(images, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
