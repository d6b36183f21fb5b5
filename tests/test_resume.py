"""A training that was killed, stopped or damaged goes on as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import BACKEND

from keras_apinet import APINetError
from keras_apinet.runs import Run
from keras_apinet.train import Recipe, checkpoints, resume, train
from keras_apinet.train.callbacks import Keeper

SCRIPT = Path(__file__).parent / "resume_runs.py"
# Averages, a memory of features, dropout, augmentation: everything with a state.
RECIPE = {
    "data": "synthetic_birds",
    "image_size": 32,
    "epochs": 3,
    "steps_per_epoch": 4,
    "warmup_epochs": 1,
    "classes_per_batch": 4,
    "images_per_class": 2,
    "mutual_units": 8,
    "memory": 8,
    "ema": 0.9,
}


def child(action, folder, recipe, *moments):
    """Runs a training in a process of its own; its exit status."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), action, str(folder), json.dumps(recipe)]
        + list(moments),
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 130, -9), done.stderr[-3000:]
    return done.returncode


def outcome(folder):
    """All variables of the last checkpoint, the best model's weights, and the log."""
    progress, values = checkpoints.read_newest(folder)
    best = Run.open(folder).model().get_weights()
    return [*values, *best], progress, (folder / "log.csv").read_text()


def equal(folder, other):
    (values, progress, log), (others, elsewhere, written) = map(
        outcome, (folder, other)
    )
    for a, b in zip(values, others, strict=True):
        np.testing.assert_array_equal(a, b)
    assert progress == elsewhere
    assert log == written


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert child("train", folder, RECIPE) == 0
    return folder


# A checkpoint after every step, so that a kill falls between two of them.
BUSY = {**RECIPE, "checkpoint_minutes": 1e-9}


def test_three_kills_change_nothing(whole, tmp_path):
    folder = tmp_path / "run"
    # Steps and checkpoints count from the start of each process; the warm-up's single
    # epoch has its own callback. In the second epoch, in the middle of a step:
    assert child("train", folder, BUSY, "step:6") == -9
    assert checkpoints.read_newest(folder)[0].step == 1
    # Then at the end of that epoch, with the models kept and the checkpoint not:
    assert child("resume", folder, {}, "checkpoint:4") == -9
    assert Run.open(folder).model("last") is not None
    # Then when a file, written whole, has not yet got its name:
    assert child("resume", folder, {}, "replace:2") == -9
    assert child("resume", folder, {}) == 0
    values, progress, log = outcome(folder)
    undisturbed, expected, written = outcome(whole)
    for a, b in zip(values, undisturbed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (progress, log) == (expected, written)
    left = {p.name for p in folder.iterdir() if p.name.startswith(".")}
    assert not left


def test_ctrl_c_stops_after_the_step_and_the_run_goes_on(whole, tmp_path):
    folder = tmp_path / "run"
    assert child("train", folder, RECIPE, "interrupt:6") == 130
    assert checkpoints.read_newest(folder)[0].step == 2
    assert child("resume", folder, {}) == 0
    equal(whole, folder)


@pytest.fixture
def ended(whole, tmp_path):
    """A copy of a run, to be spoilt."""
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", str(whole), str(folder)], check=True)
    return folder


@pytest.mark.one_backend
def test_only_the_newest_checkpoints_stay(ended):
    names = [path.name for path in checkpoints.everything(ended)]
    assert names == ["00002-0000000.npz", "00003-0000000.npz"]


@pytest.mark.one_backend
def test_a_run_that_has_ended_is_left_alone(ended, capsys):
    before = {p: p.stat().st_mtime_ns for p in ended.rglob("*") if p.is_file()}
    resume(ended, verbose="plain")
    assert "has ended already, after epoch 3" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in ended.rglob("*") if p.is_file()}


@pytest.mark.one_backend
def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, ended):
    newest = checkpoints.everything(ended)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert checkpoints.read_newest(ended)[0].epoch == 2
    assert child("resume", ended, {}) == 0
    equal(whole, ended)


@pytest.mark.one_backend
def test_a_checkpoint_is_never_unpickled(ended):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(ended / "trapped"),)

    newest = checkpoints.everything(ended)[-1]
    np.savez(newest, np.array([Trap()], dtype=object))
    assert checkpoints.read_newest(ended)[0].epoch == 2
    assert not (ended / "trapped").exists()


@pytest.mark.one_backend
def test_what_has_changed_is_listed_and_needs_force(ended):
    description = Run.open(ended).description
    description["versions"]["keras"] = "3.0.1"
    description["data"]["fingerprint"] = "other"
    Run.open(ended).write("run.json", description)
    with pytest.raises(APINetError) as refused:
        resume(ended, {"epochs": 4, "mutual_units": 9}, verbose="quiet")
    for words in (
        "epochs was 3, is 4",
        "mutual_units was 8, is 9",
        "data fingerprint was other, is",
        "version of keras was 3.0.1, is",
        "--force",
    ):
        assert words in str(refused.value)
    assert Run.open(ended).settings["epochs"] == 3


@pytest.mark.one_backend
def test_another_model_is_refused_even_with_force(ended):
    with pytest.raises(APINetError, match="differ in shape"):
        resume(ended, {"mutual_units": 9, "epochs": 4}, verbose="quiet", force=True)


@pytest.mark.one_backend
def test_a_run_that_has_ended_goes_on_to_more_epochs(ended):
    assert child("resume", ended, {"epochs": 4, "steps_per_epoch": 2}) == 0
    assert checkpoints.read_newest(ended)[0].epoch == 4
    assert len((ended / "log.csv").read_text().splitlines()) == 5
    assert Run.open(ended).settings["epochs"] == 4


@pytest.mark.one_backend
@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_a_full_disk_says_how_to_go_on_and_loses_nothing(
    whole, tmp_path, monkeypatch, what
):
    folder = tmp_path / "run"
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) > (2 if what == "checkpoint" else 3):
            raise OSError(28, "No space left on device")
        return original(*args)

    module = "keras_apinet.train." + (
        "checkpoints.write_atomically"
        if what == "checkpoint"
        else "callbacks.save_atomically"
    )
    import keras_apinet.runs as runs

    original = getattr(runs, module.rsplit(".", 1)[1])
    monkeypatch.setattr(module, full)
    with pytest.raises(APINetError, match=r"No space left on device.*--resume"):
        train(Recipe(**RECIPE), folder, "quiet")
    monkeypatch.undo()
    assert Run.open(folder).model("last") is not None
    assert child("resume", folder, {}) == 0
    equal(whole, folder)


@pytest.mark.one_backend
def test_a_run_without_a_checkpoint_starts_from_its_beginning(whole, tmp_path):
    folder = tmp_path / "run"
    assert child("train", folder, RECIPE, "checkpoint:1") == -9
    assert checkpoints.read_newest(folder) is None
    assert child("resume", folder, {}) == 0
    equal(whole, folder)


@pytest.mark.one_backend
def test_patience_ends_a_run_that_does_not_get_better(tmp_path):
    import keras

    run = Run.create(tmp_path / "run", {"settings": {}})
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    model.stop_training = False
    keeper = Keeper(run, Recipe(patience=2, epochs=9), checkpoints.Progress())
    keeper.set_model(model)
    stopped = []
    for epoch, accuracy in enumerate((0.5, 0.7, 0.6, 0.7)):
        # An equal accuracy with a higher loss is no better.
        keeper.on_epoch_end(epoch, {"val_accuracy": accuracy, "val_loss": 1.0 + epoch})
        stopped.append(model.stop_training)
    assert stopped == [False, False, False, True]
    assert keeper.progress.ended
    assert keeper.progress.best_epoch == 2
