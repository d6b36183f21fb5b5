"""Files with earlier names still load; people who write them are told the new ones."""

import json

import pytest

import keras_apinet
from keras_apinet import APINetError, layers
from keras_apinet.cli import main
from keras_apinet.export.runtime.classifier_info import ClassifierInfo
from keras_apinet.runs import Run
from keras_apinet.train import Recipe

# What the configuration of a model and the settings of a run said before.
MODEL = {"mining": "strategy", "num_partners": "partners", "memory_size": "memory"}
MODEL |= {"freeze_fraction": "frozen"}
SETTINGS = {
    "warmup_epochs": 3,
    "warmup_cached": False,
    "rising": 0.25,
    "accumulate": 2,
    "jit": False,
    "ema": 0.5,
    "memory": 7,
    "frozen": 0.5,
    "views": 4,
    "views_dir": "kept",
}


def test_a_model_of_before_loads(tmp_path):
    model = keras_apinet.build(
        "tiny",
        3,
        32,
        None,
        mining=("farthest", "random"),
        num_partners=(2, 1),
        memory_size=5,
        freeze_fraction=0.5,
        mutual_units=4,
    )
    config = model.get_config()
    before = {MODEL.get(name, name): value for name, value in config.items()}
    assert {*MODEL.values()} <= before.keys()
    again = keras_apinet.APINet.from_config(before)
    for name, value in model.get_config().items():
        if name not in ("backbone", "scaling"):
            assert again.get_config()[name] == value
    assert again.miner.strategies == ("farthest", "random")
    assert (again.memory.size, again.freeze_fraction) == (5, 0.5)
    miner = layers.PairMiner.from_config({"strategy": "random", "partners": 2})
    assert miner.num_partners == (2, 2)


@pytest.mark.one_backend
def test_a_run_of_before_says_the_same(tmp_path):
    settings = {"weights": "tiny.h5", **SETTINGS}
    description = {"settings": settings, "class_names": ["a", "b"], "image_size": 32}
    (tmp_path / "run.json").write_text(json.dumps(description))
    recipe = Recipe.of(Run.open(tmp_path).settings)
    assert recipe.head_epochs == 3
    assert recipe.cached_head_features is False
    assert recipe.warmup_fraction == 0.25
    assert recipe.gradient_accumulation_steps == 2
    assert recipe.jit_compile is False
    assert recipe.ema_momentum == 0.5
    assert recipe.memory_size == 7
    assert recipe.freeze_fraction == 0.5
    assert (recipe.cached_views, recipe.cached_views_dir) == (4, "kept")


@pytest.mark.one_backend
def test_an_export_of_before_keeps_its_license():
    text = json.dumps(
        {"class_names": ["a", "b"], "image_size": 32, "licence": "CC-BY-4.0"}
    )
    assert ClassifierInfo.from_json(text, "birds.tflite").license == "CC-BY-4.0"
    with pytest.raises(APINetError, match="license=5 must be"):
        ClassifierInfo.from_json(text.replace('"CC-BY-4.0"', "5"), "birds.tflite")


@pytest.mark.one_backend
@pytest.mark.parametrize("name", SETTINGS)
def test_people_are_told_the_new_name(name, tmp_path, capsys):
    recipe = tmp_path / "old.toml"
    recipe.write_text(f"{name} = 1\n")
    assert main(["train", str(recipe), "--print-recipe"]) == 2
    assert f"'{name}' in {recipe} is now called" in capsys.readouterr().err


@pytest.mark.one_backend
@pytest.mark.parametrize(("old", "new"), [("views", "cached-views"), ("rising", "")])
def test_an_option_of_before_is_named(old, new, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", f"--{old}", "1"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"'--{old}' is now called '--{new or 'warmup-fraction'}'" in said
