"""A training that was killed, stopped or damaged goes on as if nothing had happened."""

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import BACKEND
from factories import pattern_folders

from keras_apinet import APINetError
from keras_apinet.cli import main
from keras_apinet.files.sealing import seal
from keras_apinet.runs import Run, only_writer
from keras_apinet.train import Recipe, checkpoints, resume, train
from keras_apinet.train.callbacks import RunCheckpoint, StopSignals

SCRIPT = Path(__file__).parent / "resume_runs.py"
# Averages, a memory of features, dropout, augmentation: everything with a state.
RECIPE = {
    "group_by": "none",
    "backbone": "tiny",
    "image_size": 32,
    "epochs": 3,
    "steps_per_epoch": 4,
    "head_epochs": 1,
    "classes_per_batch": 4,
    "images_per_class": 2,
    "mutual_units": 8,
    "memory_size": 8,
    "ema_momentum": 0.9,
}


def start(action, folder, recipe, *moments):
    """Starts a training in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), action, str(folder), json.dumps(recipe)]
        + list(moments),
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def child(*arguments):
    """Runs a training in a process of its own; its exit status."""
    with start(*arguments) as process:
        errors = process.stderr.read()
    assert process.returncode in (0, 130, -9), errors[-3000:]
    return process.returncode


def outcome(folder):
    """All variables of the last checkpoint, the best model's weights, and the log."""
    progress, values = next(checkpoints.readable(folder))
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
def recipe(tmp_path_factory):
    photos = pattern_folders(tmp_path_factory.mktemp("photos"), 60, 6)
    return {**RECIPE, "data": str(photos)}


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert child("train", folder, recipe) == 0
    return folder


@pytest.mark.slow
def test_kills_and_signals_change_nothing(whole, recipe, tmp_path):
    folder = tmp_path / "run"
    # A checkpoint after every step, so that a kill falls between two of them.
    busy = {**recipe, "checkpoint_minutes": 1e-9}
    # Steps and checkpoints count from the start of each process; the head phase's
    # single epoch has its own callback. Before there is any checkpoint:
    if BACKEND == "tensorflow":
        assert child("train", folder, busy, "checkpoint:1") == -9
        assert next(checkpoints.readable(folder), None) is None
    # In the second epoch, in the middle of a step:
    begun = ("resume", folder, {}) if folder.exists() else ("train", folder, busy)
    assert child(*begun, "step:6") == -9
    assert next(checkpoints.readable(folder))[0].step == 1
    # What does not depend on the backend is seen on one: a signal stops after the step.
    for how in ("interrupt:1", "hangup:1") if BACKEND == "tensorflow" else ():
        before = next(checkpoints.readable(folder))[0].step
        assert child("resume", folder, {}, how) == 130
        assert next(checkpoints.readable(folder))[0].step == before + 1
    if BACKEND == "tensorflow":
        # Then at the end of that epoch, with the models kept and the checkpoint not:
        assert child("resume", folder, {}, "checkpoint:2") == -9
        assert Run.open(folder).model("last").num_classes == 6
        # Then when a file, written whole, has no name yet:
        assert child("resume", folder, {}, "replace:2") == -9
    # Then when a checkpoint is half written:
    assert child("resume", folder, {"checkpoint_minutes": 1e-9}, "seal:2") == -9
    assert any(p.name.startswith(".") for p in (folder / "checkpoints").iterdir())
    assert child("resume", folder, {}) == 0
    equal(whole, folder)
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]


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
    assert "already finished, after epoch 3" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in ended.rglob("*") if p.is_file()}


@pytest.mark.one_backend
def test_a_run_goes_on_from_any_folder_without_the_tables_it_was_given(ended, capsys):
    """The photos are where it says, and the tables that it needs are in it."""
    description = Run.open(ended).description
    photo = Run.open(ended).data().splits["train"].reference(0)
    (ended / "exclude.csv").write_text(f"path\n{photo}\n")
    description["settings"] |= {"data": "photos", "exclude": "gone.csv"}
    description["data"]["load"]["exclude"] = "/gone.csv"
    Run.open(ended).write("run.json", description)
    less = Run.open(ended).data()
    assert photo not in {
        s.reference(i) for s in less.splits.values() for i in range(len(s))
    }
    description["data"]["fingerprint"] = less.fingerprint()
    description["data"]["images"] = {n: len(s) for n, s in less.splits.items()}
    Run.open(ended).write("run.json", description)
    resume(ended, verbose="plain")
    assert "already finished" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, ended):
    newest = checkpoints.everything(ended)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert next(checkpoints.readable(ended))[0].epoch == 2
    assert child("resume", ended, {}) == 0
    equal(whole, ended)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two small checkpoints."""
    folder = tmp_path_factory.mktemp("small")
    values = [np.arange(6, dtype="float32").reshape(2, 3), np.array(3), np.array(True)]
    rows = [{"epoch": 1, "loss": 0.25}]
    for step in (1, 2):
        progress = checkpoints.Progress(1, step, (0.5, -1.0), 1, rows)
        checkpoints.save(folder, values, progress, keep=5)
    return folder


@pytest.fixture
def newest(small, tmp_path):
    """The newest of two checkpoints, to be spoilt."""
    shutil.copytree(small, tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "00001-0000002.npz"


def gives_way(newest):
    """Whether the newest checkpoint is passed over, with a sentence, for the other."""
    said = []
    progress, (first, *_) = next(
        checkpoints.readable(newest.parent.parent, said.append)
    )
    np.testing.assert_array_equal(first, [[0, 1, 2], [3, 4, 5]])
    if progress.step == 2:
        assert not said
        return False
    (sentence,) = said
    assert newest.name in sentence
    assert "\n" not in sentence
    return True


@pytest.mark.one_backend
def test_one_flipped_bit_anywhere_is_seen(newest):
    content = newest.read_bytes()
    assert not gives_way(newest)
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        newest.write_bytes(flipped)
        assert gives_way(newest), place


@pytest.mark.one_backend
def test_a_checkpoint_cut_off_anywhere_is_seen(newest):
    content = newest.read_bytes()
    for size in range(0, len(content), 7):
        newest.write_bytes(content[:size])
        assert gives_way(newest), size
    newest.write_bytes(content + b"x")
    assert gives_way(newest)


PROGRESS = json.dumps(dataclasses.asdict(checkpoints.Progress(1, 2)))


def archive(
    path,
    progress=PROGRESS,
    arrays=(),
    compressed=zipfile.ZIP_STORED,
    names="arr_{}.npy",
):
    """An archive such as somebody could make who knows how digests are written."""
    with zipfile.ZipFile(path, "w", compressed) as file:
        described = np.frombuffer(progress.encode(), np.uint8)
        for i, content in enumerate([npy(described), *arrays]):
            file.writestr(names.format(i), content)
    seal(path)


def npy(array, **header):
    """An array as a `.npy` file, whose header may lie."""
    file = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, {**described, **header})
    return file.getvalue() + array.tobytes()


def encrypted(path):
    archive(path, arrays=[npy(np.ones(3))])
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    seal(path)


def pickled(path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "trapped"),)

    np.savez(path, np.frombuffer(PROGRESS.encode(), np.uint8), np.array([Trap()], "O"))
    seal(path)


ones = np.ones(3, "float32")
HOSTILE = {
    "a folder": lambda path: path.mkdir(),
    "no archive": lambda path: path.write_bytes(b"no archive"),
    "no digest": lambda path: np.savez(path, ones),
    "encrypted": encrypted,
    "pickled": pickled,
    "deep": lambda path: archive(path, "[" * 200_000 + "]" * 200_000),
    "deep rows": lambda path: archive(
        path, PROGRESS.replace("[]", "[" * 100_000 + "]" * 100_000)
    ),
    "no progress": lambda path: archive(path, "[]"),
    "null": lambda path: archive(path, "null"),
    "negative": lambda path: archive(path, PROGRESS.replace("1", "-1")),
    "text": lambda path: archive(path, PROGRESS.replace("1", '"1"')),
    "best": lambda path: archive(path, PROGRESS.replace('"best": null', '"best": [1]')),
    "huge": lambda path: archive(path, arrays=[npy(ones, shape=(10**15,))]),
    "overflow": lambda path: archive(path, arrays=[npy(ones, shape=(2**33, 2**33))]),
    "more than it says": lambda path: archive(path, arrays=[npy(ones, shape=(2,))]),
    "negative shape": lambda path: archive(path, arrays=[npy(ones, shape=(-3, -1))]),
    "objects": lambda path: archive(path, arrays=[npy(ones, descr="|O")]),
    "text values": lambda path: archive(path, arrays=[npy(ones, descr="<U1")]),
    "bomb": lambda path: archive(
        path, arrays=[npy(np.zeros(10**7))], compressed=zipfile.ZIP_DEFLATED
    ),
    "other names": lambda path: archive(path, arrays=[npy(ones)], names="a{}.npy"),
    "empty": lambda path: archive(path, names="arr_{}.npy", progress=""),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_checkpoint_that_lies_gives_way(newest, kind):
    newest.unlink()
    HOSTILE[kind](newest)
    assert gives_way(newest)
    assert not (newest.parent / "trapped").exists()


@pytest.mark.slow
@pytest.mark.one_backend
def test_without_a_readable_checkpoint_nothing_is_begun_anew(ended):
    for path in checkpoints.everything(ended):
        path.write_bytes(path.read_bytes()[:-1])
    before = {p: p.stat().st_mtime_ns for p in ended.rglob("*")}
    with pytest.raises(
        APINetError, match=r"None of the 2 checkpoints .*no digest.*new"
    ):
        resume(ended, verbose="quiet")
    assert before == {p: p.stat().st_mtime_ns for p in ended.rglob("*")}


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_checkpoint_of_another_model_gives_way(whole, ended):
    newest = checkpoints.everything(ended)[-1]
    progress, values = checkpoints.read(newest)
    values[0] = values[0].astype("float64")
    progress.ended = False
    checkpoints.save(ended, values, progress, keep=2)
    assert child("resume", ended, {}) == 0
    equal(whole, ended)


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
def test_a_run_of_before_a_setting_goes_on_as_it_began(ended):
    """Of a run without these settings, which had the paper's pairs."""
    description = Run.open(ended).description
    for name in ("distance", "single_image_weight", "residual_weight"):
        del description["settings"][name]
    Run.open(ended).write("run.json", description)
    with pytest.raises(APINetError, match=r"residual_weight was 1\.0, is 0\.5"):
        resume(ended, {"residual_weight": 0.5}, verbose="quiet")
    with pytest.raises(APINetError) as refused:
        resume(ended, {"epochs": 4}, verbose="quiet")
    assert "started differently (epochs was 3, is 4): resume" in str(refused.value)


@pytest.mark.one_backend
def test_another_model_is_refused_even_with_force(ended):
    with pytest.raises(APINetError, match="differ in shape"):
        resume(ended, {"mutual_units": 9, "epochs": 4}, verbose="quiet", force=True)


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_run_that_has_ended_goes_on_to_more_epochs(ended):
    strangers = [
        *("views-of-paris.jpg", "views-0123456789abcdef.json", ".notes.npz"),
        *("checkpoints/1.npz", "checkpoints/00001-best.npz", "checkpoints/notes.txt"),
        *("view.npy", "training.json~", ".keras-apinet-notes"),
    ]
    for name in strangers:
        (ended / name).write_bytes(b"precious")
    # What was measured on the models before is not told of those that come.
    Run.open(ended).write("advice.json", {"advice": ["a: 4 more."], "model": "best"})
    assert child("resume", ended, {"epochs": 4, "steps_per_epoch": 2}) == 0
    assert not (ended / "advice.json").exists()
    for name in strangers:
        assert (ended / name).read_bytes() == b"precious"
    assert next(checkpoints.readable(ended))[0].epoch == 4
    assert len((ended / "log.csv").read_text().splitlines()) == 5
    assert Run.open(ended).settings["epochs"] == 4


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("moment", "file"), [("models:2", "last.keras"), ("full:2", "00001-0000000.npz")]
)
def test_a_full_disk_says_how_to_go_on_and_loses_nothing(
    whole, recipe, tmp_path, moment, file
):
    folder = tmp_path / "run"
    with start("train", folder, recipe, moment) as process:
        said = process.stderr.read()
    assert process.returncode == 2
    (line,) = (text for text in said.splitlines() if "cannot be written" in text)
    assert re.search(rf"{file}' cannot be written .*--resume {folder}\.$", line)
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]
    assert Run.open(folder).model("last") is not None
    if moment == "full:2":
        assert child("resume", folder, {}) == 0
        equal(whole, folder)


@pytest.mark.slow
@pytest.mark.one_backend
def test_of_two_writers_the_second_is_refused(recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    with (
        start("train", folder, recipe, "pause:6") as first,
        contextlib.ExitStack() as undone,
    ):
        os.waitpid(first.pid, os.WUNTRACED)
        undone.callback(first.kill)  # a stopped process would be waited for
        files = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        assert main(["train", "--resume", str(folder)]) == 2
        assert "Another process is training in" in capsys.readouterr().err
        assert main(["train", "--out", str(folder)]) == 2
        assert "already contains a run" in capsys.readouterr().err
        assert files == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        first.kill()
    # The lock went with its owner; that a killed run goes on is another test's.
    with only_writer(folder):
        pass


@pytest.mark.one_backend
def test_one_of_many_creates_a_run(tmp_path):
    def create(number):
        together.wait()
        try:
            described = {"settings": {"number": number}, "class_names": ["a", "b"]}
            return Run.create(tmp_path / "run", {**described, "image_size": 8})
        except APINetError:
            return None

    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        made = [run for run in pool.map(create, range(8)) if run]
    assert len(made) == 1
    assert Run.open(tmp_path / "run").settings == made[0].settings


@pytest.mark.one_backend
def test_a_folder_of_somebody_else_is_no_place_for_a_run(tmp_path, capsys):
    (tmp_path / "best.keras").write_bytes(b"precious")
    assert main(["train", "--out", str(tmp_path)]) == 2
    assert "it contains 'best.keras'" in capsys.readouterr().err
    with pytest.raises(APINetError, match="is not empty"):
        train(Recipe(), tmp_path, "quiet")
    with pytest.raises(APINetError, match="cannot be written"):
        train(Recipe(), tmp_path / "best.keras", "quiet")
    assert [p.name for p in tmp_path.iterdir()] == ["best.keras"]
    assert (tmp_path / "best.keras").read_bytes() == b"precious"
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", {"settings": {}}).settings == {}


@pytest.mark.one_backend
def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    """As under nohup."""
    run = Run.create(tmp_path / "run", {"settings": {}})
    run_checkpoint = RunCheckpoint(run, Recipe(), checkpoints.Progress())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(run_checkpoint):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not run_checkpoint.stop_asked
            os.kill(os.getpid(), signal.SIGTERM)
            assert run_checkpoint.stop_asked
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.one_backend
def test_patience_ends_a_run_that_does_not_get_better(tmp_path):
    import keras

    run = Run.create(tmp_path / "run", {"settings": {}})
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    model.stop_training = False
    run_checkpoint = RunCheckpoint(
        run, Recipe(patience=2, epochs=9), checkpoints.Progress()
    )
    run_checkpoint.set_model(model)
    stopped = []
    for epoch, accuracy in enumerate((0.5, 0.7, 0.6, 0.7)):
        # An equal accuracy with a higher loss is no better.
        run_checkpoint.on_epoch_end(
            epoch, {"val_accuracy": accuracy, "val_loss": 1.0 + epoch}
        )
        stopped.append(model.stop_training)
    assert stopped == [False, False, False, True]
    assert run_checkpoint.progress.ended
    assert run_checkpoint.progress.best_epoch == 2
