"""Training step of the head, compared with a straightforward torch implementation.

    python -m benchmarks.head [--images 120] [--channels 2048] [--classes 200]

A step is mining, interaction, classifier, loss, backward pass and update (SGD with
momentum 0.9) on one batch of features, without a backbone. Both implementations take
turns in one process, on the same features and labels, with the same dropout rate; the
features start in host memory, as a pipeline delivers them. `benchmarks/torch_head.py`
is the torch implementation.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import torch  # before TensorFlow

from benchmarks.features import feature_batch, head_model
from benchmarks.results import accelerator, backend, record
from benchmarks.torch_head import TorchHead
from benchmarks.turns import in_turns, medians


def main() -> None:
    """Prints and records the medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()

    import keras

    features, labels = feature_batch(args.images, args.channels, args.classes)
    ours = head_model(args.channels, args.classes, seed=0)
    ours.compile(keras.optimizers.SGD(0.01, momentum=0.9))

    device = "cuda" if torch.cuda.is_available() else "cpu"
    theirs = TorchHead(args.channels, args.classes).to(device)
    sgd = torch.optim.SGD(theirs.parameters(), 0.01, momentum=0.9)

    def keras_step() -> float:
        return float(ours.train_on_batch({"features": features}, labels)[0])

    def torch_step() -> float:
        x = torch.from_numpy(features).to(device)
        y = torch.from_numpy(labels).long().to(device)
        sgd.zero_grad()
        loss = theirs(x, y)
        loss.backward()
        sgd.step()
        return loss.item()

    name = f"keras_apinet on {backend()}"
    steps = {name: keras_step, "plain torch": torch_step}
    found = medians(in_turns(steps, args.rounds, warm_up=5))
    ratio = found[name] / found["plain torch"]
    for side, median in found.items():
        print(f"{side:28}{median * 1000:8.2f} ms")
    print(f"ratio {ratio:.3f}")
    size = f"{args.images} images, {args.channels} channels, {args.classes} classes"
    where = "GPU" if accelerator() else "CPU"
    record(
        "head",
        "Training step of the head, compared with plain torch with mining on the host",
        ["", "median of a step", "ratio to plain torch"],
        [
            [side, f"{median * 1000:.2f} ms", f"{median / found['plain torch']:.3f}"]
            for side, median in found.items()
        ],
        f"{size}; {where}; target on a CPU 0.70, on a GPU 0.30 (the better backend).",
        variant=f"{backend()}_{where.lower()}",
        headline={f"head's training step / plain torch, {backend()}": f"{ratio:.2f}"},
    )


if __name__ == "__main__":
    main()
