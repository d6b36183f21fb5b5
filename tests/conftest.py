"""What every test shares: the backend, seeds, gradients, and where real photos lie."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Torch's threads wait in a loop for each other, which starves the other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import shutil
import subprocess
from pathlib import Path

# Tests on JAX and their child processes compile the same functions again and again.
# Each worker keeps them in its own folder: JAX does not write for two at a time.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).parent.parent
    / "build"
    / "jax"
    / os.environ.get("PYTEST_XDIST_WORKER", "alone")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

with contextlib.suppress(ImportError):  # torch has to come before TensorFlow
    import torch  # noqa: F401

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "one_backend: does not depend on the backend; runs on TensorFlow"
    )
    config.addinivalue_line("markers", "slow: left out by `make test-quick`")


def pytest_collection_modifyitems(config, items):
    if BACKEND == "tensorflow":
        return
    skip = pytest.mark.skip(reason="does not depend on the backend")
    for item in items:
        if "one_backend" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fresh_seeds():
    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session(free_memory=False)


@pytest.fixture(scope="session", autouse=True)
def _own_keras_home(tmp_path_factory):
    """What is kept of photos that were looked at goes to a folder of this run."""
    before = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = str(tmp_path_factory.mktemp("keras"))
    yield
    if before is None:
        del os.environ["KERAS_HOME"]
    else:
        os.environ["KERAS_HOME"] = before


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared():
    """The folder with real photos and pretrained weights."""
    folder = os.environ.get("KERAS_APINET_SHARED")
    if not folder:
        pytest.skip("KERAS_APINET_SHARED is not set: no real photos here")
    return Path(folder)


@pytest.fixture
def browser():
    """A page in headless Chromium."""
    from browser import Browser, chromium

    if chromium() is None:
        pytest.skip("no Chromium is installed")
    with Browser() as running:
        yield running


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The script of axe-core, which npm fetches."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("npm, which fetches axe-core, is not installed")
    fetched = subprocess.run(
        ["npm", "install", "--prefer-offline", "--no-save", "--ignore-scripts"]
        + ["--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4.10.3"],
        capture_output=True,
    )
    if fetched.returncode:
        pytest.skip("npm could not fetch axe-core")
    return (folder / "node_modules/axe-core/axe.min.js").read_text("utf-8")


@pytest.fixture(scope="session")
def web_runtime(tmp_path_factory):
    """The folder of LiteRT for the browser, which npm fetches if none is given."""
    from keras_apinet.errors import APINetError
    from keras_apinet.export.web import fetch_runtime

    if given := os.environ.get("KERAS_APINET_WEB_RUNTIME"):
        return Path(given)
    folder = tmp_path_factory.mktemp("runtime")
    try:
        fetch_runtime(folder, print)
    except APINetError as error:
        pytest.skip(f"no browser runtime: {error}")
    return folder


@pytest.fixture
def gradient():
    """Gradient of a scalar function of one array or variable, on the active backend."""

    def of(function, x):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            x = tf.convert_to_tensor(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(x)
            return keras.ops.convert_to_numpy(
                tf.convert_to_tensor(tape.gradient(value, x))
            )
        if BACKEND == "jax":
            import jax

            return np.asarray(jax.grad(function)(jax.numpy.asarray(x)))
        import torch

        x = torch.tensor(x, requires_grad=True)
        function(x).backward()
        return x.grad.numpy()

    return of
