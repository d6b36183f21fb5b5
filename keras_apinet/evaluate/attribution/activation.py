"""`keras-apinet predict --map`: what in a photo speaks for the class it is called."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.attribution.contrast import class_activation
from keras_apinet.evaluate.attribution.feature_maps import EvidenceLevels
from keras_apinet.evaluate.attribution.pictures import with_heat
from keras_apinet.files.io import unwritable
from keras_apinet.files.outputs import check_output, picture_bytes, write_output
from keras_apinet.runs import Run


def write_maps(
    model: str | Path,
    photos: Sequence[str | Path],
    folder: str | Path,
    *,
    force: bool = False,
) -> list[Path]:
    """Writes a picture for each photo: as the model sees it, and with its map.

    Args:
        model: A run folder or a `.keras` file.
        photos: Image files.
        folder: Where the pictures go, `<photo>.map.png` each; made if need be.
        force: Replace pictures that this package wrote.

    Returns:
        The pictures, in the order of the photos.

    Raises:
        APINetError: If the model is of another format, its features have no places, a
            photo cannot be read, or a picture cannot be written.
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
    targets: list[Path] = []
    for photo in photos:
        name, number = Path(photo).stem, 1
        path = folder / f"{name}.map.png"
        while path in targets:  # photos of one name from several folders
            number += 1
            path = folder / f"{name} {number}.map.png"
        check_output(path, "PNG picture", force)
        targets.append(path)
    run = Run.open(place) if place.is_dir() else None
    network = run.model() if run else load(place)
    resize = run.settings.get("resize", "fit") if run else "fit"
    levels = EvidenceLevels(network)
    with unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for photo, path in zip(photos, targets, strict=True):
        pixels = read_photo(photo)
        size = network.image_size or min(pixels.shape[:2])
        image = prepare(pixels, size, resize=resize)
        shown = with_heat(image, class_activation(network, image, levels=levels))
        picture = Image.fromarray(np.concatenate([image, shown], axis=1))
        write_output(path, picture_bytes(picture, path), force)
    return targets
