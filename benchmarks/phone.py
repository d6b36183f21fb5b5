"""Cost of each backbone on a phone, in float32 and in full int8.

    python -m benchmarks.phone [--backbones NAME ...] [--photos FOLDER]
        [--weights NAME=FILE ...] [--image-size 224]

Each backbone has pretrained weights if a file is given or a package is installed,
otherwise random weights with batch statistics measured on the photos. A linear head is
fitted in closed form to training photos. The benchmark measures size, time with LiteRT
and XNNPACK on one and two threads, memory, and the loss of int8. `--photos` is a
dataset for `keras_apinet.data.load`, of which some classes are used; without it,
synthetic birds are used. All times are measured in one run, in turns.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

from benchmarks.results import record, table
from benchmarks.turns import in_turns, medians

BACKBONES = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
)
PRECISIONS = ("float32", "int8")
# Peak memory of a separate process for one file, without the runtime itself: the
# kernel's peak, reset (by writing 5) once the runtime is imported.
_MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from ai_edge_litert.interpreter import Interpreter

def kilobytes(name):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\\s+(\\d+)", status)[1])

Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
run = Interpreter(sys.argv[1], num_threads=1)
run.allocate_tensors()
given = run.get_input_details()[0]
run.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
run.invoke()
print(kilobytes("VmHWM") - before)
"""


def drawn_birds(side: int, count: int = 160) -> tuple[Any, Any, list[str]]:
    """Synthetic birds of `side` px, their species, and the names of the species."""
    from keras_apinet.data import prepare
    from keras_apinet.data.birds import SPECIES, draw

    labels = np.arange(count) % len(SPECIES)
    images = [prepare(draw(int(k), i).pixels, side) for i, k in enumerate(labels)]
    return np.stack(images), labels, [species.name for species in SPECIES]


def easy_classes(name: str, count: int) -> Any:
    """Some classes, far apart in the list of a dataset, with the test split as `val`.

    A head on random features can tell these apart, so its predictions are meaningful.
    """
    from keras_apinet import data

    whole = data.load(name)
    step = max(1, len(whole.class_names) // count)
    kept = np.arange(0, len(whole.class_names), step)[:count]
    splits = {}
    for name_of_split, source in (("train", "train"), ("val", "test")):
        split = whole.splits[source]
        part = split.take(np.flatnonzero(np.isin(split.labels, kept)))
        labels = np.searchsorted(kept, part.labels).astype(np.int32)
        splits[name_of_split] = dataclasses.replace(part, labels=labels)
    names = tuple(whole.class_names[k] for k in kept)
    return dataclasses.replace(whole, class_names=names, splits=splits)


def photos_of(split: Any, side: int) -> tuple[Any, Any]:
    """All photos of a split, and their classes."""
    from keras_apinet import data

    batches = list(data.evaluation_batches(split, image_size=side))
    images = np.concatenate([np.asarray(images) for images, _ in batches])
    return images, np.concatenate([np.asarray(labels) for _, labels in batches])


def solved(
    name: str, images: Any, labels: Any, names: list[str], weights: str | None
) -> Any:
    """A model whose head is fitted by ridge regression on its own features."""
    import keras

    import keras_apinet

    keras.utils.set_random_seed(0)
    model = keras_apinet.build(
        name, len(names), image_size=images.shape[1], weights=weights, class_names=names
    )
    if weights is None:
        _measure_statistics(model.feature_model(), images[:64])
    features = np.asarray(model.feature_model().predict(images, verbose=0), "float64")
    # Channels that hardly vary are not scaled up: it would amplify rounding errors.
    mean, scale = features.mean(0), features.std(0) + features.std()
    x = np.c_[(features - mean) / scale, np.ones(len(features))]
    ridge = 0.1 * x.shape[1] * np.eye(x.shape[1])
    head = np.linalg.solve(x.T @ x + ridge, x.T @ (12.0 * np.eye(len(names))[labels]))
    kernel = head[:-1] / scale[:, None]
    model.classifier.set_weights([kernel, head[-1] - mean @ kernel])
    return model


def _measure_statistics(model: Any, images: Any) -> None:
    """Sets the batch-norm statistics to those of a batch, layer after layer."""
    import keras

    from keras_apinet.compat import flatten_layers

    norms = [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images.astype("float32"), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def runner(path: Path, threads: int) -> Any:
    """A function that runs a file on one image."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    image = np.random.default_rng(0).integers(0, 256, given["shape"])
    interpreter.set_tensor(given["index"], image.astype(given["dtype"]))
    return interpreter.invoke


def memory(path: Path) -> float:
    """The peak memory of a process that opens a file and runs it once, MB."""
    command = [sys.executable, "-c", _MEMORY, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(found.stdout) / 1024


def share(value: float | None) -> str:
    """A share in percent, or "-" if it is unknown."""
    return "-" if value is None else f"{value:.1%}"


def main() -> None:
    """Prints and records one line per backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--photos", metavar="DATA")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    files = dict(pair.split("=", 1) for pair in args.weights)
    if args.photos:
        compared: Any = easy_classes(args.photos, args.classes)
        names = list(compared.class_names)
        images, labels = photos_of(compared.splits["train"], args.image_size)
    else:
        images, labels, names = drawn_birds(args.image_size, 480)
        images, compared, labels = images[:320], images[320:], labels[:320]
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: exported(
                solved(name, images, labels, names, weights_of(name, files)),
                compared,
                Path(folder) / name,
            )
            for name in args.backbones
        }
        runs = {
            (name, precision, threads): runner(
                Path(folder) / name / f"{precision}.tflite", threads
            )
            for name in found
            for precision in PRECISIONS
            for threads in (1, 2)
        }
        print(f"Timing {len(runs)} runs in turns ...", flush=True)
        times = medians(in_turns(runs, args.rounds))
        print("Timed.", flush=True)
        peaks = {
            (name, precision): memory(Path(folder) / name / f"{precision}.tflite")
            for name in found
            for precision in PRECISIONS
        }
    columns = ["backbone", "weights", "MB", "ms, 1 thread", "ms, 2 threads"]
    columns += ["memory, MB", "accuracy", "same top-1"]
    rows = []
    for name, (whole, small) in found.items():
        pairs = [
            [f"{one.size / 1e6:.2f}" for one in (whole, small)],
            *(
                [f"{1e3 * times[name, p, threads]:.1f}" for p in PRECISIONS]
                for threads in (1, 2)
            ),
            [f"{peaks[name, p]:.0f}" for p in PRECISIONS],
            [share(one.accuracy) for one in (whole, small)],
        ]
        kind = "random" if weights_of(name, files) is None else "ImageNet"
        cells = [" / ".join(pair) for pair in pairs]
        rows.append([name, kind, *cells, share(small.agreement)])
    print(table(columns, rows))
    subject = Path(args.photos).name if args.photos else "synthetic birds"
    record(
        "phone",
        "Cost of each backbone on a phone",
        columns,
        rows,
        f"float32 / int8; {args.image_size} px, heads fitted in closed form to "
        f"training images of {len(names)} classes of {subject}, nothing fine-tuned. "
        "With random weights, accuracy and agreement say nothing about trained "
        "networks.",
        variant=subject if args.photos else "",
    )


def weights_of(name: str, files: dict[str, str]) -> str | None:
    """The given file, `"imagenet"` if a package has the weights, or `None`."""
    from keras_apinet.backbones.weights import is_packaged

    return files.get(name) or ("imagenet" if is_packaged(name) else None)


def exported(model: Any, compared: Any, folder: Path) -> Any:
    """Writes both files, whatever their loss, and returns the reports."""
    from keras_apinet.export import Exporter
    from keras_apinet.export.formats import Target

    folder.mkdir()
    exporter = Exporter(
        model,
        photos=compared,
        min_agreement=0.0,
        max_difference=1,
        max_logit_difference=1,
    )
    return exporter.write(
        [Target.of(folder / f"{p}.tflite", precision=p) for p in PRECISIONS]
    )


if __name__ == "__main__":
    main()
