"""Do the 95 % intervals hold the truth in 93 to 97 of 100 test sets?

    python benchmarks/interval_coverage.py [--sets 400]

Test sets are drawn from a model that is known: 8 classes, features about class centres,
over-confident logits. The truth is each figure's value on a very large set; retrieval
depends on the size of the gallery, so there it is the mean over all simulated sets.
"""

import argparse

import numpy as np

from keras_apinet.evaluate.intervals import with_intervals
from keras_apinet.evaluate.metrics import Scores

CLASSES, IMAGES, WIDTH = 8, 1000, 6
CENTRES = np.random.default_rng(7).normal(size=(CLASSES, WIDTH))


def simulated(rng: np.random.Generator, images: int, features: bool = True) -> Scores:
    """A test set: labels, features about their class, logits of a linear classifier."""
    labels = rng.integers(0, CLASSES, images)
    x = CENTRES[labels] + rng.normal(size=(images, WIDTH)) * 0.9
    logits = 1.6 * (x @ CENTRES.T - (CENTRES**2).sum(1) / 2)
    return Scores.of(labels, logits, x if features else None)


def coverage(sets: int, repeats: int, seed: int = 0) -> dict[str, float]:
    """Share of simulated sets whose interval holds the truth, for each figure."""
    rng = np.random.default_rng(seed)
    drawn = [
        with_intervals(simulated(rng, IMAGES), repeats=repeats) for _ in range(sets)
    ]
    truth = simulated(rng, 1_000_000, features=False).figures()
    for name in ("recall@1", "recall@5", "map@r"):
        truth[name] = float(np.mean([one[name]["value"] for one in drawn]))
    return {
        name: float(
            np.mean([one[name]["low"] <= value <= one[name]["high"] for one in drawn])
        )
        for name, value in truth.items()
    }


def main() -> None:
    """Prints one line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=500)
    args = parser.parse_args()
    print(f"{args.sets} sets of {IMAGES} images, {args.repeats} samples each")
    for name, share in coverage(args.sets, args.repeats).items():
        print(f"{name:26}{share:8.1%}")


if __name__ == "__main__":
    main()
