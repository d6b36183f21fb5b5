"""Measures whether contrast maps point at the part that distinguishes two species.

    python -m benchmarks.contrast RUN [--pairs 12]

RUN is a run folder of `keras-apinet train --data synthetic_birds`. For every two
sibling species, pairs of correctly classified test images are compared. A map hits if
its peak lies in a part in which the two species differ, enlarged by 10 % of the bird on
every side. Both images of a pair count, the one with the mark and the one without it:
the first column is the share of images whose map hits, the second the share of pairs in
which both maps hit. The contrast maps are compared with the same model's plain class
activation map (predicted class, last feature map), with one computed at all resolutions
like the contrast maps, and with chance.
"""

import argparse
from collections import defaultdict

import numpy as np

from benchmarks.results import record
from keras_apinet.data.birds import SPECIES, distinguishing_parts
from keras_apinet.evaluate.contrast_maps import (
    Contrast,
    class_activation,
    contrast,
)
from keras_apinet.evaluate.feature_maps import FeatureMaps, enlarged
from keras_apinet.evaluate.predictions import predict_split
from keras_apinet.runs import Run

GROWTH = 0.1
CROP = 7 / 8  # evaluation keeps the middle 7/8 of a photo


def main() -> None:
    """Prints and records the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("run", help="run folder trained on synthetic_birds")
    parser.add_argument("--pairs", type=int, default=12, help="per two siblings")
    args = parser.parse_args()
    run = Run.open(args.run)
    model, split = run.model(), run.data().splits["test"]
    size = run.image_size
    seen = predict_split(model, split, image_size=size)
    correct = seen.positions[seen.predicted == seen.labels]
    print(f"{len(correct)} of {len(seen)} images classified correctly")

    rng, feature_maps = np.random.default_rng(0), FeatureMaps(model)
    hits: dict[str, list[list[float]]] = defaultdict(list)
    by_part: dict[str, list[float]] = defaultdict(list)
    for a, b in siblings():
        rows = [correct[split.labels[correct] == species] for species in (a, b)]
        for _ in range(args.pairs):
            drawings = [split.reader.drawing(int(rng.choice(r))) for r in rows]
            result = contrast(
                model,
                *(drawing.pixels for drawing in drawings),
                classes=(a, b),
                feature_maps=feature_maps,
            )
            boxes = [
                [seen_box(d, name, size, GROWTH) for name in distinguishing_parts(a, b)]
                for d in drawings
            ]
            plain = plain_activation(model, feature_maps, result)
            fine = [
                class_activation(
                    model, image, int(p.argmax()), feature_maps=feature_maps
                )
                for image, p in zip(result.images, result.probabilities, strict=True)
            ]
            for method, maps in (
                ("contrast map", result.where),
                ("plain class activation", plain),
                ("the same, all resolutions", fine),
            ):
                pair = [hit(m, goals) for m, goals in zip(maps, boxes, strict=True)]
                hits[method].append(pair)
                if method == "contrast map":
                    by_part[" or ".join(distinguishing_parts(a, b))] += pair
            areas = [mask(goals, size) for goals in boxes]
            birds = [mask([seen_box(d, "bird", size)], size) for d in drawings]
            hits["chance, anywhere"].append([area.mean() for area in areas])
            hits["chance, on the bird"].append(
                [(a & b).sum() / b.sum() for a, b in zip(areas, birds, strict=True)]
            )

    print(f"\n{'peak inside the part':26}{'images':>10}{'both of a pair':>16}")
    rows = []
    for method, values in hits.items():
        table = np.array(values)
        shares = [f"{x:.1%}" for x in (table.mean(), table.prod(axis=1).mean())]
        rows.append([method, *shares])
        print(f"{method:26}{shares[0]:>10}{shares[1]:>16}")
    print("\ncontrast map, by part")
    for part, values in sorted(by_part.items()):
        print(f"  {part:24}{np.mean(values):10.1%} of {len(values)}")
    record(
        "contrast",
        "Peaks of contrast maps inside the distinguishing part",
        ["map", "images", "both of a pair"],
        rows,
        f"{args.pairs} pairs of correctly classified test images for every two "
        f"sibling species; {run.settings['backbone']} at {size} px.",
    )


def siblings() -> list[tuple[int, int]]:
    """All pairs of species of the same family."""
    return [
        (a, b)
        for a in range(len(SPECIES))
        for b in range(a + 1, len(SPECIES))
        if SPECIES[a].family == SPECIES[b].family
    ]


def seen_box(drawing, part: str, size: int, growth: float = 0.0) -> np.ndarray:
    """The box of a part after the center crop, enlarged by a share of the bird, px."""
    side = len(drawing.pixels)
    offset, scale = (side - side * CROP) / 2, size / (side * CROP)
    left, top, right, bottom = drawing.parts["bird"]
    grown = growth * max(right - left, bottom - top)
    outwards = np.array([-grown, -grown, grown, grown])
    return (np.array(drawing.parts[part]) + outwards - offset) * scale


def hit(values: np.ndarray, boxes: list[np.ndarray]) -> float:
    """1 if the center of the highest pixel lies in a box, else 0."""
    y, x = np.unravel_index(values.argmax(), values.shape)
    return float(mask(boxes, len(values))[y, x])


def mask(boxes: list[np.ndarray], size: int) -> np.ndarray:
    """Mask of the pixels whose center lies in one of the boxes, `[size, size]`."""
    middle = np.arange(size) + 0.5
    result = np.zeros((size, size), bool)
    for left, top, right, bottom in boxes:
        across = (middle >= left) & (middle <= right)
        down = (middle >= top) & (middle <= bottom)
        result |= down[:, None] & across
    return result


def plain_activation(model, feature_maps: FeatureMaps, result: Contrast) -> np.ndarray:
    """Class activation map of the predicted class on the last feature map."""
    activations = feature_maps.activations(result.images)
    kernel = np.asarray(model.classifier.get_weights()[0])
    weights = kernel[:, result.probabilities.argmax(axis=1)].T
    return enlarged(feature_maps.evidence(activations, weights)[-1], len(result.own[0]))


if __name__ == "__main__":
    main()
