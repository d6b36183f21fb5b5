"""One training batch on one picture: each image beside its intra and inter partner."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PX = 112
_GAP = 4
_LINE = 14


def colour_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features for want of a backbone: the colours of an 8 x 8 thumbnail.

    Args:
        images: `[n, s, s, 3]`.

    Returns:
        `[n, 192]`.
    """
    import tensorflow as tf

    with tf.device("cpu"):
        small = tf.image.resize(images, [8, 8], antialias=True)
        return np.asarray(small, np.float32).reshape(len(images), -1)


def contact_sheet(
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    features: NDArray[np.float32],
    class_names: Sequence[str],
    columns: int = 3,
) -> Any:
    """Draws every image of a batch beside the two images that it is compared with.

    Args:
        images: `[n, s, s, 3]`.
        labels: `[n]`.
        features: `[n, d]`, in which the nearest images are found.
        class_names: of all labels.
        columns: groups of three side by side. Default 3.

    Returns:
        A `PIL.Image.Image`. Partners have a green frame if they are of the same class
        and an orange one if not; where there is no partner the place stays grey.
    """
    from keras import ops
    from PIL import Image, ImageDraw, ImageFont

    from keras_apinet.layers import PairMiner

    n = len(images)
    _, partners, valid = (
        ops.convert_to_numpy(x) for x in PairMiner()(features, labels)
    )
    rows = -(-n // columns)
    group = 3 * (_PX + _GAP) + 3 * _GAP
    height = _PX + _LINE + 2 * _GAP
    sheet = Image.new(
        "RGB", (columns * group + _GAP, rows * height + 2 * _LINE), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_LINE - 4)
    pen.text(
        (_GAP, _GAP),
        "image | nearest of its class (green) | nearest of another class (orange)",
        "black",
        font,
    )

    def place(index: int, left: int, top: int, frame: str | None) -> None:
        tile = Image.fromarray(images[index]).resize((_PX, _PX))
        sheet.paste(tile, (left, top))
        if frame:
            pen.rectangle((left, top, left + _PX, top + _PX), outline=frame, width=3)
        name = class_names[labels[index]]
        while name and pen.textlength(name, font) > _PX:
            name = name[:-1]
        pen.text((left, top + _PX + 1), name, "black", font)

    for i in range(n):
        left = _GAP + i // rows * group
        top = 2 * _LINE + i % rows * height
        place(i, left, top, None)
        for kind, frame in enumerate(("#1a9850", "#f46d43")):
            left += _PX + _GAP
            pair = kind * n + i
            if valid[pair]:
                place(int(partners[pair]), left, top, frame)
            else:
                pen.rectangle((left, top, left + _PX, top + _PX), "#dddddd")
    return sheet
