"""A full training step: the pairwise method compared with plain cross-entropy.

    python -m benchmarks.step [--backbones resnet50 ...] [--image-size 224]

Three models with the same backbone take turns at training steps (forward pass, backward
pass, AdamW update) on the same batch of 8 classes x 4 images; the result is the ratio
of the median times. The third model adds the cross-entropy of the single images to that
of the pairs.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.results import accelerator, record
from benchmarks.turns import in_turns, medians


def measure(args: argparse.Namespace, backbone: str) -> dict[str, float]:
    """The median time of a step of each method, in seconds."""
    import keras

    from keras_apinet import build
    from keras_apinet.losses import CrossEntropy, PairwiseLoss

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(args.classes_per_batch), args.images_per_class)
    shape = (len(labels), args.image_size, args.image_size, 3)
    images = rng.integers(0, 256, shape, "uint8")
    steps = {}
    losses = {
        "baseline": CrossEntropy(),
        "pairwise": PairwiseLoss(),
        "single": PairwiseLoss(single_image_weight=1.0),
    }
    for method, loss in losses.items():
        model = build(backbone, args.classes, args.image_size, weights=None)
        model.compile(keras.optimizers.AdamW(1e-4), loss=loss)
        steps[method] = lambda m=model: float(m.train_on_batch(images, labels)[0])
    return medians(in_turns(steps, args.rounds))


def main() -> None:
    """Prints and records the medians and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--backbones", nargs="+", default=["resnet50"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--classes-per-batch", type=int, default=8)
    parser.add_argument("--images-per-class", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    import keras

    backend = keras.backend.backend()
    batch = args.classes_per_batch * args.images_per_class
    where = "GPU" if accelerator() else "CPU"
    rows, ratios = [], []
    for backbone in args.backbones:
        found = measure(args, backbone)
        ratio = found["pairwise"] / found["baseline"]
        single = found["single"] / found["baseline"]
        times = [f"{seconds * 1000:.0f} ms" for seconds in found.values()]
        rates = [f"{batch / found[m]:.1f}" for m in ("baseline", "pairwise")]
        print(
            f"{backbone}: baseline {times[0]}, pairwise {times[1]}, {rates[1]} "
            f"images/s, with single images {times[2]} ({single:.3f} of the baseline)"
        )
        print(
            f"pairwise / baseline: {ratio:.3f} ({backbone}, {args.image_size} px, "
            f"batch {batch}, {backend})",
            flush=True,
        )
        rows.append([backbone, *times, *rates, f"{ratio:.3f}", f"{single:.3f}"])
        ratios.append(ratio)
    record(
        "step",
        "Training step with pairs, compared with plain cross-entropy",
        [
            "backbone",
            *("baseline", "pairwise", "with single images"),
            *("images/s", "images/s, pairs"),
            *("ratio", "ratio with single images"),
        ],
        rows,
        f"{args.image_size} px, batch {batch}, {args.classes} classes, {where}, "
        f"{args.rounds} rounds; target on a CPU 1.05, on a GPU 1.03.",
        variant=f"{backend}_{args.image_size}px_{where.lower()}",
        headline={
            f"training step pairwise / baseline at {args.image_size} px, largest of "
            f"{len(ratios)}, {backend}": f"{max(ratios):.2f}"
        },
    )


if __name__ == "__main__":
    main()
