"""A full training step: the pairwise method against plain cross-entropy.

    python -m benchmarks.step [--backbone resnet50] [--image-size 224] [--rounds 7]

Two models of the same backbone take steps on the same batch of 8 classes x 4 images
in turn, forwards, backwards and update (AdamW); what is printed is the ratio of the
medians.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--classes-per-batch", type=int, default=8)
    parser.add_argument("--images-per-class", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    import keras

    from keras_apinet import build
    from keras_apinet.losses import CrossEntropy, PairwiseLoss

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(args.classes_per_batch), args.images_per_class)
    shape = (len(labels), args.image_size, args.image_size, 3)
    images = rng.integers(0, 256, shape, "uint8")
    models = {}
    for method, loss in (("baseline", CrossEntropy()), ("pairwise", PairwiseLoss())):
        model = build(args.backbone, args.classes, args.image_size, weights=None)
        model.compile(keras.optimizers.AdamW(1e-4), loss=loss)
        models[method] = model
    times: dict[str, list[float]] = {method: [] for method in models}
    for turn in range(args.rounds + 2):
        # Whoever is first in one round is second in the next.
        for method in sorted(models, reverse=bool(turn % 2)):
            began = time.perf_counter()
            float(models[method].train_on_batch(images, labels)[0])
            if turn >= 2:  # the first ones compile
                times[method].append(time.perf_counter() - began)
    medians = {method: statistics.median(found) for method, found in times.items()}
    for method, median in medians.items():
        print(
            f"{method}  {median * 1000:8.0f} ms  {len(labels) / median:8.1f} images/s"
        )
    print(
        f"pairwise / baseline: {medians['pairwise'] / medians['baseline']:.3f} "
        f"({args.backbone}, {args.image_size} px, batch {len(labels)}, "
        f"{keras.backend.backend()})"
    )


if __name__ == "__main__":
    main()
