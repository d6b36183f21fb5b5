"""A training in a given time: nothing here takes or measures time of its own."""

import dataclasses
import itertools

import numpy as np
import pytest
from factories import photos_and_weights

from keras_apinet import APINetError
from keras_apinet.cli import main
from keras_apinet.runs import Run
from keras_apinet.train import Budget, Recipe, resume, train
from keras_apinet.train.budget import choice
from keras_apinet.train.budget.pace import Pace
from keras_apinet.train.budget.trial import Costs, Trial, measured
from keras_apinet.train.cached_views import stored_views
from keras_apinet.train.devices import Devices, place
from keras_apinet.train.progress import Console
from keras_apinet.train.setup import own_globals, prepare

FROZEN = {"weights": "a.h5", "freeze_fraction": 0.5}
# An epoch of 50 batches takes 6 s, and a minute is over before the first.
COSTS = Costs(once=60, step=0.1, steps=50, epoch_end=1)
# Besides, the head takes 10 s and 0.5 s an epoch, and a view of all images 8 s.
WITH_HEAD = dataclasses.replace(COSTS, head_start=10, head_epoch=0.5, view=8)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("settings", "costs", "left", "changes", "said"),
    [
        # 120 s are left after the first 60, for 20 epochs of 6 s.
        ({}, COSTS, 180, {"epochs": 20}, "In 4 minutes: 20 epochs, 6 s each"),
        ({}, COSTS, 185, {"epochs": 20}, "In 4 minutes: 20 epochs, 6 s each"),
        # 40 s are too much to lose, so a fourth epoch of 50 s as they are: 230 s for
        # 4 epochs are 57.5 s, of which 7.5 for saving and 50 for batches of 10 s.
        (
            {},
            Costs(once=60, step=10, steps=6, epoch_end=7.5),
            290,
            {"epochs": 4, "steps_per_epoch": 5},
            "In 4 minutes: 4 epochs of 5 batches, 58 s each",
        ),
        # One more validation would cost more than the rest holds: 38 s are 3 epochs
        # of 11 s, and 4 epochs would have no time for any batch.
        (
            {},
            Costs(once=0, step=0.1, steps=10, epoch_end=10),
            38,
            {"epochs": 3},
            "In 4 minutes: 3 epochs, 11 s each",
        ),
        # No recipe has more epochs than a million.
        (
            {},
            Costs(once=0, step=1e-5, steps=1, epoch_end=0),
            200,
            {"epochs": 1_000_000},
            "1000000 epochs",
        ),
        # Of 10 batches, not 11, if batches go in pairs; as the recipe says, if it does.
        (
            {"steps_per_execution": 2},
            Costs(once=60, step=5, steps=12, epoch_end=7.5),
            312,
            {"epochs": 4, "steps_per_epoch": 10},
            "In 4 minutes: 4 epochs of 10 batches, 58 s each",
        ),
        (
            {"steps_per_epoch": 6},
            Costs(once=60, step=10, steps=6, epoch_end=7.5),
            290,
            {"epochs": 3},
            "In 4 minutes: 3 epochs, 1:08 each",
        ),
        # 60 + 8 x 8 + 10 + 30 x 0.5 = 149 s come first; then 31 s for 5 epochs.
        ({**FROZEN, "cached_views": 8}, WITH_HEAD, 180, {"epochs": 5}, "5 epochs, 6 s"),
        # With 4 views 117 s: 33 s are left, where 8 views left 1 s.
        (
            {**FROZEN, "cached_views": 8},
            WITH_HEAD,
            150,
            {"epochs": 5, "cached_views": 4},
            "In 4 minutes: 5 epochs, 6 s each; more than 4 views do not fit",
        ),
        # With 2 views and 15 head epochs 93.5 s; with 30 of them 101, and 18 to go.
        (
            {**FROZEN, "cached_views": 8},
            WITH_HEAD,
            113,
            {"epochs": 3, "cached_views": 2, "head_epochs": 15},
            "In 4 minutes: 3 epochs, 6 s each; more than 2 views and "
            "15 head epochs do not fit",
        ),
    ],
)
def test_as_many_epochs_as_fit(settings, costs, left, changes, said):
    recipe = Recipe(**settings)
    found, told = choice.chosen(recipe, costs, left, minutes=4)
    assert found == dataclasses.replace(recipe, **changes)
    assert said in told


@pytest.mark.one_backend
def test_too_short_a_time_is_told_what_it_needs():
    """60 s, then 2 views, 5 head epochs and 3 epochs: 60 + 16 + 12.5 + 18 = 106.5 s."""
    recipe = Recipe(**FROZEN, cached_views=8)
    said = "minutes=1 is too short: 3 epochs .* 1.9 minutes .* at least that many"
    with pytest.raises(APINetError, match=said):  # 5 % more are 1.86 minutes
        choice.chosen(recipe, WITH_HEAD, left=60, minutes=1)


@pytest.mark.one_backend
def test_a_pace_leaves_out_the_first_batch_and_those_that_waited():
    # 30 s of compiling; four that were ready; then 2 s each.
    times = [0, 30, 30.1, 30.2, 30.3, *np.arange(32.3, 60, 2)]
    pace = Pace(10, clock=iter(times).__next__)
    enough = [pace.reached(done) for done in range(1, 12)]
    assert enough == [False] * 8 + [True] * 3  # 40 s are reached with the ninth
    assert pace.each == pytest.approx(2)
    assert pace.first == pytest.approx(28)


@pytest.mark.one_backend
def test_a_pace_of_few_or_grouped_batches():
    pace = Pace(1, clock=itertools.count(0, 5).__next__)
    assert not pace.reached(4)
    assert pace.each == 5 / 4
    assert not pace.reached(8)  # over the limit, but of one group alone
    assert pace.reached(12)
    assert (pace.each, pace.first) == (5 / 4, 0)


@pytest.mark.one_backend
def test_a_pace_counts_batches_once_they_are_used():
    used = []
    pace = Pace(100, clock=lambda: 10 * len(used))
    for batch in pace.over("abc"):
        used.append(batch)
    assert (used, pace.marks) == (["a", "b", "c"], [(0, 0), (10, 1), (20, 2), (30, 3)])
    pace = Pace(0, clock=lambda: 0)
    assert list(pace.over("abcdefg")) == ["a", "b", "c"]


@pytest.fixture
def settings(tmp_path, rng):
    return {
        **photos_and_weights(tmp_path, rng),
        **{"group_by": "none", "image_size": 32, "validation": 0.3, "head_epochs": 2},
        **{"classes_per_batch": 3, "images_per_class": 2, "mutual_units": 8},
        **{"memory_size": 8, "ema_momentum": 0.9},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"freeze_fraction": 0.5, "cached_views": 3},
        {"cached_head_features": False, "validation": 0.0},
    ],
)
def test_measuring_leaves_the_model_as_it_was(settings, changes, tmp_path):
    recipe = Recipe(**{**settings, **changes})
    with own_globals(), place(Devices()) as placement:
        setup = prepare(recipe, placement, Console("quiet"))
        before = [np.array(w) for w in setup.model.get_weights()]
        costs = measured(setup, 1e-3)
        for old, new in zip(before, setup.model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    assert min(costs.once, costs.step) > 0
    assert costs.steps == setup.batches().plan.epoch_steps
    assert min(costs.head_start, costs.head_epoch) > 0
    assert (costs.view > 0) == (recipe.cached_views > 0)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "tiny.weights.h5"}


@pytest.mark.slow
@pytest.mark.one_backend
def test_steps_are_measured_on_photos_that_were_read_before():
    """Of all classes, the rarest too; the second reading draws nothing anew."""
    recipe = Recipe(data="synthetic_birds", image_size=32)
    with own_globals(), place(Devices()) as placement:
        setup = prepare(recipe, placement, Console("quiet"))
        known, _ = Trial(setup, 1e-3).read_before()
        split = known.images.splits["train"]
        assert set(split.labels) == set(range(18))
        assert 256 <= len(split) < 300
        assert len(split.reader.pictures) == len(split)
        assert known.images.splits["val"] is setup.images.splits["val"]


@pytest.mark.slow
@pytest.mark.one_backend
def test_views_of_another_run_take_no_time(settings, tmp_path):
    folder = str(tmp_path / "views")
    settings |= {"freeze_fraction": 0.5, "cached_views": 2, "cached_views_dir": folder}
    with own_globals(), place(Devices()) as placement:
        setup = prepare(Recipe(**settings), placement, Console("quiet"))
        stored_views(setup, tmp_path / "views")  # as a run leaves them
        assert measured(setup, 1e-3).view == 0


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_run_in_a_time_is_the_run_of_the_recipe_it_chose(
    settings, tmp_path, monkeypatch, capsys
):
    """It measures, goes on as if it had not, and goes on alike when resumed."""

    def fixed(setup, limit):
        assert limit == 20  # seconds; 2 % of the time are more
        measured(setup, 1e-3)
        # 2,400 s are left of 3,000, less what the start took.
        return Costs(once=600, step=70, steps=9, epoch_end=90)

    monkeypatch.setattr(choice, "measured", fixed)
    # That the head stays as it was, too, is another test's.
    recipe = Recipe(**{**settings, "head_epochs": 0}, steps_per_epoch=9)
    run = train(recipe, tmp_path / "a", "plain", budget=Budget(50))
    assert "In 50 minutes: 3 epochs, 12:00 each" in capsys.readouterr().out
    assert run.settings["epochs"] == 3
    other = train(dataclasses.replace(recipe, epochs=3), tmp_path / "b", "quiet")
    logs = [(r.folder / "log.csv").read_text() for r in (run, other)]
    assert logs[0] == logs[1]
    for a, b in zip(
        *(r.model("last").get_weights() for r in (run, other)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    resume(run.folder, verbose="plain")
    assert "already finished, after epoch 3" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.one_backend
def test_drawn_birds_in_a_time(tmp_path, monkeypatch, capsys):
    def fixed(setup, limit):
        assert min(dataclasses.astuple(measured(setup, 1e-3))) >= 0
        # 2,600 s are left of 3,600, less what the start took.
        return Costs(once=1000, step=50, steps=2, epoch_end=600)

    monkeypatch.setattr(choice, "measured", fixed)
    out = tmp_path / "run"
    settings = ["--image-size", "32", "--mutual-units", "4", "--steps-per-epoch", "2"]
    settings += ["--unknown-keep", "0"]
    assert main(["train", *settings, "--out", str(out), "--minutes", "60"]) == 0
    said = capsys.readouterr().out
    assert "In 60 minutes: 3 epochs, 11:40 each" in said
    assert "Epoch 3/3 " in said
    assert Run.open(out).settings["epochs"] == 3
    assert len((out / "log.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "3"], "--minutes and --epochs cannot be combined; omit one"),
        (["--set", "epochs=3"], "--minutes and --epochs cannot be combined; omit one"),
        (["--resume", "run"], "--minutes and --resume cannot be combined; omit one"),
        (
            ["--find-rate", "a.svg"],
            "--minutes and --find-rate cannot be combined; omit one",
        ),
        (
            ["--print-recipe"],
            "--minutes and --print-recipe cannot be combined; omit one",
        ),
    ],
)
def test_a_time_goes_with_nothing_that_knows_its_epochs(arguments, said, capsys):
    assert main(["train", "--out", "run", "--minutes", "5", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.one_backend
@pytest.mark.parametrize("other", [["--find-rate", "a.svg"], ["--print-recipe"]])
def test_a_run_that_goes_on_does_nothing_else(other, capsys):
    assert main(["train", "--resume", "run", *other]) == 2
    assert f"--resume and {other[0]} cannot be combined" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_time_that_is_too_short_leaves_nothing(settings, tmp_path, capsys):
    options = [
        word
        for name, value in settings.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    out = tmp_path / "run"
    command = ["train", *options, "--out", str(out), "--quiet", "--minutes", "0.001"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("keras-apinet: error: --minutes 0.001 is too short: ")
    assert said.count("\n") == 1
    assert not out.exists()
