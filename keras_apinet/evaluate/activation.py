"""`keras-apinet predict --map`: what in a photo speaks for the class it is called."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.contrasting import class_activation
from keras_apinet.evaluate.levels import EvidenceLevels
from keras_apinet.evaluate.pictures import with_heat
from keras_apinet.runs import Run


def write_maps(
    model: str | Path, photos: Sequence[str | Path], folder: str | Path
) -> list[Path]:
    """Writes a picture for each photo: as the model sees it, and with its map.

    Args:
        model: A run folder or a `.keras` file.
        photos: Image files.
        folder: Where the pictures go, `<photo>.map.png` each; made if need be.

    Returns:
        The pictures, in the order of the photos.

    Raises:
        APINetError: If the model is of another format, its features have no places, or
            a photo cannot be read.
    """
    from PIL import Image

    from keras_apinet.data import prepare, read_photo
    from keras_apinet.loading import load

    place, folder = Path(model), Path(folder)
    if not (place.suffix == ".keras" or (place / "run.json").is_file()):
        raise APINetError(
            f"{str(place)!r} keeps no feature maps to show; give a run folder or a "
            ".keras file for --map."
        )
    run = Run.open(place) if place.is_dir() else None
    network = run.model() if run else load(place)
    resize = run.settings.get("resize", "fit") if run else "fit"
    levels = EvidenceLevels(network)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for photo in photos:
        pixels = read_photo(photo)
        size = network.image_size or min(pixels.shape[:2])
        image = prepare(pixels, size, resize=resize)
        shown = with_heat(image, class_activation(network, image, levels=levels))
        name, number = Path(photo).stem, 1
        path = folder / f"{name}.map.png"
        while path in written:  # photos of one name from several folders
            number += 1
            path = folder / f"{name} {number}.map.png"
        Image.fromarray(np.concatenate([image, shown], axis=1)).save(path)
        written.append(path)
    return written
