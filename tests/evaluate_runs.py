"""A small run on disk, as training leaves it, for the tests of evaluation."""

import csv
import json

import numpy as np
from PIL import Image

from keras_apinet import build

NAMES = ("apple", "<b>pear</b> & $co$", "plum" + " very" * 40 + " long")
COLOURS = ((200, 40, 40), (60, 180, 60), (90, 60, 160))


def photos(root):
    """A table of noisy photos of one colour for each class, 40 x 48 px."""
    rng = np.random.default_rng(0)
    rows = []
    for split, count in {"train": 4, "val": 2, "test": 3}.items():
        for name, colour in zip(NAMES, COLOURS):
            for _ in range(count):
                noise = rng.normal(colour, 40, (40, 48, 3)).clip(0, 255)
                path = f"{split} {len(rows)} <i>&.png"
                Image.fromarray(noise.astype("uint8")).save(root / path)
                rows.append((path, name, split))
    with (root / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return root / "photos.csv"


def make_run(folder, data, names):
    """A run of the tiny network with random weights."""
    model = build("tiny", len(names), image_size=32, class_names=list(names), seed=0)
    # Random logits are nearly equal: larger ones make errors of all kinds.
    kernel, bias = model.classifier.get_weights()
    model.classifier.set_weights([kernel * 20, bias])
    folder.mkdir()
    for which in ("best", "last"):
        model.save(folder / f"{which}.keras")
    description = {
        "settings": {"backbone": "tiny", "resize": "fit", "note": "<i>a & b</i>"},
        "class_names": list(names),
        "image_size": 32,
        "data": {"load": {"name": str(data)}},
        "versions": {"keras": "3"},
    }
    (folder / "run.json").write_text(json.dumps(description), "utf-8")
    (folder / "log.csv").write_text(
        "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,2.0,0.4,2.1\n1,0.7,1,0.6,1.5\n"
    )
    return folder
