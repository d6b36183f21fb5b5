"""`keras-apinet compare-runs`."""

import argparse

from keras_apinet.errors import APINetError, printable
from keras_apinet.files.bounds import BOOTSTRAP
from keras_apinet.files.schema import to_json

HELP = "compare finished runs of two methods on the same test photos"
# Stands for `--`, which argparse drops; no path holds it.
VERSUS = "\0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the runs of both methods, the data and the form of the output."""
    parser.usage = "keras-apinet compare-runs [options] RUN ... -- RUN ..."
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folders of one method, then --, then those of the other",
    )
    parser.add_argument(
        "--names",
        nargs=2,
        default=["A", "B"],
        metavar=("A", "B"),
        help="titles of the columns",
    )
    parser.add_argument(
        "--which", choices=("best", "last"), default="best", help="model of each run"
    )
    parser.add_argument(
        "--split", help="split to test on (default: test, or val if there is none)"
    )
    parser.add_argument("--data", help="where the data set is now, or another test set")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets data is now")
    parser.add_argument(
        "--bootstrap",
        type=BOOTSTRAP,
        default=1000,
        metavar="N",
        help="samples for the 95 %% intervals; 0 for none (default: 1000)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="print a LaTeX table")
    form.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    if args.runs.count(VERSUS) != 1 or VERSUS in (args.runs[0], args.runs[-1]):
        raise APINetError(
            "Two methods are compared, with one -- between their runs: keras-apinet "
            f"compare-runs RUN ... -- RUN ...; got {args.runs.count(VERSUS)} of --."
        )
    from keras_apinet.evaluate.run_comparison import as_latex, compare_runs, table_rows

    middle = args.runs.index(VERSUS)
    result = compare_runs(
        args.runs[:middle],
        args.runs[middle + 1 :],
        split=args.split,
        which=args.which,
        data=args.data,
        data_dir=args.data_dir,
        bootstrap=args.bootstrap,
    )
    if args.json:
        print(to_json(result))
        return 0
    names = [printable(name) for name in args.names]
    if args.latex:
        print(as_latex(result, names))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    for name in names:
        table.add_column(Text(name), justify="right")
    table.add_column("difference (95 % interval)", justify="right", no_wrap=True)
    for row in table_rows(result):
        table.add_row(*row)
    console.print(table)
    for i, pair in enumerate(result["mcnemar"], 1):
        console.print(
            f"McNemar, pair {i}: {pair['only_first']} images right in the first alone, "
            f"{pair['only_second']} in the second alone, p = {pair['p']:.3g}"
        )
    if 1 in result["runs"]:
        console.print(
            "A method with a single run: the interval covers other images, not other "
            "seeds."
        )
    return 0
