"""One global batch gives the same training on one device and on many."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import BACKEND
from factories import pattern_folders

from keras_apinet import APINetError
from keras_apinet.train.devices import Devices, out_of_memory, place

SCRIPT = Path(__file__).parent / "device_runs.py"


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": BACKEND, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def folder(tmp_path):
    """Where runs go, with the photos that they are trained on."""
    pattern_folders(tmp_path / "photos", 80, 8)
    return tmp_path


def finish(*processes):
    for process in processes:
        output = process.communicate()[0]
        assert process.returncode == 0, output[-3000:]


def outcome(folder):
    """The log's figures, and all weights of the last model."""
    rows = list(csv.DictReader((folder / "log.csv").read_text().splitlines()))
    figures = np.array([[float(v) for v in row.values()] for row in rows])
    weights = keras.saving.load_model(folder / "last.keras").get_weights()
    return figures, np.concatenate([w.ravel() for w in weights])


def same(folder, other):
    (figures, weights), (others, moved) = outcome(folder), outcome(other)
    np.testing.assert_allclose(figures, others, rtol=0, atol=1e-5)
    np.testing.assert_allclose(weights, moved, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="torch trains on one device")
def test_many_devices_train_as_one(folder):
    # Two processes, below, train on two devices of JAX.
    runs = ["1", "4", "2:2"] if BACKEND == "jax" else ["1", "2"]
    finish(start(folder, *runs))
    for name in runs[1:]:
        same(folder / "1", folder / name)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="torch trains on one device")
def test_many_devices_train_as_one_on_stored_views(folder):
    finish(start(folder, 1, 2, RUNS="--cached-views"))
    same(folder / "1", folder / "2")


@pytest.mark.skipif(BACKEND != "jax", reason="several processes are JAX's")
def test_two_processes_train_as_one(folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    finish(
        start(folder, 1, RUNS="--uncached"),
        *(start(folder, port, index) for index in (0, 1)),
    )
    same(folder / "1", folder / "joined")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count=0"),
        ({"processes": 2}, "coordinator=None"),
        ({"coordinator": "a:1"}, "processes=1"),
        ({"processes": 2, "coordinator": "a:1", "process_index": 2}, "process_index=2"),
        ({"count": 3, "model": 2}, "model=2"),
    ],
)
def test_numbers_that_do_not_fit(options, words):
    with pytest.raises(APINetError, match=words):
        Devices(**options)


def test_more_devices_than_there_are():
    words = "backend 'torch'" if BACKEND == "torch" else "64 devices were requested"
    with pytest.raises(APINetError, match=words), place(Devices(64)):
        pass


@pytest.mark.one_backend
def test_memory_errors_of_every_backend_are_known():
    class OutOfMemoryError(RuntimeError):  # torch.cuda's name
        pass

    assert out_of_memory(OutOfMemoryError("x"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(ValueError("RESOURCE_EXHAUSTED: Out of memory allocating"))
    assert not out_of_memory(ValueError("shape"))
