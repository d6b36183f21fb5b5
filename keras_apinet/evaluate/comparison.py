"""`keras-apinet compare`: shows what distinguishes two photos, as a page or image."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError, short
from keras_apinet.evaluate.contrast_maps import (
    Contrast,
    contrast,
    data_uri,
    with_heat,
    with_signs,
)
from keras_apinet.evaluate.evaluation import open_data
from keras_apinet.evaluate.feature_maps import channel_patches
from keras_apinet.evaluate.pages import need, rendered
from keras_apinet.evaluate.predictions import known_images, run_options
from keras_apinet.files.outputs import (
    check_output,
    picture_bytes,
    picture_kind,
    write_output,
)
from keras_apinet.runs import Run
from keras_apinet.shares import probability


@dataclass(frozen=True, eq=False)
class Comparison:
    """A contrast with the names and training patches that explain it.

    Attributes:
        contrast: Maps, scores and channels.
        photos: Names of the two photos.
        class_names: Names of the two classes being compared.
        taken_for: The predicted class of each photo, and its probability.
        patches: Patches that activate a channel most, from training images of the two
            classes; empty without training data.
    """

    contrast: Contrast
    photos: tuple[str, str]
    class_names: tuple[str, str]
    taken_for: tuple[tuple[str, float], tuple[str, float]]
    patches: dict[int, list[NDArray[np.uint8]]]

    @property
    def channel_rows(self) -> list[tuple[str, list[int]]]:
        """Descriptions of groups of channels, and the channels."""
        a, b = self.class_names
        for_a, for_b = (row.tolist() for row in self.contrast.distinguishing)
        return [
            (f"speak for {a}", for_a),
            (f"speak for {b}", for_b),
            ("speak for both", self.contrast.shared.tolist()),
        ]

    def scores(self, i: int) -> list[tuple[str, float]]:
        """Names and probabilities of the two classes for one photo."""
        found = self.contrast.probabilities[i, list(self.contrast.classes)]
        return list(zip(self.class_names, found.tolist(), strict=True))

    def maps(self, i: int) -> list[tuple[NDArray[np.uint8], str]]:
        """Images of one photo with its maps, and their titles."""
        found, image = self.contrast, self.contrast.images[i]
        own, other = self.class_names[i], self.class_names[1 - i]
        return [
            (image, "Model input"),
            (with_heat(image, found.where[i]), "Distinguishing regions"),
            (with_signs(image, found.own[i]), f"For and against {own}"),
            (with_signs(image, found.other[i]), f"For and against {other}"),
            (with_signs(image, found.difference[i]), f"{own} rather than {other}"),
        ]


def compare(
    run: Run | str | Path,
    photo_a: str | Path,
    photo_b: str | Path,
    *,
    which: str = "best",
    classes: tuple[str, str] | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    patches: bool = True,
) -> Comparison:
    """Compares two photos with the model of a run.

    Args:
        run: A run, or its folder.
        photo_a: Image file.
        photo_b: Image file.
        which: `"best"` (default) or `"last"`.
        classes: Names of the classes to compare. Defaults to the predicted classes.
        data: New location of the training data, if moved.
        data_dir: New location of TensorFlow Datasets data, if moved.
        patches: Whether to find training patches, which requires the training data.
            Defaults to True.

    Returns:
        The comparison; `save` writes it.

    Raises:
        APINetError: For an unreadable photo or an unknown class.
    """
    from keras_apinet.data import prepare, read_photo

    run = Run.open(run)
    names = run.class_names
    pair = None
    if classes is not None:
        for name in classes:
            if name not in names:
                raise APINetError(f"The model has no class {name!r}; check its labels.")
        if classes[0] == classes[1]:
            raise APINetError(
                f"classes={classes!r} are the same class; give two different ones."
            )
        pair = (names.index(classes[0]), names.index(classes[1]))
    size, resize = run.image_size, run.settings.get("resize", "fit")
    images = [prepare(read_photo(p), size, resize=resize) for p in (photo_a, photo_b)]
    model = run.model(which)
    temperature = run.temperature(which, model)
    result = contrast(model, *images, classes=pair, temperature=temperature)
    found: dict[int, list[NDArray[np.uint8]]] = {}
    if patches:
        options = run_options(run, 32)
        wanted = [*result.distinguishing.ravel().tolist(), *result.shared.tolist()]
        source = open_data(run, data, data_dir)
        train = known_images(source, "train", names, ignore_unknown=True)
        # Other classes may activate them more, but say nothing about these two.
        train = train.take(np.isin(train.labels, result.classes))
        found = channel_patches(model, train, wanted, **options)
    first, second = (
        (names[int(p.argmax())], float(p.max())) for p in result.probabilities
    )
    return Comparison(
        result,
        (Path(photo_a).name, Path(photo_b).name),
        (names[result.classes[0]], names[result.classes[1]]),
        (first, second),
        found,
    )


def check_path(path: str | Path, force: bool = False) -> Path:
    """Checks that `save` may write to a path.

    Raises:
        APINetError: If the suffix is neither `.html` nor that of an image, or if the
            path exists; with `force`, output of this package is replaced.
    """
    path = Path(path)
    kind = "page" if _is_page(path) else picture_kind(path, drawn=True)
    check_output(path, kind, force)
    return path


def _is_page(path: Path) -> bool:
    return path.suffix.lower() in (".html", ".htm")


def save(comparison: Comparison, path: str | Path, *, force: bool = False) -> Path:
    """Writes a comparison as an `.html` page or as an image, such as `.png`.

    Raises:
        APINetError: As for `check_path`, or if an optional package is missing.
    """
    path = check_path(path, force)
    if _is_page(path):
        write_output(path, page(comparison), force)
    else:
        write_output(path, picture_bytes(_figure(comparison), path, dpi=130), force)
    return path


def page(comparison: Comparison) -> str:
    """The comparison as a self-contained HTML page."""
    sides = [
        {
            "photo": comparison.photos[i],
            "taken_for": comparison.taken_for[i],
            "scores": comparison.scores(i),
            "maps": [
                (data_uri(picture, 320), title, f"{title}: {comparison.photos[i]}")
                for picture, title in comparison.maps(i)
            ],
        }
        for i in (0, 1)
    ]
    rows = [
        (
            title,
            [
                (c, [data_uri(p, 96) for p in comparison.patches.get(c, [])])
                for c in channels
            ],
        )
        for title, channels in comparison.channel_rows
    ]
    names = comparison.class_names
    return rendered("comparison.html", names=names, sides=sides, channel_rows=rows)


def _figure(comparison: Comparison) -> Any:
    need("matplotlib")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = 2 if comparison.patches else 1
    with mpl.rc_context({"text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(13, (5.6, 8.6)[rows - 1]), layout="constrained")
        upper, *lower = figure.subfigures(
            rows, 1, height_ratios=[5.4, 3.1][:rows], squeeze=False
        )[:, 0]
        names = [short(name, 26) for name in comparison.class_names]
        upper.suptitle(
            f"What distinguishes {names[0]} from {names[1]}\n"
            "(ring: peak; orange: evidence for a class; blue: evidence against it)",
            fontsize=12,
        )
        grid = upper.subplots(2, 6, width_ratios=[1, 1, 1, 1, 1, 0.9])
        for i, axes in enumerate(grid):
            for axis, (picture, title) in zip(axes, comparison.maps(i), strict=False):
                axis.imshow(picture)
                axis.set_title(_wrapped(title), fontsize=9)
            name, sure = comparison.taken_for[i]
            photo = short(comparison.photos[i], 26)
            said = f"{short(name, 26)} {probability(sure)}"
            axes[0].set_title(f"{photo}\n{said}", fontsize=9)
            for y, (label, value), colour in zip(
                (1, 0), comparison.scores(i), ("#e07b00", "#2f6fd6"), strict=True
            ):
                axes[-1].barh(y, value, color=colour, height=0.5)
                text = f"{short(label, 18)} {probability(value)}"
                axes[-1].text(0, y + 0.3, text, va="bottom")
            axes[-1].set(xlim=(0, 1), ylim=(-0.5, 1.8), title="probability")
            for axis in axes:
                axis.axis("off")
        if lower:
            _patch_rows(lower[0], comparison)
    return figure


def _patch_rows(figure: Any, comparison: Comparison) -> None:
    rows = comparison.channel_rows
    most = max(len(channels) for _, channels in rows)
    figure.suptitle(
        "Channels and the training patches of the two classes that activate them most",
        fontsize=11,
    )
    grid = figure.subplots(len(rows), most + 1, squeeze=False)
    for (title, channels), axes in zip(rows, grid, strict=True):
        for axis in axes:
            axis.axis("off")
        axes[0].text(0, 0.5, _wrapped(title), va="center")
        for axis, channel in zip(axes[1:], channels, strict=False):
            patches = comparison.patches.get(channel, [])
            if patches:
                axis.imshow(np.concatenate(patches, axis=1))
                axis.set_title(f"channel {channel}", fontsize=8)


def _wrapped(text: str) -> str:
    return textwrap.fill(short(text, 60), 22)
