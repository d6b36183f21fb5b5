"""`export_classifier`: converts a model, verifies the result, then writes it."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet.compat import flatten_layers
from keras_apinet.export import child, conversion
from keras_apinet.export.formats import FORMATS, UNKNOWN_DIFFERENCE, Target
from keras_apinet.export.photos import (
    Photos,
    representative_photos,
    verification_photos,
)
from keras_apinet.export.runtime.classifier_info import ClassifierInfo
from keras_apinet.export.runtime.runtimes import open_runtime
from keras_apinet.export.sources import Source, open_source
from keras_apinet.export.verification import ExportReport, check, measure
from keras_apinet.files.bounds import (
    IMAGE_SIZE,
    LOGIT_SHARE,
    PHOTOS,
    SHARE,
    TEMPERATURE,
)
from keras_apinet.files.io import hand_over, partial_folder, unwritable
from keras_apinet.files.outputs import MARKDOWN_MARK, write_manifest, write_output


def export_classifier(
    source: Any,
    path: str | Path,
    format: str | None = None,
    *,
    precision: str = "float32",
    force: bool = False,
    verify: bool = True,
    runtime: str | Path | None = None,
    **options: Any,
) -> ExportReport:
    """Exports a model as a single-image classifier for a phone, server or browser.

    The file takes raw RGB pixels 0..255, outputs probabilities and contains its class
    names. It is run in its own runtime and compared with the Keras model before it
    appears at `path`. The model may have been trained on any backend.

    Args:
        source: An `APINet`, a run folder, or a `.keras` file.
        path: Output path: `.tflite`, `.onnx`, or a folder for a SavedModel.
        format: `"tflite"`, `"saved_model"`, `"onnx"` or `"web"` (a page that classifies
            photos in the browser). Default: from the extension of `path`.
        precision: `"float32"` (default); for tflite and web also `"float16"`,
            `"dynamic"` (int8 weights) or `"int8"` (integers throughout, uint8 pixels in
            and uint8 probabilities out).
        force: Whether to replace an existing export at `path`. Default False.
        verify: Whether to compare the file with the Keras model, and to reject it if it
            differs by more than its precision allows. Default True.
        runtime: For `"web"`: folder with the runtime's npm packages; by default, `npm`
            fetches them.
        **options: See `Exporter`.

    Returns:
        The comparison report, also written next to the file as `<name>.report.md`.

    Raises:
        APINetError: If the model, format or photos are invalid, the target exists, the
            conversion fails, or the file differs too much.

    ```python
    report = keras_apinet.export.export_classifier("runs/birds", "birds.tflite")
    print(report.table())
    ```
    """
    target = Target.of(path, format, precision, runtime)
    target.check(force)
    (report,) = Exporter(source, verify=verify, **options).write([target], force=force)
    return report


class Exporter:
    """Exports one model in several formats; photos are read and predicted only once.

    Args:
        source: An `APINet`, a run folder, or a `.keras` file.
        which: In a run folder, `"best"` (default) or `"last"`.
        photos: Folder (anything that `keras_apinet.data.load` takes), or images
            `[N, h, w, 3]`, to use instead of the run's own, for the comparison and for
            the ranges of int8; no photo is used for both.
        class_names: Names of the classes, if the model has none.
        image_size: Side of the images, px, for a backbone that takes any size.
        temperature: Value by which to divide the logits. Default: the run's own, or 1.
        license: License of the trained model, to be written into the file.
        unknown: Whether to add a class `unknown` for photos of none of the classes,
            using the threshold determined by training. Default False.
        verify: Whether to compare each file with the Keras model. Default True.
        min_agreement: Minimum fraction of photos with the Keras model's top-1 class,
            among those on which it leads by more than 0.1 in probability.
            Default: 0.98 for `"dynamic"` and `"int8"`, none for the others.
        max_difference: Maximum difference of a probability. Default: 1e-5 for
            `"float32"`, 1e-2 for `"float16"`, none for the others.
        max_logit_difference: Maximum difference of a logit, as a fraction of the
            largest logit. Default: 1e-3 for `"float32"`, 5e-2 for `"float16"`, none for
            the others.
        max_photos: Maximum number of photos in the comparison. Default 1000.
        say: Function that receives progress messages. Default: none.

    Raises:
        APINetError: If the model does not exist, or names or photos do not match it.
    """

    def __init__(
        self,
        source: Any,
        *,
        which: str = "best",
        photos: Any = None,
        class_names: Any = None,
        image_size: int | None = None,
        temperature: float | None = None,
        license: str | None = None,
        unknown: bool = False,
        verify: bool = True,
        min_agreement: float | None = None,
        max_difference: float | None = None,
        max_logit_difference: float | None = None,
        max_photos: int = 1000,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        for name, limit, value in (
            ("image_size", IMAGE_SIZE, image_size),
            ("min_agreement", SHARE, min_agreement),
            ("max_difference", SHARE, max_difference),
            ("max_logit_difference", LOGIT_SHARE, max_logit_difference),
            ("max_photos", PHOTOS, max_photos),
            ("temperature", TEMPERATURE, temperature),
        ):
            if value is not None:
                limit.check(name, value)
        self.source: Source = open_source(
            source,
            which=which,
            image_size=image_size,
            class_names=class_names,
            temperature=temperature,
            license=license,
            unknown=unknown,
        )
        self.info = self.source.info
        self._say, self._given, self._verify = say, photos, verify
        self._limits = (min_agreement, max_difference, max_logit_difference)
        self._max_photos = max_photos
        self._logits = self.source.logits_model()
        self._reference: tuple[Photos, NDArray[np.float32]] | None = None
        self.representative: Photos | None = None
        self._apart = False

    def write(
        self, targets: Sequence[Target], *, force: bool = False
    ) -> list[ExportReport]:
        """Writes files and folders; a failure does not affect those already written.

        Args:
            targets: The targets to write.
            force: Whether to replace existing exports. Default False.

        Returns:
            The comparison report of each.

        Raises:
            APINetError: See `export_classifier`.
        """
        for target in targets:
            target.check(force)
        int8 = any(target.precision == "int8" for target in targets)
        if self._verify and int8 and not self._apart:
            # Photos that set the ranges of int8 must not also verify it.
            self._apart, self._reference = True, None
        with contextlib.ExitStack() as stack:
            folders = []
            for target in targets:
                with unwritable(target.path):
                    folders.append(self._job(target, stack))
            self._convert(folders, targets)
            reports = []
            for target, folder in zip(targets, folders, strict=True):
                with unwritable(target.path):
                    reports.append(self._handed_over(target, folder, force))
        return reports

    def _job(self, target: Target, stack: contextlib.ExitStack) -> Path:
        # Next to the target, so that the last step is an atomic rename.
        folder = stack.enter_context(partial_folder(target.path.parent))
        if target.precision == "int8":
            if self.representative is None:
                self.representative = representative_photos(
                    self.source, self._given, self._apart
                )
            np.save(folder / conversion.PHOTOS, self.representative.images)
        self._logits.save(folder / conversion.MODEL)
        job = {
            "format": _converted(target),
            "info": asdict(self._described(target)),
            "modules": sorted({_module(x) for x in flatten_layers(self._logits)}),
        }
        (folder / conversion.JOB).write_text(json.dumps(job), "utf-8")
        return folder

    def _described(self, target: Target) -> ClassifierInfo:
        info = replace(self.info, precision=target.precision)
        if not self._verify:
            return info
        photos, expected = self._compared()
        if photos.labels is None:
            return info
        top1 = float(np.mean(expected.argmax(-1) == photos.labels))
        accuracy = {"top1": top1, "photos": len(photos), "of": photos.origin}
        return replace(info, accuracy=accuracy)

    def _handed_over(self, target: Target, folder: Path, force: bool) -> ExportReport:
        result = child.converted(folder)
        # The extension tells the runtime its format.
        result = result.rename(folder / f"model{FORMATS[_converted(target)]}")
        report = ExportReport(target.path, target.format, target.precision, 0)
        origin = "nothing, by request"
        if self._verify:
            photos, expected = self._compared()
            origin = photos.origin
            self._say(f"Comparing {target.path.name} with the Keras model ...")
            opened = open_runtime(result, trust=True)
            measured = measure(opened, photos.images, expected, photos.labels)
            report = replace(report, **measured)
            agreement, difference, logits = self._limits
            if target.precision == "float32" and self.info.unknown:
                difference = UNKNOWN_DIFFERENCE if difference is None else difference
            check(report, self.info.backbone, agreement, difference, logits)
        if target.format == "web":
            from keras_apinet.export.web import write_page

            described = self._described(target), folder, target.runtime, self._say
            result = write_page(result, *described)
        report = replace(report, size=_size(result))
        if target.is_folder:
            write_manifest(result)
        target.check(force)  # files may have been created there in the meantime
        hand_over(result, target.path)
        notes = f"Compared on: {origin}.\n"
        if target.precision == "int8" and self.representative is not None:
            notes += f"Int8 ranges: {self.representative.origin}"
            notes += "; none of them was compared.\n" if self._verify else ".\n"
        told = f"{report.table()}\n\n{notes}\n{MARKDOWN_MARK}\n"
        write_output(target.report, told, force)
        return report

    def _compared(self) -> tuple[Photos, NDArray[np.float32]]:
        if self._reference is None:
            photos = verification_photos(
                self.source, self._given, self._max_photos, self._apart
            )
            self._say(f"Keras model on {len(photos)} photos ({photos.origin}) ...")
            logits = self._logits.predict(photos.images, verbose=0, batch_size=32)
            self._reference = photos, logits / np.float32(self.info.temperature)
        return self._reference

    def _convert(self, folders: list[Path], targets: Sequence[Target]) -> None:
        backend = keras.backend.backend()
        names = ", ".join(f"{t.format} {t.precision}" for t in targets)
        if backend != "tensorflow":
            self._say(
                f"Converting to {names} in a TensorFlow process (this one runs "
                f"{backend}) ..."
            )
            child.convert_in_child(folders)
            return
        self._say(f"Converting to {names} ...")
        for folder in folders:
            child.attempt(folder)


def _converted(target: Target) -> str:
    """Returns the format of the model in a target: a page contains a TFLite file."""
    return "tflite" if target.format == "web" else target.format


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def _module(layer: keras.layers.Layer) -> str:
    """Returns the module whose import registers a layer."""
    module = type(layer).__module__
    root = module.split(".")[0]
    return root if root in ("keras", "keras_cv", "keras_hub") else module
