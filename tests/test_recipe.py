import dataclasses
import json
import os
import sys
import tomllib

import pytest

from keras_apinet import APINetError
from keras_apinet.cli import main, parse
from keras_apinet.train.recipe import Recipe
from keras_apinet.train.recipe_files import parse_assignments, read_settings, to_toml

pytestmark = pytest.mark.one_backend

ODD = Recipe(
    data='C:\\photos "of" birds é',
    weights="none",
    image_size=224,
    weight_decay=1e-05,
    learning_rate=1.0,
    jit_compile=False,
    download=True,
    level="family",
)


@pytest.mark.parametrize("recipe", [Recipe(), ODD])
def test_a_recipe_written_as_toml_is_read_back_equal(recipe, tmp_path):
    (tmp_path / "r.toml").write_text(to_toml(recipe), "utf-8")
    assert Recipe.of(read_settings(tmp_path / "r.toml")) == recipe


def test_the_file_explains_every_setting():
    lines = to_toml(Recipe()).splitlines()
    for field in dataclasses.fields(Recipe):
        place = next(
            i
            for i, line in enumerate(lines)
            if line.startswith(f"{field.name} = ") or line == f"# {field.name} ="
        )
        assert field.metadata["text"] in lines[place - 1]


def test_files_options_and_set_come_on_top_of_each_other(tmp_path, capsys):
    (tmp_path / "r.toml").write_text('epochs = 5\nseed = 3\nbackbone = "resnet50"\n')
    options = ["--seed", "4", "--set", "epochs=7", "--set", "weight-decay=1e-3"]
    assert main(["train", str(tmp_path / "r.toml"), *options, "--print-recipe"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (printed["epochs"], printed["seed"]) == (7, 4)
    assert (printed["backbone"], printed["weight_decay"]) == ("resnet50", 0.001)
    assert not list(tmp_path.glob("*/run.json"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("epochs=3", {"epochs": 3}),
        ("learning_rate = 3e-4", {"learning_rate": 3e-4}),
        ("jit_compile=yes", {"jit_compile": True}),
        ("jit_compile=default", {"jit_compile": None}),
        ("box-crop=false", {"box_crop": False}),
        ("data=a=b", {"data": "a=b"}),
    ],
)
def test_assignments(text, value):
    assert parse_assignments([text]) == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "epochs"], "--set 'epochs' is not an assignment"),
        (["--set", "epoch=3"], "no setting 'epoch' in --set; did you mean 'epochs'?"),
        (["--set", "epochs=many"], "--epochs 'many' must be a whole number"),
        (
            ["--set", "jit_compile=perhaps"],
            "--jit-compile 'perhaps' must be true or false",
        ),
        (["missing.toml"], "'missing.toml' cannot be read"),
        (["bad.toml"], "'bad.toml' cannot be read as TOML"),
        (["typo.toml"], "'learning_rat' in typo.toml; did you mean 'learning_rate'?"),
        (["kind.toml"], "epochs='ten' must be a whole number"),
        (
            ["--memory-size", "9", "--method", "baseline"],
            "--memory-size 9 requires pairs",
        ),
        (["--weight-decay-mode", "l2"], "--weight-decay-mode 'l2' requires --opt"),
        (["--intra", "none", "--inter", "none"], "leave no pairs to learn from"),
        (["--resume", "run", "--out", "other"], "omit --out and the recipe file"),
        ([], "give --out FOLDER"),
    ],
)
def test_what_does_not_fit_is_named(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("epochs = \n")
    (tmp_path / "typo.toml").write_text("learning_rat = 1.0\n")
    (tmp_path / "kind.toml").write_text('epochs = "ten"\n')
    assert main(["train", *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def test_a_recipe_for_a_backend_that_is_absent(tmp_path, monkeypatch, capsys):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "jax" else found(n, *a)
    )
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    arguments = ["train", "--backend", "jax", "--out", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "'jax', which is not installed; pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_for_another_backend_than_the_one_that_runs(tmp_path):
    from keras_apinet.train import train

    with pytest.raises(APINetError, match=r"the backend 'jax'.*KERAS_BACKEND=jax"):
        train(Recipe(backend="jax"), tmp_path / "run", "quiet")
    assert not (tmp_path / "run").exists()


def test_the_head_alone_learns_from_pretrained_weights():
    recipe = Recipe(backbone="mobilenet_v2", epochs=0)
    assert recipe.head_phase_epochs == 30
    assert (
        Recipe(backbone="mobilenet_v2", weights="none", epochs=1).head_phase_epochs == 0
    )
    assert Recipe(epochs=0, head_epochs=3).head_phase_epochs == 3


@pytest.fixture
def begun(tmp_path):
    """The folder of a run that began on JAX, by a recipe for the given backend."""

    def make(backend):
        settings = {**Recipe(backbone="tiny").asdict(), "backend": backend}
        described = {"settings": settings, "versions": {"backend": "jax"}}
        described |= {"class_names": ["a", "b"], "image_size": 32}
        (tmp_path / "run.json").write_text(json.dumps(described))
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("recipe", "option", "given", "expected"),
    [
        ("torch", [], None, "torch"),
        ("torch", [], "torch", "torch"),
        ("torch", ["--backend", "jax"], None, "jax"),
        (None, [], None, "jax"),  # the one that it began on
        (None, [], "torch", "torch"),  # which needs --force, later
    ],
)
def test_a_resumed_run_goes_on_on_its_backend(
    recipe, option, given, expected, begun, monkeypatch
):
    if given is None:
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
    else:
        monkeypatch.setenv("KERAS_BACKEND", given)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    args = parse(["train", "--resume", begun(recipe), *option])
    assert not args.module.prepare(args)
    assert os.environ["KERAS_BACKEND"] == expected


def test_a_resumed_run_for_another_backend_than_the_variables(
    begun, monkeypatch, capsys
):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert main(["train", "--resume", begun("torch")]) == 2
    printed = capsys.readouterr().err
    assert "is for the backend 'torch', and KERAS_BACKEND=tensorflow" in printed
    assert "KERAS_BACKEND=torch" in printed
