import os
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from factories import class_folders

from keras_apinet.cli import COMMANDS, main
from keras_apinet.data.loading import check_source
from keras_apinet.data.photos.files import listed_photos
from keras_apinet.errors import APINetError
from keras_apinet.runs import Run

pytestmark = pytest.mark.one_backend


def cli(*arguments, **options):
    """Runs the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "keras_apinet", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )


def test_help_names_every_command_and_loads_no_backend():
    code = (
        "import sys; from keras_apinet.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'torch', 'PIL', 'numpy'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "loaded []" in result.stdout
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s", result.stdout, re.M)


def test_what_needs_no_backend_is_checked_before_it_starts(tmp_path):
    (tmp_path / "photos").mkdir()
    code = (
        "import sys; from keras_apinet.cli import main\n"
        "for line in ('train --data photoz --out run', 'data photoz',\n"
        "    'train --data photos/nowhere --out run', 'evaluate nope', 'report nope',\n"
        "    'compare --model nope a.jpg b.jpg', 'export nope --format tflit',\n"
        "    'export nope --format tflite', 'export nope.txt --format onnx',\n"
        "    'compare-runs nope -- nope'):\n"
        "    assert main(line.split()) == 2\n"
        "print('loaded', sorted({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "loaded []" in result.stdout
    assert result.stderr.count("'photoz'; did you mean 'photos'?") == 2


def test_a_card_needs_no_scipy():
    """Which would be most of the second that a card takes."""
    code = (
        "import sys, keras_apinet.evaluate.pages\n"
        "print(sorted({'keras', 'scipy', 'tensorflow'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    "name",
    ["caltech_birds2011", "cars196", "stanford_dogs", "oxford_iiit_pet", "cifar10"],
)
def test_names_of_public_sets_pass_the_first_check(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_source(name)
    check_source(f"{name}:1.0.0")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: keras-apinet " + command in capsys.readouterr().out


@pytest.mark.parametrize(("given", "near"), [("wieghts", "weights"), ("opt", "out")])
def test_an_unknown_option_is_told_its_nearest(given, near, capsys):
    # A beginning of a name is no name either.
    with pytest.raises(SystemExit) as stop:
        main(["train", f"--{given}", "x", "--out", "run"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"no argument '--{given}'; did you mean '--{near}'? See keras-" in said


def test_an_unknown_command_is_told_its_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trian", "--epochs", "3"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "keras-apinet: error: there is no command 'trian'; did you mean 'train'? See "
        "keras-apinet --help.\n"
    )


@pytest.mark.slow
def test_importing_the_package_loads_no_more_than_keras():
    code = (
        "import sys, keras; before = set(sys.modules)\n"
        "import keras_apinet\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    extra = set(eval(result.stdout.strip().split("\n")[-1]))
    assert not extra & {"keras_cv", "keras_hub", "tensorflow_datasets", "PIL"}
    assert "keras_apinet" in extra


@pytest.mark.slow
def test_a_model_reloads_by_keras_alone_after_the_import(tmp_path):
    code = (
        "import sys, keras, keras_apinet\n"
        "keras_apinet.build('tiny', 2, 32, None).save(sys.argv[1])"
    )
    file = str(tmp_path / "m.keras")
    subprocess.run([sys.executable, "-c", code, file], check=True, capture_output=True)
    code = "import sys, keras, keras_apinet; keras.saving.load_model(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, file], check=True, capture_output=True)


def folder(root, classes=("a", "b"), images=3):
    return class_folders(
        root, classes, images, lambda label, i: np.full((40, 40, 3), 40 * i)
    )


QUICK = ["--backbone", "tiny", "--image-size", "32", "--epochs", "1"]
QUICK += ["--mutual-units", "4", "--quiet"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--data", "{empty}"], "{empty}"),
        (["--data", "{one}"], "1 class"),
        (["--backbone", "tinny"], "tiny"),
        (["--weights", "no.weights.h5"], "no.weights.h5"),
        (["--weights", "{junk}"], "junk.weights.h5"),
        (["--weights", "{other}"], "arrays, but backbone 'tiny' without"),
        (["--data", "{broken}"], "0.png"),
        (["--image-size", "3"], "--image-size 3 "),
        (["--out", "{file}/run"], "cannot be written"),
        (["--method", "pairs"], "--method 'pairs' "),
        (["--epochs", "-2"], "--epochs -2 "),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, capsys, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "junk.weights.h5").write_text("not weights")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    other.save_weights(tmp_path / "other.weights.h5")
    places = {
        "empty": tmp_path / "empty",
        "file": tmp_path / "file",
        "junk": tmp_path / "junk.weights.h5",
        "other": tmp_path / "other.weights.h5",
        "broken": folder(tmp_path / "broken"),
        "one": folder(tmp_path / "one", ["a"]),
        "two": folder(tmp_path / "two"),
    }
    for path in (tmp_path / "broken").glob("*/0.png"):
        path.write_bytes(path.read_bytes()[:60])
    defaults = ["--data", "{two}", "--out", str(tmp_path / "run")]
    given = [a.format(**places) for a in [*defaults, *QUICK, *arguments]]
    assert main(["train", *given]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("keras-apinet: error: ")
    assert said.format(**places) in error
    assert "Traceback" not in error
    assert error.count("\n") == 0


@pytest.mark.slow
def test_a_class_with_one_image_is_trained_on(tmp_path):
    photos = folder(tmp_path / "photos", images=6)
    folder(tmp_path / "photos", ["rare"], images=1)
    arguments = ["train", "--data", str(photos), "--out", str(tmp_path / "run")]
    assert main([*arguments, *QUICK]) == 0
    assert Run.open(tmp_path / "run").class_names == ["a", "b", "rare"]


def test_debug_shows_the_traceback(tmp_path):
    result = cli("evaluate", tmp_path, "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


@pytest.mark.slow
def test_train_evaluate_predict_export(tmp_path):
    photos = folder(tmp_path / "photos", images=6)
    run = tmp_path / "run"
    steps = [
        ("train", "--data", photos, "--out", run, *QUICK[:-1]),
        ("evaluate", run),
        ("predict", run, photos / "a/0.png", photos / "b/1.png"),
        ("export", run, "--format", "tflite", "--out", tmp_path / "m.tflite"),
        ("predict", tmp_path / "m.tflite", photos / "a/0.png", "--json"),
    ]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    for step in steps:
        result = cli(*step, env=environment)
        assert result.returncode == 0, (step, result.stderr[-2000:])
    assert '"class": "' in result.stdout


@pytest.mark.slow
def test_learning_rates_are_tried_and_one_is_suggested(tmp_path, capsys):
    photos = folder(tmp_path / "photos", images=6)
    picture = tmp_path / "rate.svg"
    command = ["train", "--data", str(photos), *QUICK, "--find-rate", str(picture)]
    assert main(command) == 0
    said = capsys.readouterr().out
    (rate,) = re.findall(r"^Suggested: --learning-rate (\S+)$", said, re.M)
    assert 1e-7 <= float(rate) <= 0.1
    assert f"suggested: {rate}" in re.sub(r"<!--\s*|\s*-->", "", picture.read_text())
    assert [p.name for p in tmp_path.iterdir()] in (
        ["photos", "rate.svg"],
        ["rate.svg", "photos"],
    )
    assert main(command) == 2
    assert "exists" in capsys.readouterr().err


def test_a_tracker_that_is_not_installed_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    photos = folder(tmp_path / "photos", images=6)
    command = ["--data", str(photos), *QUICK, "--out", str(tmp_path / "run")]
    assert main(["train", *command, "--tracker", "wandb"]) == 2
    assert "pip install wandb, or omit tracker" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_is_told_each_epoch_and_the_recipe(tracker, tmp_path, monkeypatch):
    """The services as the package meets them: modules with a Keras callback."""
    told, begun = [], {}

    class Logger(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            told.append((epoch, set(logs)))

    if tracker == "wandb":
        service = types.SimpleNamespace(
            run=None, init=lambda name, config: begun.update(name=name, **config)
        )
        integration = types.SimpleNamespace(WandbMetricsLogger=Logger)
        modules = {"wandb": service, "wandb.integration.keras": integration}
        modules["wandb.integration"] = types.SimpleNamespace(keras=integration)
    else:
        service = types.SimpleNamespace(
            active_run=lambda: None,
            start_run=lambda run_name: begun.update(name=run_name),
            log_params=begun.update,
        )
        modules = {"mlflow": service}
        modules["mlflow.keras"] = types.SimpleNamespace(MlflowCallback=Logger)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    photos = folder(tmp_path / "photos", images=6)
    command = ["--data", str(photos), *QUICK, "--out", str(tmp_path / "run")]
    assert main(["train", *command, "--tracker", tracker]) == 0
    assert begun["name"] == "run"
    assert begun["mutual_units"] == 4
    assert [epoch for epoch, _ in told] == [0]
    assert told[0][1] >= {"loss", "accuracy"}


@pytest.mark.slow
def test_a_start_imports_no_more_than_it_needs():
    """Keras and TensorFlow import these where they find them; later they are there."""
    code = (
        "import sys; from keras_apinet.cli.startup import start_backend\n"
        "start_backend()\n"
        "unused = {'sklearn', 'matplotlib', 'jax', 'cv2'}\n"
        "print('loaded', sorted(unused & set(sys.modules)))\n"
        "import matplotlib.pyplot"
    )
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "loaded []" in result.stdout


@pytest.mark.slow
def test_the_backend_of_the_settings_file_is_found(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    code = (
        "from keras_apinet.cli.startup import start_backend; start_backend()\n"
        "import keras; print(keras.backend.backend())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "jax"


@pytest.mark.one_backend
def test_paths_that_look_like_settings_stay_as_they_are(tmp_path, capsys):
    out = tmp_path / "epochs=5"
    out.mkdir()
    (out / "precious.txt").touch()
    assert main(["train", "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err


@pytest.mark.one_backend
def test_photos_that_are_passed_over_are_told(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.nef").touch()
    told = []
    assert listed_photos([str(tmp_path)], told.append) == [str(tmp_path / "a.png")]
    (note,) = told
    assert "1 .nef (raw camera data" in note
    (tmp_path / "a.png").unlink()
    with pytest.raises(APINetError, match=r"no photos in .*1 \.nef"):
        listed_photos([str(tmp_path)])
