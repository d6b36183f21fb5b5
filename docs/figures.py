"""Draws the figures of the pages: `python docs/figures.py [RUN]`.

RUN is a run on `synthetic_birds`; without it one is trained with the default recipe,
in build/figures.
"""

import sys
from pathlib import Path

from PIL import Image

from keras_apinet.cli import main
from keras_apinet.data.birds import SPECIES, draw

IMAGES = Path(__file__).parent / "images"
BUILD = Path(__file__).parent.parent / "build" / "figures"
BIRDS = ("Ringed Finch", "Common Finch")


def shrink(path: Path, width: int) -> None:
    """Puts a picture among the pages, narrower and smaller."""
    picture = Image.open(path).convert("RGB")
    height = round(picture.height * width / picture.width)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    small.quantize(128, dither=Image.Dither.NONE).save(
        IMAGES / path.name, optimize=True
    )


def draw_figures(run: str | None) -> None:
    """Draws all."""
    BUILD.mkdir(parents=True, exist_ok=True)
    if run is None:
        run = str(BUILD / "run")
        main(["train", "--data", "synthetic_birds", "--out", run])
    names = [species.name for species in SPECIES]
    photos = []
    for name in BIRDS:
        photos.append(str(BUILD / f"{name}.png"))
        Image.fromarray(draw(names.index(name), 987_654_321).pixels).save(photos[-1])
    contrast = BUILD / "contrast.png"
    main(["compare", *photos, "--model", run, "--out", str(contrast), "--force"])
    shrink(contrast, 1200)
    pairs = BUILD / "pairs.png"
    batch = ["--classes-per-batch", "6", "--images-per-class", "2"]
    main(["data", "synthetic_birds", "--sheet", str(pairs), "--force", *batch])
    shrink(pairs, 1000)


if __name__ == "__main__":
    draw_figures(*sys.argv[1:2] or [None])
