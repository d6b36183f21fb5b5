"""One training batch on one picture: each image beside its intra and inter partner."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PX = 128
_GAP = 8
_LINE = 18
_GREEN, _ORANGE = "#1a9850", "#e6550d"


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
    title: str = "",
    columns: int = 3,
) -> Any:
    """Draws every image of a batch beside the two images that it is compared with.

    Args:
        images: `[n, s, s, 3]`.
        labels: `[n]`.
        features: `[n, d]`, in which the nearest images are found.
        class_names: of all labels.
        title: a line at the top.
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
    head = 2 * _LINE + 2 * _GAP
    size = (columns * group - 2 * _GAP, head + rows * height)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_LINE - 4)

    def write(left: int, top: int, text: str, room: int, colour: str) -> None:
        # Names may hold line breaks, or bytes that are no letters.
        text = " ".join(text.encode("utf-8", "replace").decode().split())
        kept = len(text)
        shown = text
        while kept and pen.textlength(shown, font) > room:
            kept -= 1
            # Look-alike classes often differ at the end of their names.
            shown = text[: kept - kept // 2] + "\u2026" + text[len(text) - kept // 2 :]
        pen.text((left, top), shown, colour, font)

    def place(index: int, left: int, top: int, frame: str | None) -> None:
        if frame:
            edge = (left - 3, top - 3, left + _PX + 2, top + _PX + 2)
            pen.rectangle(edge, outline=frame, width=3)
        tile = Image.fromarray(images[index]).resize((_PX, _PX))
        sheet.paste(tile, (left, top))
        write(left, top + _PX + 3, class_names[labels[index]], _PX, "black")

    write(_GAP, _GAP, title, size[0] - 2 * _GAP, "black")
    left = _GAP
    for text, colour in (
        ("Each image, the nearest of its class", "black"),
        ("(green)", _GREEN),
        ("and the nearest of another class", "black"),
        ("(orange)", _ORANGE),
    ):
        write(left, _GAP + _LINE, text, size[0], colour)
        left += int(pen.textlength(text + " ", font))
    for i in range(n):
        left = _GAP + i // rows * group
        top = head + i % rows * height
        place(i, left, top, None)
        for kind, frame in enumerate((_GREEN, _ORANGE)):
            left += _PX + _GAP
            pair = kind * n + i
            if valid[pair]:
                place(int(partners[pair]), left, top, frame)
            else:
                pen.rectangle((left, top, left + _PX, top + _PX), "#dddddd")
    return sheet
