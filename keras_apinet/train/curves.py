"""A picture of how a training went."""

import io
from collections.abc import Sequence
from pathlib import Path

from keras_apinet.files.io import write_atomically


def draw(rows: Sequence[dict[str, float]], folder: Path) -> bool:
    """Draws loss and accuracy over the epochs into `curves.png` and `curves.svg`.

    Args:
        rows: What `log.csv` says.
        folder: The run folder.

    Returns:
        Whether matplotlib is there to draw them.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=150)
    epochs = [row["epoch"] for row in rows]
    for axis, title, names in (
        (
            figure.add_subplot(1, 2, 1),
            "Loss",
            {
                "loss": "training (pairs)" if "ranking_loss" in rows[0] else "training",
                "ranking_loss": "ranking part",
                "val_loss": "validation (single images)",
            },
        ),
        (
            figure.add_subplot(1, 2, 2),
            "Top-1 accuracy",
            {"accuracy": "training", "val_accuracy": "validation"},
        ),
    ):
        for name, label in names.items():
            if name in rows[0]:
                values = [row[name] for row in rows]
                axis.plot(epochs, values, marker=".", label=label)
        axis.set_title(title, loc="left")
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0, top=1 if "accuracy" in title else None)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    for ending in ("png", "svg"):
        picture = io.BytesIO()
        figure.savefig(picture, format=ending)
        write_atomically(folder / f"curves.{ending}", picture.getvalue())
    return True
