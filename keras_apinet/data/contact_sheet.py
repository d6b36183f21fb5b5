"""One training batch on one picture: each image beside its partners; twins below."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

_PX = 128
_GAP = 8
_LINE = 18
_HEIGHT = _PX + _LINE + 2 * _GAP
_GREEN, _ORANGE = "#1a9850", "#e6550d"


def colour_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features where there is no backbone: an 8 x 8 thumbnail, `[n, 192]`."""
    import tensorflow as tf

    with tf.device("cpu"):
        small = tf.image.resize(images, [8, 8], antialias=True)
        return np.asarray(small, np.float32).reshape(len(images), -1)


def contact_sheet(
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    partners: NDArray[np.int32],
    valid: NDArray[np.bool_],
    class_names: Sequence[str],
    title: str = "",
    columns: int = 3,
) -> Any:
    """Draws every image of a batch beside the two images that it is compared with.

    Partners have a green frame if they are of the same class and an orange one if not;
    where there is no partner the place stays grey.

    Args:
        images: `[n, s, s, 3]`.
        labels: `[n]`.
        partners: `[2n]` positions, those of the same class first, as `PairMiner` gives
            them.
        valid: `[2n]`, whether there is such a partner.
        class_names: Of all labels.
        title: A line at the top.
        columns: Groups of three side by side. Default 3.
    """
    n = len(images)
    rows = -(-n // columns)
    group = 3 * (_PX + _GAP) + 3 * _GAP
    head = 2 * _LINE + 2 * _GAP
    page = _Page((columns * group - 2 * _GAP, head + rows * _HEIGHT))
    page.write(_GAP, _GAP, title, page.image.width - 2 * _GAP)
    left = _GAP
    for text, colour in (
        ("Each image, the nearest of its class", "black"),
        ("(green)", _GREEN),
        ("and the nearest of another class", "black"),
        ("(orange)", _ORANGE),
    ):
        page.write(left, _GAP + _LINE, text, page.image.width, colour)
        left += int(page.pen.textlength(text + " ", page.font))
    names = [class_names[label] for label in labels]
    for i in range(n):
        left = _GAP + i // rows * group
        top = head + i % rows * _HEIGHT
        page.place(images[i], names[i], left, top)
        for kind, frame in enumerate((_GREEN, _ORANGE)):
            left += _PX + _GAP
            pair = kind * n + i
            if valid[pair]:
                other = int(partners[pair])
                page.place(images[other], names[other], left, top, frame)
            else:
                page.pen.rectangle((left, top, left + _PX, top + _PX), "#dddddd")
    return page.image


def with_twins(
    sheet: Any,
    twins: Sequence[tuple[tuple[NDArray[np.uint8], str], ...]],
    title: str,
) -> Any:
    """Puts near-duplicates, pairs of (pixels, words), below a sheet, side by side."""
    pair = 2 * (_PX + _GAP) + 2 * _GAP
    columns = max(1, sheet.width // pair)
    rows = -(-len(twins) // columns)
    head = sheet.height + _LINE + 2 * _GAP
    page = _Page((max(sheet.width, pair), head + rows * _HEIGHT))
    page.image.paste(sheet)
    page.write(_GAP, sheet.height + _GAP, title, page.image.width - 2 * _GAP)
    for number, photos in enumerate(twins):
        row, column = divmod(number, columns)
        for side, (pixels, text) in enumerate(photos):
            left = _GAP + column * pair + side * (_PX + _GAP)
            page.place(pixels, text, left, head + row * _HEIGHT)
    return page.image


class _Page:
    """A white picture to put images and words on."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = Image.new("RGB", size, "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=_LINE - 4)

    def write(
        self, left: int, top: int, text: str, room: int, colour: str = "black"
    ) -> None:
        """Writes one line, shortened in its middle to fit `room` px."""
        # Names may hold line breaks, or bytes that are not UTF-8.
        text = " ".join(text.encode("utf-8", "replace").decode().split())
        kept = len(text)
        shown = text
        while kept and self.pen.textlength(shown, self.font) > room:
            kept -= 1
            # Look-alike classes often differ at the end of their names.
            shown = text[: kept - kept // 2] + "\u2026" + text[len(text) - kept // 2 :]
        self.pen.text((left, top), shown, colour, self.font)

    def place(
        self,
        pixels: NDArray[np.uint8],
        text: str,
        left: int,
        top: int,
        frame: str | None = None,
    ) -> None:
        """Puts an image and its name somewhere, perhaps in a frame."""
        if frame:
            edge = (left - 3, top - 3, left + _PX + 2, top + _PX + 2)
            self.pen.rectangle(edge, outline=frame, width=3)
        tile = ImageOps.pad(Image.fromarray(pixels), (_PX, _PX), color="white")
        self.image.paste(tile, (left, top))
        self.write(left, top + _PX + 3, text, _PX)


def with_pixels(data: Any, pairs: list[list[str]]) -> list[Any]:
    """The photos of pairs of references, each with its split and class."""
    wanted = {name for pair in pairs for name in pair}
    found = {}
    for name, split in data.splits.items():
        for i in range(len(split)):
            if split.reference(i) in wanted:
                text = f"{name}: {data.class_names[split.labels[i]]}"
                found[split.reference(i)] = (split.read(i), text)
    return [tuple(found[name] for name in pair) for pair in pairs]
