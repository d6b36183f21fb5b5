"""The exported classifier against a plain classifier on the same backbone.

    python -m benchmarks.export_latency [--backbones NAME ...] [--image-size 128]

Prints whether the operation lists are equal, the ratio of the sizes, and the ratio of
the median times of one image, measured in turns so that the machine's moods cancel out.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np


def plain_file(name: str, side: int, classes: int, path: Path) -> None:
    """Writes scaling, backbone, pooling and classifier with Keras's own export."""
    import keras

    from keras_apinet import backbones

    backbone = backbones.create(name, side, None)
    image = keras.Input((side, side, 3))
    pixels = image if backbone.scaling is None else backbone.scaling(image)
    features = backbone.model(pixels)
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D()(features)
    outputs = keras.layers.Dense(classes, activation="softmax")(features)
    signature = [keras.InputSpec(shape=(1, side, side, 3), dtype="float32")]
    keras.Model(image, outputs).export(
        str(path), format="litert", input_signature=signature, verbose=False
    )


def opened(path: Path) -> Any:
    """An interpreter with an image set."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    taken = interpreter.get_input_details()[0]
    image = np.random.default_rng(0).uniform(0, 255, taken["shape"])
    interpreter.set_tensor(taken["index"], image.astype(taken["dtype"]))
    return interpreter


def time_ratio(ours: Any, plain: Any, rounds: int) -> float:
    """Median of the ratios of two short runs each, first one first, then the other."""

    def run(interpreter: Any) -> float:
        start = time.perf_counter()
        for _ in range(3):
            interpreter.invoke()
        return time.perf_counter() - start

    for interpreter in (ours, plain):
        run(interpreter)
    ratios = []
    for i in range(rounds):
        if i % 2:
            ratios.append(run(ours) / run(plain))
        else:
            ratios.append(1 / (run(plain) / run(ours)))
    return statistics.median(ratios)


def main() -> None:
    """Prints one line for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = ["mobilenet_v2", "efficientnetv2b0", "resnet50"]
    parser.add_argument("--backbones", nargs="+", default=known)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=150)
    args = parser.parse_args()
    import keras_apinet
    from keras_apinet.export import export_classifier

    print(
        "| backbone | operations | size ratio | time ratio | plain against itself |\n"
        "|---|---|---|---|---|",
        flush=True,
    )
    for name in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            ours, plain = Path(folder) / "ours.tflite", Path(folder) / "plain.tflite"
            model = keras_apinet.build(
                name, 81, image_size=args.image_size, weights=None
            )
            export_classifier(model, ours, verify=False)
            plain_file(name, args.image_size, 81, plain)
            first, second, again = opened(ours), opened(plain), opened(plain)
            lists = [
                [detail["op_name"] for detail in interpreter._get_ops_details()]
                for interpreter in (first, second)
            ]
            same = "equal" if lists[0] == lists[1] else "DIFFERENT"
            sizes = ours.stat().st_size / plain.stat().st_size
            print(
                f"| {name} | {len(lists[0])}, {same} | {sizes:.4f} | "
                f"{time_ratio(first, second, args.rounds):.3f} | "
                f"{time_ratio(again, second, args.rounds):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
