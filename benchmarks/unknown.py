"""Known against foreign classes: compares scores, selected on validation photos.

    python -m benchmarks.unknown --data FOLDER --weights FILE --known 60 --cache FOLDER

For each of three random choices of known classes, a model is trained. The first 75 % of
EfficientNet-Lite0 are frozen (their outputs, for each photo and its mirror image, are
cached), and the rest is trained on pairs of the known classes only. Thresholds are
fitted on validation photos of known classes. The validation column compares these with
training photos of foreign classes, which no model was trained on. The prototypes'
covariance is shrunk by one half, without tuning: one twentieth was slightly better, but
its decisions do not survive 8 bits. The two cosines of the selected score have equal
weights, also without tuning.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.results import record

SIZE, FROZEN = 192, 0.75
CHOSEN = "prototypes, whitened, and logits"


def frozen_maps(args: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs of the frozen layers for each photo and its mirror image, and labels."""
    from keras_apinet import build, data

    images = data.load(args.data, validation=None)
    model = build(
        "efficientnet_lite0",
        2,
        image_size=SIZE,
        weights=args.weights,
        freeze_fraction=FROZEN,
    )
    frozen = model.frozen_model()
    maps, labels = {}, {}
    for split, part in images.splits.items():
        stem = f"{args.name}_{split}"
        labels[split] = np.asarray(part.labels)
        path = Path(args.cache, f"{stem}_maps.npy")
        if not path.exists():
            found = []
            for pixels, _ in data.evaluation_batches(
                part, image_size=SIZE, batch_size=64
            ):
                pixels = np.asarray(pixels, "float32")
                pair = [
                    frozen.predict_on_batch(x) for x in (pixels, pixels[:, :, ::-1])
                ]
                found.append(np.stack(pair, 1).astype("float16"))
            np.save(path, np.concatenate(found))
        maps[split] = np.load(path, mmap_mode="r", allow_pickle=False)
    return maps, labels


def trained(args: Any, maps: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    """Trains a model of the known classes on the cached maps of their photos."""
    import keras

    from keras_apinet import build
    from keras_apinet.data import BatchPlan
    from keras_apinet.losses import PairwiseLoss

    keras.utils.set_random_seed(seed)
    model = build(
        "efficientnet_lite0",
        args.known,
        image_size=SIZE,
        seed=seed,
        weights=args.weights,
        freeze_fraction=FROZEN,
        batch_norm="inference",
    )
    plan = BatchPlan(labels, 12, 4, seed=seed)
    rng = np.random.default_rng(seed)

    def batches(inputs: Any) -> Any:
        epoch = 0
        while True:
            for step in range(plan.epoch_steps):
                rows = plan.indices(epoch, step)
                yield inputs(rows), labels[rows]
            epoch += 1

    def maps_of(rows: np.ndarray) -> Any:
        side = rng.integers(0, 2, len(rows))
        return {"frozen": maps[rows, side].astype("float32")}

    features = features_of(model, maps)
    loss = PairwiseLoss(label_smoothing=0.1)
    phases: list[tuple[int, float, Any]] = [
        (args.head_epochs, 1e-3, lambda rows: {"features": features[rows]}),
        (args.epochs, 5e-4, maps_of),
    ]
    for epochs, peak, inputs in phases:
        steps = epochs * plan.epoch_steps
        rate = keras.optimizers.schedules.CosineDecay(peak, steps)
        model.compile(
            keras.optimizers.AdamW(rate, weight_decay=5e-4, clipnorm=1.0), loss=loss
        )
        model.fit(batches(inputs), steps_per_epoch=steps, epochs=1, verbose=0)
    return model


def features_of(model: Any, maps: np.ndarray) -> np.ndarray:
    """Pooled features of photos from their cached maps."""
    found = [
        np.asarray(model.features({"frozen": maps[i : i + 256, 0].astype("float32")}))
        for i in range(0, len(maps), 256)
    ]
    return np.concatenate(found)


def pretrained_features(args: Any, maps: Any) -> dict[str, np.ndarray]:
    """Pooled features with the pretrained weights, computed once."""
    from keras_apinet import build

    path = Path(args.cache, f"{args.name}_pretrained.npz")
    if not path.exists():
        model = build(
            "efficientnet_lite0",
            2,
            image_size=SIZE,
            weights=args.weights,
            freeze_fraction=FROZEN,
        )
        np.savez(
            path, **{split: features_of(model, part) for split, part in maps.items()}
        )
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def head_on(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits a logistic classifier to features: kernel `[D, C]` and bias `[C]`."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = x.mean(0), x.std(0).mean()
    fitted = LogisticRegression(C=0.02, max_iter=60).fit((x - mean) / scale, y)
    kernel = fitted.coef_.T / scale
    return kernel, fitted.intercept_ - mean @ kernel


def scores_of(
    x: np.ndarray, y: np.ndarray, head: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Scores, higher for known classes, fitted to features `x` and labels `y`."""
    from scipy.special import logsumexp, softmax
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    from keras_apinet.open_world.unknown import Prototypes, outstanding

    kernel, bias = head

    def logits(z: np.ndarray) -> np.ndarray:
        return z @ kernel + bias

    def unit(z: np.ndarray) -> np.ndarray:
        return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)

    means = np.stack([x[y == c].mean(0) for c in range(len(bias))])
    plain = unit(np.stack([unit(x[y == c]).mean(0) for c in range(len(bias))]))
    covariance = LedoitWolf(assume_centered=True).fit(x - means[y])
    root = np.linalg.cholesky(covariance.precision_)
    mu = means @ root

    def mahalanobis(z: np.ndarray) -> np.ndarray:
        w = z @ root
        far = (w**2).sum(1)[:, None] - 2 * w @ mu.T + (mu**2).sum(1)
        return -far.min(1)

    near = NearestNeighbors(n_neighbors=5).fit(unit(x))
    origin = -np.linalg.pinv(kernel.T) @ bias  # where all logits are zero
    rank = min(512, len(x) // 2)
    rest = PCA(rank, svd_solver="randomized", random_state=0).fit(x - origin)
    basis = rest.components_

    def residual(z: np.ndarray) -> np.ndarray:
        z = z - origin
        return np.linalg.norm(z - z @ basis.T @ basis, axis=1)

    alpha = logits(x).max(1).mean() / residual(x).mean()
    whitened = Prototypes.fit(x, y)
    return {
        "largest probability": lambda z: softmax(logits(z), axis=1).max(1),
        "largest logit": lambda z: logits(z).max(1),
        "energy": lambda z: logsumexp(logits(z), axis=1),
        "ViM": lambda z: logsumexp(logits(z), axis=1) - alpha * residual(z),
        "Mahalanobis": mahalanobis,
        "nearest neighbors (5th)": lambda z: -near.kneighbors(unit(z))[0][:, -1],
        "prototypes, cosine": lambda z: (unit(z) @ plain.T).max(1),
        "prototypes, whitened": lambda z: whitened.similarities(z).max(1),
        "logits, centered, cosine": lambda z: outstanding(logits(z)).max(1),
        CHOSEN: lambda z: (whitened.similarities(z) + outstanding(logits(z))).max(1),
    }


def main() -> None:
    """Trains, scores, prints and records."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cache", required=True, help="folder for frozen outputs")
    parser.add_argument("--name", required=True, help="name of the dataset")
    parser.add_argument("--known", type=int, required=True)
    parser.add_argument(
        "--epochs",
        type=int,
        default=8,
        help="0 for a logistic head on pretrained features",
    )
    parser.add_argument("--head-epochs", type=int, default=15)
    parser.add_argument("--choices", type=int, default=3)
    args = parser.parse_args()

    from keras_apinet.evaluate.measures import detection
    from keras_apinet.files.features import Features
    from keras_apinet.open_world.unknown import Unknown

    store = frozen_maps(args)
    classes = int(max(found.max() for found in store[1].values())) + 1
    table: dict[str, list[dict[str, float]]] = {}
    fitted: list[dict[str, float]] = []
    for choice in range(args.choices):
        path = Path(args.cache, f"{args.name}_{args.epochs}_{choice}.npz")
        if not path.exists():
            np.savez(path, **choice_features(args, *store, classes, choice))
        with np.load(path, allow_pickle=False) as file:
            part = dict(file)
        x, y, test, truth = (
            part[key] for key in ("train_x", "train_y", "test_x", "test_y")
        )
        head = part["W"], part["b"]
        right = (test @ head[0] + head[1]).argmax(1) == truth
        is_known = truth >= 0
        for name, score in scores_of(x, y, head).items():
            # As in the package, fitting and selection do not use test photos.
            chosen = detection(
                score(part["val_x"]), score(part["foreign_x"]), repeats=0
            )
            seen = score(test)
            final = detection(seen[is_known], seen[~is_known])
            row = {"val": chosen["auroc"]["value"]}
            for key in ("auroc", "rejected"):
                row |= {key: final[key]["value"]}
                row |= {f"{key}_{end}": final[key][end] for end in ("low", "high")}
            table.setdefault(name, []).append(row)
        held_out = Features(part["val_x"], part["val_y"], np.arange(len(part["val_y"])))
        train = Features(x, y, np.arange(len(y)))
        logits = [z @ head[0] + head[1] for z in (part["val_x"], test)]
        unknown = Unknown.fit(train, held_out, logits[0], keep=0.95)
        kept = unknown.margins(test, logits[1]) >= 0
        fitted.append(
            {
                "top1": right[is_known].mean(),
                "top1_kept": right[is_known & kept].mean(),
                "kept": kept[is_known].mean(),
                "rejected": (~kept)[~is_known].mean(),
            }
        )
        print(choice, fitted[-1], flush=True)
        for name, found in table.items():
            shown = {key: round(float(v), 3) for key, v in found[-1].items()}
            print(f"  {name:28}", shown, flush=True)
    finish(args, table, fitted, classes)


def choice_features(
    args: Any, maps: Any, labels: Any, classes: int, choice: int
) -> dict[str, np.ndarray]:
    """Features of all photos from a model of one random choice of known classes."""
    from keras_apinet.open_world.unknown import FEWEST_IMAGES

    known = np.sort(np.random.default_rng(choice).permutation(classes)[: args.known])
    place = np.full(classes, -1)
    place[known] = np.arange(args.known)
    target = {split: place[found] for split, found in labels.items()}
    rows = np.flatnonzero(target["train"] >= 0)
    held, held_split = np.flatnonzero(target.get("val", place[:0]) >= 0), "val"
    if len(held) < FEWEST_IMAGES:  # every fifth training photo of each class
        order = rows[np.argsort(target["train"][rows], kind="stable")]
        rows, held, held_split = (
            np.sort(np.delete(order, np.s_[::5])),
            order[::5],
            "train",
        )
    if args.epochs:
        known_maps = np.asarray(maps["train"][rows])
        model = trained(args, known_maps, target["train"][rows], choice)
        kernel, bias = model.classifier.get_weights()
        seen = {split: features_of(model, part) for split, part in maps.items()}
    else:
        seen = pretrained_features(args, maps)
        kernel, bias = head_on(seen["train"][rows], target["train"][rows])
    return {
        "train_x": seen["train"][rows],
        "train_y": target["train"][rows],
        "val_x": seen[held_split][held],
        "val_y": target[held_split][held],
        "foreign_x": seen["train"][target["train"] < 0],
        "test_x": seen["test"],
        "test_y": target["test"],
        "W": kernel,
        "b": bias,
    }


def finish(args: Any, table: Any, fitted: Any, classes: int) -> None:
    """Records the table."""

    def mean(name: str, key: str) -> float:
        return float(np.mean([found[key] for found in table[name]]))

    def cell(name: str, key: str) -> str:
        each = " ".join(f"{f[key]:.3f}" for f in table[name])
        low, high = mean(name, f"{key}_low"), mean(name, f"{key}_high")
        return f"{mean(name, key):.3f} [{low:.3f}, {high:.3f}] ({each})"

    names = sorted(table, key=lambda name: -mean(name, "val"))
    how = "pretrained features and a logistic head on the known classes"
    if args.epochs:
        how = f"{FROZEN:.0%} frozen, {args.epochs} epochs on pairs of the known classes"
    whole = {key: float(np.mean([f[key] for f in fitted])) for key in fitted[0]}
    record(
        "unknown",
        f"Known against foreign classes, {args.name}: {args.known} known, "
        f"{classes - args.known} foreign, {args.choices} choices",
        [
            "score",
            "AUROC on validation",
            "AUROC on test (each choice)",
            "foreign rejected on test with 95 % of known kept (each choice)",
        ],
        [
            [n, f"{mean(n, 'val'):.3f}", cell(n, "auroc"), cell(n, "rejected")]
            for n in names
        ],
        "Means over the choices, with the mean 95 % intervals (bootstrap over photos). "
        f"EfficientNet-Lite0 at {SIZE} px, {how}. With the score '{CHOSEN}' and the "
        f"thresholds that `train` fits for 95 %: {whole['kept']:.1%} of known test "
        f"photos are kept and {whole['rejected']:.1%} of foreign ones rejected; top-1 "
        f"of known photos is {whole['top1']:.1%}; of those kept, "
        f"{whole['top1_kept']:.1%}.",
        variant=args.name if args.epochs else f"{args.name}_pretrained",
    )


if __name__ == "__main__":
    main()
