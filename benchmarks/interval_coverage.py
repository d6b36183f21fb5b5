"""Checks that the 95 % intervals contain the true value in 93 to 97 of 100 test sets.

    python -m benchmarks.interval_coverage [--sets 400] [--sharpness 1.6]

Test sets are simulated from a known model: 8 classes, features around class centers,
and logits that are too sharp (at sharpness 1.235 they are calibrated). The true value
of each figure is its value on a very large set. For figures of single classes, the
reported share is the mean over classes.
"""

import argparse

import numpy as np

from benchmarks.results import record
from keras_apinet.evaluate.metrics import Scores, class_rows, with_intervals

CLASSES, IMAGES, WIDTH = 8, 1000, 6
CENTRES = np.random.default_rng(7).normal(size=(CLASSES, WIDTH))


def simulated(rng: np.random.Generator, images: int, sharpness: float) -> Scores:
    """A test set: features around class centers, logits of a linear classifier."""
    labels = rng.integers(0, CLASSES, images)
    x = CENTRES[labels] + rng.normal(size=(images, WIDTH)) * 0.9
    logits = sharpness * (x @ CENTRES.T - (CENTRES**2).sum(1) / 2)
    return Scores.of(labels, logits)


def coverage(sets: int, repeats: int, sharpness: float) -> dict[str, float]:
    """For each figure, the share of sets whose interval contains the true value."""
    rng = np.random.default_rng(0)
    scores = [simulated(rng, IMAGES, sharpness) for _ in range(sets)]
    drawn = [with_intervals(one, repeats=repeats) for one in scores]
    large = simulated(rng, 1_000_000, sharpness)
    truth = large.figures()
    result = {
        name: float(
            np.mean([one[name]["low"] <= value <= one[name]["high"] for one in drawn])
        )
        for name, value in truth.items()
    }
    names = [str(c) for c in range(CLASSES)]
    true_rows = class_rows(large, names)
    for name in ("precision", "recall", "f1"):
        held = [
            row["intervals"][name][0] <= true[name] <= row["intervals"][name][1]
            for one in scores
            for row, true in zip(class_rows(one, names), true_rows, strict=True)
        ]
        result[f"{name} of a class"] = float(np.mean(held))
    return result


def main() -> None:
    """Prints and records one line per figure."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--sharpness", type=float, default=1.6)
    args = parser.parse_args()
    print(f"{args.sets} sets of {IMAGES} images, {args.repeats} samples each")
    found = coverage(args.sets, args.repeats, args.sharpness)
    for name, share in found.items():
        print(f"{name:26}{share:8.1%}")
    record(
        "interval_coverage",
        "Coverage of the 95 % intervals",
        ["figure", "share of the test sets"],
        [[name, f"{share:.1%}"] for name, share in found.items()],
        f"{args.sets} simulated test sets of {IMAGES} images, {args.repeats} bootstrap "
        f"samples each, sharpness {args.sharpness:g}.",
    )


if __name__ == "__main__":
    main()
