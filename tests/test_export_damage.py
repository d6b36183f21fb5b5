"""Damaged files, full disks and missing packages: said clearly, nothing left behind."""

import errno
import io
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from factories import clear_classifier, patterns

from keras_apinet.errors import APINetError
from keras_apinet.export import Exporter, export_classifier, load_classifier
from keras_apinet.export.formats import Target
from keras_apinet.files.sealing import seal
from keras_apinet.loading import load

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def model():
    return clear_classifier(*patterns(), list("abcde"), weights=None)


@pytest.fixture(scope="module")
def good(model, tmp_path_factory):
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    names = ("good.tflite", "good.onnx", "good")
    Exporter(model, verify=False).write([Target.of(folder / name) for name in names])
    model.save(folder / "good.keras")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.99])
@pytest.mark.parametrize("ending", [".tflite", ".onnx", ".keras"])
def test_cut_off_files(ending, kept, good, tmp_path):
    content = (good / f"good{ending}").read_bytes()
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(APINetError, match=re.escape(cut.name)) as caught:
        load_classifier(cut)
    assert "\n" not in str(caught.value)


def rewritten(path, change, compressed=zipfile.ZIP_STORED, name="config.json"):
    """Writes a model's archive anew, with one part changed."""
    with zipfile.ZipFile(path) as old:
        parts = {part: old.read(part) for part in old.namelist()}
    with zipfile.ZipFile(path, "w", compressed) as new:
        for part, content in parts.items():
            new.writestr(part, change(content) if part == name else content)


def weights_changed(path, change):
    """Lets a function change the HDF5 file in a model's archive."""

    def changed(content):
        file = io.BytesIO(content)
        with h5py.File(file, "r+") as weights:
            change(weights)
        return file.getvalue()

    rewritten(path, changed, name="model.weights.h5")


def declared(weights):
    weights.create_dataset(
        "bomb", (1000, 1000, 1000), "float32", chunks=(1, 1000, 1000), compression=9
    )


def looped(weights):
    weights["loop"] = weights["/"]
    weights["loop/bomb"] = h5py.SoftLink("/layers")


def flip_a_weight(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def flip_a_sealed_weight(path):
    seal(path)
    flip_a_weight(path)


def deep(content):
    return b'{"a":' * 100_000 + b"1" + b"}" * 100_000


MODELS_THAT_LIE = {
    "a weight": flip_a_weight,
    "a sealed weight": flip_a_sealed_weight,
    "compressed": lambda path: rewritten(
        path, lambda config: config + b" " * 10**8, zipfile.ZIP_DEFLATED
    ),
    "declared": lambda path: weights_changed(path, declared),
    "looped": lambda path: weights_changed(path, looped),
    "deep": lambda path: rewritten(path, deep),
    "no weights": lambda path: rewritten(
        path, lambda weights: b"", name="model.weights.h5"
    ),
    "other weights": lambda path: (
        np.savez(path.with_suffix(".npz"), x=np.ones(3))
        or path.with_suffix(".npz").replace(path)
    ),
    "HDF5": lambda path: h5py.File(path, "w").close(),
}


@pytest.mark.parametrize("kind", MODELS_THAT_LIE)
def test_models_that_lie(kind, good, tmp_path, monkeypatch):
    path = tmp_path / "lies.keras"
    shutil.copy(good / "good.keras", path)
    assert load(path).class_names == list("abcde")
    MODELS_THAT_LIE[kind](path)
    with pytest.raises(APINetError, match=r"lies\.keras' cannot be read") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_model_with_an_option_that_is_refused_today_says_which(good, tmp_path):
    path = tmp_path / "old.keras"
    shutil.copy(good / "good.keras", path)

    def changed(content):
        config = json.loads(content)
        config["config"]["residual_weight"] = -1.0
        return json.dumps(config).encode()

    rewritten(path, changed)
    with pytest.raises(APINetError, match=r"old\.keras' cannot be loaded") as caught:
        load(path)
    assert "residual_weight=-1.0" in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "part", ["saved_model.pb", "variables/variables.data-00000-of-00001"]
)
def test_saved_models_cut_off(part, good, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(good / "good", folder)
    content = (folder / part).read_bytes()
    (folder / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(APINetError, match="cut"):
        load_classifier(folder)


def test_a_description_that_would_unpack_to_too_much(good, tmp_path):
    bomb = tmp_path / "bomb.tflite"
    shutil.copy(good / "good.tflite", bomb)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("notes.txt", b" " * (200 << 20))
    with pytest.raises(APINetError, match=r"bomb\.tflite.*unpack to"):
        load_classifier(bomb)


def test_a_weight_that_was_changed_on_the_way(good, tmp_path):
    content = bytearray((good / "good.tflite").read_bytes())
    content[len(content) // 2] ^= 0x40
    (tmp_path / "changed.tflite").write_bytes(content)
    with pytest.raises(APINetError, match=r"changed\.tflite.*checksum"):
        load_classifier(tmp_path / "changed.tflite")


def test_files_of_others_and_of_no_kind(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"no model at all")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04N.")
    for name in ("x.tflite", "x.pkl", "missing.onnx"):
        with pytest.raises(APINetError, match=re.escape(name)):
            load_classifier(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.tflite", "x.onnx", "x"])
def test_a_disk_that_is_full_after_the_model(name, model, tmp_path, monkeypatch):
    """There is room for the reason only once the intermediate files are gone."""
    import onnx
    import tensorflow as tf

    space = OSError(errno.ENOSPC, "No space left on device")
    write_text = Path.write_text

    def full(self, *args):
        raise space

    def full_until_freed(self, *args):
        if self.name == "error.json" and (self.parent / "model.keras").exists():
            raise space
        return write_text(self, *args)

    def full_in_tensorflow(*args, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "part-0.temp")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full_until_freed)
    monkeypatch.setattr(onnx, "save", full)
    if name == "x":
        archive = type(keras.export.ExportArchive())
        monkeypatch.setattr(archive, "write_out", full_in_tensorflow)
    with pytest.raises(APINetError, match="No space left on device"):
        export_classifier(model, tmp_path / name, verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_before_the_model(model, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(APINetError, match=r"x\.tflite.*No space left"):
        export_classifier(model, tmp_path / "x.tflite", verify=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "tf2onnx"])
def test_onnx_without_its_packages(package, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(APINetError, match=r"keras-apinet\[onnx\]"):
        export_classifier(model, tmp_path / "x.onnx", verify=False)
    assert list(tmp_path.iterdir()) == []
