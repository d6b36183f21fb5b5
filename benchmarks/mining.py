"""Training step of the head: scaling with images and classes, and time by part.

    python -m benchmarks.mining [--images 30 ... 4096] [--classes 10 ... 100000]

A step is `train_on_batch` on features: mining, interaction, classifier, loss, update
(SGD with momentum), without a backbone. Each point is measured in its own child
process: the median time of a step, and the increase of the process's peak memory (on a
GPU, the device's) over a first step with 8 images, which already allocates weights,
momentum and the compiler. The exponent is the slope of a line through the last points
in log-log scale. The parts are compiled and timed separately, so they need not add up
to the step.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.features import feature_batch, head_model
from benchmarks.results import accelerator, backend, record
from benchmarks.turns import in_turns, medians


def exponent(sizes: Sequence[float], values: Sequence[float], last: int = 3) -> float:
    """The exponent b of `a * size ** b`, fitted to the last points."""
    logs = np.log(np.asarray([sizes[-last:], values[-last:]], "float64"))
    return float(np.polyfit(logs[0], logs[1], 1)[0])


def peak_bytes() -> int:
    """Peak memory so far, of the device or of this process."""
    from keras_apinet.train.devices import peak_memory

    on_device = peak_memory()
    if on_device is not None:
        return on_device
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def point(images: int, channels: int, classes: int, seconds: float) -> dict[str, float]:
    """Median time and memory of a step of one size, in seconds and bytes."""
    import keras

    model = head_model(channels, classes, seed=0)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))

    def step(batch: tuple[np.ndarray, np.ndarray]) -> float:
        features, labels = batch
        began = time.perf_counter()
        float(model.train_on_batch({"features": features}, labels)[0])
        return time.perf_counter() - began

    step(feature_batch(8, channels, classes))
    before = peak_bytes()
    batch = feature_batch(images, channels, classes)
    step(batch)
    times = [step(batch) for _ in range(3)]
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        times.append(step(batch))
    return {"s": float(np.median(times)), "bytes": peak_bytes() - before}


def needed_bytes(images: int, channels: int, classes: int) -> int:
    """A rough lower bound on the memory of a step in float32.

    Counts distances `[N, N]`, the four gated features and both features of each pair,
    and the logits with their gradient.
    """
    pairs = 2 * images
    return 4 * (images**2 + 6 * pairs * channels + 2 * 4 * pairs * classes)


def in_child(images: int, channels: int, classes: int, seconds: float) -> Any:
    """Runs `point` in its own process."""
    size = f"{images},{channels},{classes}"
    command = f"-m benchmarks.mining --point {size} --seconds {seconds}"
    child = subprocess.run(
        [sys.executable, *command.split()],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(child.stdout.splitlines()[-1])
    print(f"{size:20}{found['s'] * 1000:10.1f} ms{found['bytes'] / 1e6:10.0f} MB")
    return found


def parts(images: int, channels: int, classes: int, rounds: int) -> list[list[str]]:
    """Rows of the table of times by part."""
    import keras
    from keras import ops

    from benchmarks.parts import compiled, compiled_update, finished

    model = head_model(channels, classes, seed=0)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    features, labels = feature_batch(images, channels, classes)
    given = {"features": features}
    x, y = ops.convert_to_tensor(features), ops.convert_to_tensor(labels)
    jit = model.jit_compile  # what Keras does with the whole step
    mine = compiled(lambda x, y: model.miner(x, y), jit=jit)
    pairs = mine(x, y)
    anchors, partners = pairs[0], pairs[1]
    inputs = keras.Variable(features)
    gated = keras.Variable(np.tile(features, (8, 1)).reshape(-1, 2, channels))
    rows = ops.concatenate(
        [ops.take(y, anchors, axis=0), ops.take(y, partners, axis=0)]
    )

    def interaction(anchors: Any, partners: Any) -> Any:
        layer = model.interaction
        four = layer(inputs, pairs=(anchors, partners), training=True)
        return sum(ops.sum(ops.square(one)) for one in four)

    def loss(rows: Any) -> Any:
        logits = model.classifier(model.dropout(gated, training=True))
        return model.loss(rows, logits)

    weights = model.interaction.trainable_variables
    interact = compiled(interaction, [inputs, *weights], jit)
    classify = compiled(loss, [gated, *model.classifier.trainable_variables], jit)
    update = compiled_update(
        keras.optimizers.SGD(0.01, momentum=0.9), model.trainable_variables, jit
    )
    gradients = [ops.zeros(v.shape) for v in model.trainable_variables]
    found = medians(
        in_turns(
            {
                "mining": lambda: finished(mine(x, y)),
                "interaction, forward and backward": lambda: finished(
                    interact(anchors, partners)
                ),
                "classifier and loss, forward and backward": lambda: finished(
                    classify(rows)
                ),
                "update": lambda: finished(update(*gradients)),
                "whole step": lambda: float(model.train_on_batch(given, labels)[0]),
            },
            rounds,
        )
    )
    whole = found["whole step"]
    return [
        [name, f"{s * 1000:.2f} ms", f"{s / whole:.0%}"] for name, s in found.items()
    ]


def main() -> None:
    """Prints and records scaling and parts."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    known = [30, 60, 120, 256, 512, 1024, 2048, 4096]
    parser.add_argument("--images", type=int, nargs="+", default=known)
    parser.add_argument("--channels", type=int, nargs="+", default=[512, 1024, 2048])
    known = [10, 100, 1000, 10_000, 100_000]
    parser.add_argument("--classes", type=int, nargs="+", default=known)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each point")
    parser.add_argument("--rounds", type=int, default=100, help="for the parts")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        size = [int(n) for n in args.point.split(",")]
        print(json.dumps(point(size[0], size[1], size[2], args.seconds)))
        return

    series = [
        [(images, channels, 200) for images in args.images]
        for channels in args.channels
    ]
    series.append([(120, args.channels[0], classes) for classes in args.classes])
    rows, headline = [], {}
    for sizes in series:
        by_classes = sizes is series[-1]
        grown = [size[2 if by_classes else 0] for size in sizes]
        found = [in_child(*size, args.seconds) for size in sizes]
        for size, one in zip(sizes, found, strict=True):
            rows.append(
                [f"{n:,}" for n in size]
                + [f"{one['s'] * 1000:.1f} ms", f"{one['bytes'] / 1e6:.0f} MB"]
                + [f"{needed_bytes(*size) / 1e6:.0f} MB"]
            )
        slopes = [
            exponent(grown, [max(one[k], 1e-9) for one in found]) for k in found[0]
        ]
        what = "classes" if by_classes else "images"
        rows.append(
            [f"exponent, last 3, by {what}", f"{sizes[0][1]:,}", ""]
            + [f"{slope:.2f}" for slope in slopes]
            + [""]
        )
        headline[f"scaling exponent of the head's time with {what}, {backend()}"] = (
            f"{slopes[0]:.2f}"
        )
    where = "GPU" if accelerator() else "CPU"
    record(
        "mining",
        "Training step of the head: scaling with images and classes, time by part",
        ["images N", "channels D", "classes C", "median", "memory", "arrays needed"],
        rows,
        "Memory: increase of the peak over a step with 8 images. Arrays needed: "
        "distances [N, N], features of pairs 6 x [2N, D], logits and their gradient "
        f"2 x [8N, C], float32. {where}.",
        variant=f"growth_{backend()}_{where.lower()}",
        headline=headline,
    )
    size = (120, args.channels[-1], 200)
    table = parts(*size, args.rounds)
    for row in table:
        print(f"{row[0]:44}{row[1]:>12}{row[2]:>6}")
    record(
        "mining",
        "Training step of the head: scaling with images and classes, time by part",
        ["part", "median", "of the step"],
        table,
        f"{size[0]} images, {size[1]} channels, {size[2]} classes; {where}. Parts are "
        "compiled separately and write to memory what the step keeps in registers.",
        variant=f"parts_{backend()}_{where.lower()}",
    )


if __name__ == "__main__":
    main()
