"""Which backbones convert to full int8, and what they lose.

    python -m benchmarks.export_backbones [--backbones NAME ...] [--photos FOLDER]
        [--weights NAME=FILE ...] [--image-size 128]

For each backbone: pretrained weights if a file is given, else random ones whose batch
statistics are measured on the photos; a linear head solved for on training photos; then
the int8 file against the Keras model on validation photos, and its size and time
against float32. `--photos` is a data set of `keras_apinet.data.load`; without it birds
are drawn.
"""

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

from benchmarks.results import line, record, table

BACKBONES = (
    "tiny",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "nasnetmobile",
    "efficientnetb0",
    "efficientnetv2b0",
    "resnet50",
    "resnet50v2",
    "densenet121",
    "inception_v3",
    "xception",
    "convnext_tiny",
)


def drawn_birds(side: int, count: int = 160) -> tuple[Any, Any, list[str]]:
    """Drawn birds of `side` px, their species, and the species' names."""
    from keras_apinet.data import prepare
    from keras_apinet.data.birds import SPECIES, draw

    labels = np.arange(count) % len(SPECIES)
    images = [prepare(draw(int(k), i).pixels, side) for i, k in enumerate(labels)]
    return np.stack(images), labels, [species.name for species in SPECIES]


def easy_classes(name: str, count: int) -> Any:
    """Some classes of a data set, far apart in its list; tested on the test split.

    A head on random features can tell these apart, so that its answers mean something.
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
    """Every photo of a split, and its class."""
    from keras_apinet import data

    batches = list(data.evaluation_batches(split, image_size=side))
    images = np.concatenate([np.asarray(images) for images, _ in batches])
    return images, np.concatenate([np.asarray(labels) for _, labels in batches])


def solved(
    name: str, images: Any, labels: Any, names: list[str], weights: str | None
) -> Any:
    """A model whose head is solved for by ridge regression on its own features."""
    import keras

    import keras_apinet

    keras.utils.set_random_seed(0)
    model = keras_apinet.build(
        name, len(names), image_size=images.shape[1], weights=weights, class_names=names
    )
    if weights is None:
        _measure_statistics(model.feature_model(), images[:64])
    features = np.asarray(model.feature_model().predict(images, verbose=0), "float64")
    mean, scale = features.mean(0), features.std(0) + 1e-6
    x = np.c_[(features - mean) / scale, np.ones(len(features))]
    ridge = 0.1 * x.shape[1] * np.eye(x.shape[1])
    head = np.linalg.solve(x.T @ x + ridge, x.T @ (12.0 * np.eye(len(names))[labels]))
    kernel = head[:-1] / scale[:, None]
    model.classifier.set_weights([kernel, head[-1] - mean @ kernel])
    return model


def _measure_statistics(model: Any, images: Any) -> None:
    """Sets batch-norm statistics to those of a batch, layer after layer."""
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


def share(value: float | None) -> str:
    """A share in percent, if it is known."""
    return "-" if value is None else f"{value:.1%}"


def main() -> None:
    """Prints one line for each backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--photos", metavar="DATA")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=128)
    args = parser.parse_args()
    from keras_apinet.errors import APINetError
    from keras_apinet.export import Exporter
    from keras_apinet.export.formats import Target

    files = dict(pair.split("=", 1) for pair in args.weights)
    if args.photos:
        compared: Any = easy_classes(args.photos, args.classes)
        names = list(compared.class_names)
        images, labels = photos_of(compared.splits["train"], args.image_size)
    else:
        images, labels, names = drawn_birds(args.image_size, 480)
        images, compared, labels = images[:320], images[320:], labels[:320]
    columns = ["backbone", "weights", "float32", "int8", "size ratio"]
    columns += ["accuracy float32", "accuracy int8", "top-1 agreement", "time ratio"]
    rows = []
    print(table(columns, []), flush=True)
    for name in args.backbones:
        model = solved(name, images, labels, names, files.get(name))
        kind = "pretrained" if name in files else "random"
        with tempfile.TemporaryDirectory() as folder:
            exporter = Exporter(
                model,
                photos=compared,
                min_agreement=0.0,
                max_difference=1,
                max_logit_difference=1,
            )
            targets = [
                Target.of(Path(folder) / f"{precision}.tflite", precision=precision)
                for precision in ("float32", "int8")
            ]
            try:
                whole, small = exporter.write(targets)
            except APINetError as error:
                rows.append([name, kind, str(error), *[""] * 6])
                print(line(rows[-1]), flush=True)
                continue
        rows.append(
            [
                *(name, kind),
                *(f"{one.size / 1e6:.2f} MB" for one in (whole, small)),
                f"{small.size / whole.size:.3f}",
                *(share(one.accuracy) for one in (whole, small)),
                f"{small.agreement:.1%}",
                f"{small.latency_ms / whole.latency_ms:.2f}",
            ]
        )
        print(line(rows[-1]), flush=True)
    record(
        "export_backbones",
        "Full int8 against float32, backbone by backbone",
        columns,
        rows,
        f"TFLite, {args.image_size} px, heads solved for on training images of "
        f"{Path(args.photos).name if args.photos else 'drawn birds'}.",
        variant=Path(args.photos).name if args.photos else "",
    )


if __name__ == "__main__":
    main()
