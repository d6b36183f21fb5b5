"""A small predictor for every format, which needs only that format's runtime."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.data.photos import preprocessing
from keras_apinet.errors import APINetError
from keras_apinet.export.runtime.classifier_info import ClassifierInfo
from keras_apinet.export.runtime.runtimes import Runtime, open_runtime
from keras_apinet.files.bounds import TOP
from keras_apinet.open_world.families import answer as answer_at
from keras_apinet.pixels import as_rgb, check_pixels

Photo = str | os.PathLike[str] | NDArray[Any]


def load_classifier(path: str | os.PathLike[str], trust: bool = False) -> "Classifier":
    """Opens a trained or exported classifier of any format.

    Args:
        path: A `.tflite` file (needs `ai-edge-litert`, `numpy` and `pillow` only), an
            `.onnx` file (`onnxruntime`), a SavedModel folder (`tensorflow`), or a
            `.keras` file or run folder (`keras`).
        trust: Whether to load a SavedModel even if its graph has operations that could
            do more than compute, such as reading or writing files. Default False.

    Returns:
        The classifier.

    Raises:
        APINetError: If the path is missing, damaged, of another format, or not written
            by this package; if its runtime is not installed; or if a SavedModel needs
            `trust`.

    ```python
    classifier = keras_apinet.load_classifier("birds.tflite")
    for name, probability in classifier.predict("sparrow.jpg")[0]:
        print(f"{probability:.1%} {name}")
    ```
    """
    return Classifier(open_runtime(Path(path), trust), Path(path))


class Classifier:
    """A photo classifier, loaded from a file of any format.

    Attributes:
        info: Metadata of the file.
        path: Path of the file.

    Args:
        runtime: The runtime of the file.
        path: Path of the file.
    """

    def __init__(self, runtime: Runtime, path: Path) -> None:
        self._runtime = runtime
        self.info: ClassifierInfo = runtime.info
        self.path = path

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return list(self.info.class_names)

    @property
    def image_size(self) -> int:
        """Height and width of the model's input images, px."""
        return self.info.image_size

    def predict(
        self,
        photos: Photo | Iterable[Photo],
        top: int = 5,
        failed: dict[int, str] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Predicts the most probable classes of each photo.

        Args:
            photos: One or several paths of image files, or arrays `[h, w, 3]` of any
                size with pixels 0..255. They are cropped and resized as in evaluation,
                except arrays of the model's image size, which are used unchanged.
            top: Number of classes per photo. Default 5.
            failed: Function that receives the position and the reason of each
                unreadable photo, for which the answer is then empty. Default: an
                unreadable photo is an error.

        Returns:
            For each photo, in order, `(class name, probability)` pairs, most probable
            first; the class `unknown` may be among them if the classifier has it.

        Raises:
            APINetError: If a photo cannot be read, with its name, or `top` is not a
                positive integer.
        """
        TOP.check("top", top)
        listed = _listed(photos)
        answers: list[list[tuple[str, float]]] = [[] for _ in listed]
        for start in range(0, len(listed), 32):
            images = {}
            for i, photo in enumerate(listed[start : start + 32], start):
                try:
                    images[i] = self._image(photo)
                except APINetError as error:
                    if failed is None:
                        raise
                    failed[i] = str(error)
            if not images:
                continue
            scores = self.probabilities(np.stack(list(images.values())))
            for i, row in zip(images, scores, strict=True):
                order = np.argsort(-row, kind="stable")[:top]
                answers[i] = [(self.class_names[c], float(row[c])) for c in order]
        return answers

    def probabilities(self, images: ArrayLike) -> NDArray[np.float32]:
        """Predicts the probabilities of images that are ready for the model.

        Args:
            images: `[N, image_size, image_size, 3]` with pixels 0..255, as returned by
                `keras_apinet.data.prepare`.

        Returns:
            float32 `[N, C]`.

        Raises:
            APINetError: If the shape is wrong, or the pixels were already scaled.
        """
        batch = np.asarray(images)
        side = self.image_size
        if batch.ndim != 4 or batch.shape[1:] != (side, side, 3):
            raise APINetError(
                f"{str(self.path)!r} takes images [N, {side}, {side}, 3]; got "
                f"shape={batch.shape}; `predict` takes photos of any size."
            )
        check_pixels(batch, f"The images for {str(self.path)!r}")
        if not len(batch):
            return np.zeros((0, len(self.info.class_names)), np.float32)
        return self._runtime.probabilities(batch)

    def verdict(
        self, answer: Sequence[tuple[str, float]], confidence: float = 0.0
    ) -> tuple[str, str]:
        """Decides whether to report a photo's class, its family, or neither.

        Args:
            answer: The result of `predict`, with `top` at least the number of classes.
            confidence: Minimum probability of a class or family. Default 0.

        Returns:
            `("class", name)`; `("family", name)` if only the classes of a family
            combined are confident enough; `("unknown", nearest class)` for a photo of
            none of the classes; `("unsure", nearest class)` otherwise.
        """
        first = answer[0][0]
        names = self.class_names
        if self.info.unknown and first == names[-1] and len(answer) > 1:
            return "unknown", answer[1][0]
        found = dict(answer)
        row = np.array([[found.get(name, 0.0) for name in names]])
        families = self.info.families or names
        best, is_class, is_family = answer_at(row, families, confidence)
        if is_class[0]:
            return "class", first
        return ("family", families[best[0]]) if is_family[0] else ("unsure", first)

    def _image(self, photo: Photo) -> NDArray[np.uint8]:
        if not isinstance(photo, (str, os.PathLike)):
            return as_image(photo, self.info)
        pixels = preprocessing.read_photo(photo)
        return preprocessing.prepare(pixels, self.image_size, resize=self.info.resize)


def as_image(photo: Any, info: ClassifierInfo) -> NDArray[np.uint8]:
    """Prepares pixels of any size for the model; those of its own size are kept."""
    pixels, size = as_rgb(photo), info.image_size
    if pixels.shape[:2] == (size, size):
        return pixels
    return preprocessing.prepare(pixels, size, resize=info.resize)


def _listed(photos: Photo | Iterable[Photo]) -> Sequence[Photo]:
    if isinstance(photos, (str, os.PathLike)):
        return [photos]
    if len(getattr(photos, "shape", range(4))) in (0, 2, 3):  # of any backend
        return [np.asarray(photos)]
    if not isinstance(photos, Iterable):
        raise APINetError(
            f"A {type(photos).__name__} is not a photo; give a path or the pixels, "
            "np.asarray(photo)."
        )
    return list(photos)
