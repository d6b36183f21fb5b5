"""Plots for the report, as SVG for light and dark pages."""

import base64
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.special import softmax

from keras_apinet.errors import APINetError, short
from keras_apinet.evaluate.metrics import class_means, unit

_GREY, _ACCENT, _WARM, _SOFT = "#808894", "#3f87dd", "#d97000", "#80889450"
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "keras-apinet",  # equal plots are equal text
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}
# Largest confusion matrices with class names, and with numbers.
_NAMED, _NUMBERED = 100, 30


def drawn(
    size: tuple[float, float], draw: Callable[[Any], None], form: str, **options: Any
) -> bytes:
    """Renders `draw(figure)` as `"svg"` or `"png"`; `size` is in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, **options)
    return buffer.getvalue()


def _svg(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """A plot as a `data:` URI with a transparent background; dark pages invert it."""
    svg = drawn(size, draw, "svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def draw_curve(
    axis: Any,
    log: Mapping[str, Sequence[float]],
    name: str,
    best: int | None = None,
    head: int = 0,
) -> None:
    """Plots `"loss"` or `"accuracy"` over the epochs; a line marks the best epoch.

    The first `head` epochs, up to epoch 0, are the head phase and have a gray
    background.
    """
    epochs = np.arange(1, len(next(iter(log.values()))) + 1) - head
    if head:
        axis.axvspan(0.5 - head, 0.5, color=_SOFT, linewidth=0, label="head phase")
    pairs = " (pairs)" if name == "loss" and "ranking_loss" in log else ""
    for key, label, colour, line in (
        (name, f"training{pairs}", _ACCENT, "-"),
        ("ranking_loss", "ranking part", _GREY, "-"),
        (f"val_{name}", "validation", _WARM, "--"),
    ):
        if key in log and name in key:
            axis.plot(epochs, log[key], line, color=colour, label=label, marker=".")
    if best in epochs:
        label = f"best epoch: {best}" if best else "best: the head phase"
        axis.axvline(best, color=_GREY, linestyle=":", label=label)
    axis.set(title=name, xlabel="epoch")
    axis.set_ylim(bottom=0, top=1 if name == "accuracy" else None)
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.grid(axis="y", alpha=0.3)
    axis.legend()


def curves(
    log: Mapping[str, Sequence[float]], best: int | None = None, head: int = 0
) -> list[tuple[str, str]]:
    """Titles and plots of loss and accuracy over the epochs; see `draw_curve`."""

    def draw(figure: Any, name: str) -> None:
        draw_curve(figure.subplots(), log, name, best, head)

    return [
        (f"{name} over the epochs", _svg((4.6, 3.2), partial(draw, name=name)))
        for name in ("loss", "accuracy")
    ]


def reliability_diagram(table: Mapping[str, NDArray[Any]], title: str) -> str:
    """Accuracy against confidence, above a histogram of the confidence."""

    def draw(figure: Any) -> None:
        axis, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        edges = np.linspace(0, 1, len(table["images"]) + 1)
        middles, width = (edges[1:] + edges[:-1]) / 2, edges[1] * 0.9
        used = table["images"] > 0
        accuracy, sure = table["accuracy"][used], table["confidence"][used]
        axis.bar(middles[used], accuracy, width, color=_SOFT, label="accuracy")
        axis.plot([0, 1], [0, 1], ":", color=_GREY, linewidth=1)
        axis.plot(sure, accuracy, "o-", color=_ACCENT, markersize=4, label="confidence")
        axis.set(title=title, xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        lower.bar(middles, table["images"], width, color=_WARM)
        lower.set(xlabel="confidence", ylabel="images")

    return _svg((4.6, 4.4), draw)


def confusion(
    matrix: NDArray[np.int64], names: Sequence[str], order: NDArray[np.int64]
) -> str:
    """Confusion matrix of true (row) and predicted (column) classes, in `order`.

    The color is the fraction of the row; up to 30 classes, counts are shown.
    """
    chosen = matrix[np.ix_(order, order)]
    shares = chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1)
    few = len(order) <= _NUMBERED
    side = float(np.clip((0.24 if few else 0.115) * len(order) + 1.8, 4.6, 14))

    def draw(figure: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        # Zero is transparent, to show the page; the maximum is light enough to read
        # text on it.
        heat = LinearSegmentedColormap.from_list(
            "heat", [(0.25, 0.53, 0.87, 0), (0.25, 0.53, 0.87, 0.7)]
        )
        axis = figure.subplots()
        axis.imshow(shares, cmap=heat, vmin=0, vmax=1, interpolation="none")
        axis.set(xlabel="predicted", ylabel="true", xticks=[], yticks=[])
        if len(order) <= _NAMED:
            labels = [short(names[c], 22) for c in order]
            size = 9 if few else 6.5
            axis.set_xticks(range(len(order)), labels, rotation=90, fontsize=size)
            axis.set_yticks(range(len(order)), labels, fontsize=size)
        if few:
            for (row, column), count in np.ndenumerate(chosen):
                if count:
                    axis.text(column, row, count, ha="center", va="center", fontsize=8)
        axis.tick_params(length=0)
        axis.spines[["top", "right"]].set_visible(True)

    return _svg((side, side), draw)


def look_alike_order(
    labels: NDArray[np.int64], logits: NDArray[np.float32], features: NDArray[Any]
) -> NDArray[np.int64]:
    """An order of the C classes that places look-alikes next to each other.

    Classes are clustered (average linkage, optimal leaf order) by mutual confusion and
    by the cosine similarity of their mean features; classes without images come last.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    classes = logits.shape[1]
    support = np.bincount(labels, minlength=classes)
    present = np.flatnonzero(support)
    absent = np.flatnonzero(support == 0)
    if len(present) < 3:
        return np.concatenate([present, absent])
    mean_p = class_means(softmax(logits, axis=1), labels, classes)
    centres = class_means(features - features.mean(axis=0), labels, classes)
    centres = unit(centres[present])
    taken = mean_p[np.ix_(present, present)]
    alike = (taken + taken.T) / 2 + (1 + centres @ centres.T) / 2
    distances = np.maximum(alike.max() - alike, 0)
    upper = distances[np.triu_indices(len(present), 1)]
    tree = linkage(upper, "average", optimal_ordering=len(present) <= 600)
    return np.concatenate([present[leaves_list(tree)], absent])


def projection(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Projects features `[n, D]` onto two principal components, `[n, 2]`."""
    x = features.astype(np.float64) - features.mean(axis=0)
    _, axes = np.linalg.eigh(x.T @ x)
    places = np.zeros((len(x), 2))
    found = x @ axes[:, ::-1][:, :2]
    places[:, : found.shape[1]] = found
    return places


def map_places(
    features: NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], set[int]]:
    """Positions of features on a 640 x 480 map, and rows whose photos do not overlap.

    Features are `[n, D]`. Positions `[len(rows), 2]`, x and y, are at least 60 from the
    border.
    """
    places = projection(features)
    places -= places.min(axis=0)
    places *= (520, 360) / np.maximum(places.max(axis=0), 1e-12)
    shown = 60 + places[rows]
    return shown, {int(rows[i]) for i in spread(shown)}


def spread(places: NDArray[np.float64], cells: int = 13) -> list[int]:
    """One point per occupied cell of a grid over the map, to avoid overlap."""
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    grid = (places - low) / np.maximum(extent, 1e-9) * (cells - 1e-6)
    cell = grid.astype(int)
    distance = np.abs(grid - cell - 0.5).max(axis=1)
    order = np.argsort(distance, kind="stable")
    _, first = np.unique(cell[order], axis=0, return_index=True)
    return sorted(order[first].tolist())


def square(photo: ArrayLike, side: int) -> NDArray[np.uint8]:
    """Fits a photo into a square of `side` px with gray padding."""
    picture = Image.fromarray(np.asarray(photo, np.uint8))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    board = Image.new("RGB", (side, side), (128, 128, 128))
    board.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(board)


def read_log(folder: Path) -> tuple[dict[str, list[float]], int]:
    """The columns of a run's logs, and the number of rows from the head phase.

    Missing values are NaN. Runs of earlier versions have no log of the head phase.
    """
    head, rest = (_rows(folder / name) for name in ("log_head.csv", "log.csv"))
    rows = [*head, *rest]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, np.nan) for row in rows] for name in names}, len(head)


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [{k: float(v or "nan") for k, v in row.items()} for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise APINetError(
            f"The training log {str(path)!r} cannot be read ({error}); remove it, or "
            "its damaged lines."
        ) from error
