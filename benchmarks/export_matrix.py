"""Compares every export format with Keras, for several backbones and every backend.

    python -m benchmarks.export_matrix [--backbones NAME ...] [--image-size 96]

Runs one process for each of TensorFlow, JAX and torch. Each builds the backbones with
random weights and a head fitted in closed form to synthetic birds, writes float32,
float16, dynamic and int8 TFLite, SavedModel and ONNX, and prints the difference of each
from Keras. Files are written whatever their difference.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.results import backend, record

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BACKBONES = ("mobilenet_v2", "efficientnetv2b0", "resnet50")
TARGETS = (
    ("tflite", "float32"),
    ("tflite", "float16"),
    ("tflite", "dynamic"),
    ("tflite", "int8"),
    ("saved_model", "float32"),
    ("onnx", "float32"),
)


def measure(backbones: list[str], image_size: int) -> None:
    """Prints and records the table of one backend."""
    from benchmarks.phone import drawn_birds, solved
    from keras_apinet.export import FORMATS, Exporter
    from keras_apinet.export.formats import Target
    from keras_apinet.export.verification import reports_table

    reports = []
    for name in backbones:
        images, labels, names = drawn_birds(image_size)
        model = solved(name, images, labels, names, None)
        with tempfile.TemporaryDirectory() as folder:
            targets = [
                Target.of(
                    Path(folder) / f"{name}-{precision}{FORMATS[form]}", form, precision
                )
                for form, precision in TARGETS
            ]
            exporter = Exporter(
                model,
                photos=images,
                min_agreement=0.0,
                max_difference=1,
                max_logit_difference=1,
            )
            reports += exporter.write(targets)
    shown = reports_table(reports)
    print(shown, flush=True)
    lines = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in shown.splitlines()
    ]
    record(
        "export_matrix",
        "Every export format compared with Keras, for every training backend",
        lines[0],
        lines[2:],
        f"{image_size} px, random weights, heads fitted in closed form to synthetic "
        "birds.",
        variant=backend(),
    )


def main() -> None:
    """Starts one process for each backend."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        sys.argv.remove("--here")  # not part of the recorded command
        measure(args.backbones, args.image_size)
        return
    for trained_on in ("tensorflow", "jax", "torch"):
        print(f"\nTrained on {trained_on}:\n", flush=True)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.export_matrix", *sys.argv[1:], "--here"],
            env={**os.environ, "KERAS_BACKEND": trained_on},
            stderr=subprocess.DEVNULL,
            check=True,
        )


if __name__ == "__main__":
    main()
