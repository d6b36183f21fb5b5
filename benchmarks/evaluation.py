"""Evaluation of many images: speed compared with plain `predict`, and memory.

    python -m benchmarks.evaluation [--images 10000] [--backbone mobilenet_v2]

The photos are JPEG files and are read again each time. Plain `predict` is Keras's own,
over the same batches, with a single model output, and keeps only the scores; the
evaluation also keeps the features, and bootstraps at the end. The evaluation runs
between two halves of plain `predict`, so that a busy machine slows down both.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

from benchmarks.pipeline import draw_photos
from benchmarks.results import record

CLASSES, BATCH = 40, 64


def main() -> None:
    """Prints the ratio of speeds and the growth of memory."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=160)
    args = parser.parse_args()

    import keras

    from keras_apinet import build
    from keras_apinet.data import evaluation_batches, load
    from keras_apinet.evaluate import compute_metrics
    from keras_apinet.evaluate.predictions import Predictions, predict_split

    size = args.image_size
    model = build(args.backbone, CLASSES, image_size=size, weights=None)
    plain = keras.Sequential([model.feature_model(), model.classifier])

    def predict(part: Any) -> None:
        batches = evaluation_batches(part, image_size=size, batch_size=BATCH)
        plain.predict(batches.map(lambda x, _: x), verbose=0)

    def evaluate(part: Any) -> Predictions:
        return predict_split(model, part, image_size=size, batch_size=BATCH)

    rows = np.arange(args.images)
    with tempfile.TemporaryDirectory() as folder:
        draw_photos(Path(folder) / "photos", CLASSES)
        train = load(str(Path(folder) / "photos")).splits["train"]
        split = train.take(rows % len(train))
        halves = [split.take(half) for half in np.array_split(rows, 2)]
        predict(split.take(rows[:BATCH]))
        evaluate(split.take(rows[:BATCH]))
        before = peak_mb()
        first, _ = timed(predict, halves[0])
        spent, seen = timed(evaluate, split)
        second, _ = timed(predict, halves[1])
        grown = peak_mb() - before
    names = [str(c) for c in range(CLASSES)]
    figures, _ = timed(lambda x: compute_metrics(x, names, temperature=1.2), seen)
    plain_s = first + second
    print(f"plain predict          {args.images / plain_s:8.1f} images/s")
    print(f"evaluation             {args.images / spent:8.1f} images/s")
    print(f"figures and intervals  {figures:8.1f} s")
    print(
        f"evaluation / plain predict: {plain_s / spent:.2f}, with all figures and "
        f"intervals {plain_s / (spent + figures):.2f}"
    )
    pixels = args.images * size * size * 3 / 2**20
    kept = (seen.features.nbytes + seen.logits.nbytes) / 2**20
    print(
        f"peak memory grew by {grown:.0f} MB; all pixels are {pixels:.0f} MB, features "
        f"and scores {kept:.0f} MB, a batch {pixels * BATCH / args.images:.0f} MB"
    )
    record(
        "evaluation",
        "Evaluation of many images, compared with plain predict",
        ["", "measured"],
        [
            ["plain predict", f"{args.images / plain_s:.1f} images/s"],
            ["evaluation", f"{args.images / spent:.1f} images/s"],
            ["figures and intervals", f"{figures:.1f} s"],
            ["speed of evaluation / plain", f"{plain_s / spent:.2f}"],
            ["the same with all figures", f"{plain_s / (spent + figures):.2f}"],
            ["growth of peak memory", f"{grown:.0f} MB"],
            ["features and scores", f"{kept:.0f} MB"],
        ],
        f"{args.images:,} JPEG files, {args.backbone} at {size} px, batch {BATCH}; "
        "target 0.90.",
        headline={
            "images/s of evaluation / plain predict": f"{plain_s / spent:.2f}",
        },
    )


def timed(run: Callable[[Any], Any], what: Any) -> tuple[float, Any]:
    """The time of `run(what)` in seconds, and its result."""
    start = time.perf_counter()
    result = run(what)
    return time.perf_counter() - start, result


def peak_mb() -> float:
    """The peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
