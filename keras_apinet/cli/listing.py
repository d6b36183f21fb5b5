"""`keras-apinet list`."""

import argparse
import datetime
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable

HELP = "list the runs in a folder: backbone, data, accuracy, date"
STARTS_KERAS = False
_COLUMNS = ("run", "backbone", "data", "classes", "validation", "test", "date")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder and the output format."""
    parser.add_argument(
        "folder",
        nargs="?",
        default=".",
        metavar="FOLDER",
        help="folder to search, including subfolders (default: current folder)",
    )
    add_options(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Prints one line per run, newest last."""
    from keras_apinet.files.schema import to_json
    from keras_apinet.shares import percent

    if not os.path.isdir(args.folder):
        raise APINetError(f"The folder {args.folder!r} does not exist; check the path.")
    runs = sorted(_runs_below(args.folder), key=lambda run: str(run["date"]))
    if args.json:
        print(to_json(runs))
        return 0
    if not runs:
        raise APINetError(
            f"No runs found in {args.folder!r}; create one with `keras-apinet train`."
        )
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    known = {k for found in runs for k, v in found.items() if v is not None}
    columns = [name for name in _COLUMNS if name in known]
    for name in columns:
        right = name in ("classes", "validation", "test")
        table.add_column(
            name,
            justify="right" if right else "left",
            overflow="ellipsis",
            no_wrap=name not in ("backbone", "data"),  # these may be truncated
        )
    for found in runs:
        if "error" in found:
            table.add_row(Text(printable(found["run"])), "cannot be read")
            continue
        cells = {k: "-" if v is None else printable(str(v)) for k, v in found.items()}
        for name in ("validation", "test"):
            if found[name] is not None:
                cells[name] = percent(found[name])
        cells["date"] = cells["date"].split()[0]
        table.add_row(*(Text(cells[name]) for name in columns))
    Console(highlight=False).print(table)
    return 0


def _runs_below(folder: str) -> Iterator[dict[str, Any]]:
    from keras_apinet.runs import DESCRIPTION, FIGURES, Run

    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if DESCRIPTION not in files:
            continue
        folders.clear()  # a run holds no runs
        name = os.path.relpath(place, folder)
        seconds = os.lstat(os.path.join(place, DESCRIPTION)).st_mtime
        began = datetime.datetime.fromtimestamp(seconds)
        date = began.isoformat(" ", "minutes")
        try:
            opened = Run.open(place)
            trained = opened.read(FIGURES) or {}
            tested = opened.read("evaluation_test.json") or {}
        except APINetError as error:
            yield {"run": name, "date": date, "error": str(error)}
            continue
        # Only results of the default model on the run's own test split.
        if tested.get("given") or tested.get("model", "best") != "best":
            tested = {}
        data = opened.description["data"].get("load", {}).get("name")
        yield {
            "run": name,
            "backbone": opened.settings.get("backbone"),
            "data": Path(data).name if data else None,
            "classes": len(opened.class_names),
            "validation": trained.get("val_accuracy"),
            "test": tested.get("metrics", {}).get("top1", {}).get("value"),
            "date": date,
        }
