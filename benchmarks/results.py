"""What was measured: recorded as JSON, shown in RESULTS.md and in the README.

    python -m benchmarks.results

Each benchmark hands its table to `record`, which keeps it in `benchmarks/results/`
with date, machine and versions; this command makes the pages from those files anew.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE / "results"
PAGE = HERE / "RESULTS.md"
README = HERE.parent / "README.md"
MARKS = ("<!-- results -->", "<!-- /results -->")

# The order of the page; what is not named here comes after.
ORDER = (
    "accuracy",
    "tuning",
    "ablation",
    "head",
    "step",
    "mining",
    "inference",
    "pipeline",
)
# Records without a figure in the README that the documentation rests on; the tables of
# the others are in `results/` only.
SHOWN = (
    ("tuning", "CUB_200_2011_efficientnet_lite0"),
    ("ablation", "grocery_store_mobilenet_v2_3_seeds"),
)
PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "onnxruntime")
INTRODUCTION = """\
# Results

Made by `python -m benchmarks.results` from the files in `results/`; each figure stands
with the command that measures it again, the machine, the versions and the day. Times
are compared within one run only, as ratios of medians taken in turns. Load is that of
the last minute, the benchmark's own included: far above the number of cores, others
were at work, and the figure is a try-out.

```
make benchmarks              # the quick ones anew, within 15 minutes on two cores
python -m benchmarks         # all in full, hours; --list shows them, --data adds photos
```
"""


def record(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: str = "",
    *,
    variant: str = "",
    headline: Mapping[str, str] | None = None,
    figure: str | None = None,
) -> Path:
    """Keeps what a benchmark measured, in place of what it measured before.

    Args:
        name: The benchmark's module.
        title: What was measured, in a few words.
        columns: Heads of the table.
        rows: Its rows, as they are to be shown.
        notes: What a reader needs to understand the table.
        variant: What tells this file from others of the same benchmark: a backend, a
            data set.
        headline: The one or two figures for the README, by what they are.
        figure: File name of a picture in `results/`.

    Returns:
        The file.
    """
    content = {
        "name": name,
        "variant": variant,
        "title": title,
        "command": command(name, sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "columns": list(columns),
        "rows": [[str(cell) for cell in row] for row in rows],
        "notes": notes,
        "headline": dict(headline or {}),
        "figure": figure,
    }
    path = FOLDER / f"{stem(name, variant)}.json"
    FOLDER.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
    return path


def stem(name: str, variant: str) -> str:
    """The name of a record's files, without their ending."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", f"{name}_{variant}" if variant else name)


def command(name: str, arguments: Sequence[str]) -> str:
    """What to type to measure this again; of paths elsewhere, only the last part."""
    chosen = os.environ.get("KERAS_BACKEND")
    words = [f"KERAS_BACKEND={chosen}"] if chosen else []
    words += ["python", "-m", f"benchmarks.{name}"]
    words += [
        re.sub(r"(^|=)(/|\.\./)(.*/)?", r"\1", argument) for argument in arguments
    ]
    return " ".join(shlex.quote(word) if " " in word else word for word in words)


def backend() -> str:
    """The backend that Keras runs on, or would run on in a child process."""
    keras = sys.modules.get("keras")
    if keras is not None:
        return str(keras.backend.backend())
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def machine() -> dict[str, Any]:
    """Processor, cores, how busy they were, and the accelerator if there is one."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*: (.*)", info.read_text())
        model = found.group(1) if found else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "accelerator": accelerator(),
    }


def accelerator() -> str | None:
    """The name of the first GPU, unless it is hidden or there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return names.splitlines()[0].strip() if names.strip() else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that took part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        if package in ("keras", backend()) or package in sys.modules:
            found[package] = importlib.metadata.version(package)
    return found


def recorded() -> list[dict[str, Any]]:
    """Everything recorded, in the order of the page."""
    records = [json.loads(p.read_text("utf-8")) for p in FOLDER.glob("*.json")]

    def place(one: dict[str, Any]) -> tuple[int, str, str]:
        known = one["name"] in ORDER
        rank = ORDER.index(one["name"]) if known else len(ORDER)
        return rank, one["name"], one["variant"]

    return sorted(records, key=place)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(map(line, [columns, ["---"] * len(columns), *rows]))


def line(row: Sequence[str]) -> str:
    """One line of such a table."""
    return f"| {' | '.join(row)} |"


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """RESULTS.md."""
    parts, before = [INTRODUCTION], None
    others = []
    for one in records:
        if not one["headline"] and (one["name"], one["variant"]) not in SHOWN:
            others.append(f"- {one['title']}, {one['date']}: `{one['command']}`")
            continue
        if one["name"] != before:
            parts.append(f"## {one['title']}\n")
            before = one["name"]
        machine, versions = one["machine"], one["versions"]
        parts.append(f"`{one['command']}`\n")
        parts.append(table(one["columns"], one["rows"]) + "\n")
        if one["figure"]:
            parts.append(f"![{one['title']}](results/{one['figure']})\n")
        where = f"{machine['cores']} cores of {machine['cpu']}"
        if machine["load"] is not None:
            where += f", load {machine['load']}"
        if machine["accelerator"]:
            where = f"{machine['accelerator']}; {where}"
        names = ", ".join(f"{name} {number}" for name, number in versions.items())
        made = f"{one['date']}; {where}; {names}.\n"
        parts.append(f"{one['notes']}\n{made}" if one["notes"] else made)
    if others:
        parts.append("\n".join(["## Also recorded in `results/`\n", *others]) + "\n")
    return "\n".join(parts)


def readme_block(records: Sequence[Mapping[str, Any]]) -> str:
    """The README's table: the headline figures."""
    rows = [
        [what, figure, f"`{one['name']}`"]
        for one in records
        for what, figure in one["headline"].items()
    ]
    shown = table(["what", "measured", "by benchmark"], rows)
    return f"{MARKS[0]}\n{shown}\n{MARKS[1]}"


def with_block(readme: str, block: str) -> str:
    """A README in which the block between the marks is another."""
    begin, end = readme.index(MARKS[0]), readme.index(MARKS[1]) + len(MARKS[1])
    return readme[:begin] + block + readme[end:]


def render() -> None:
    """Writes RESULTS.md and the README's block."""
    records = recorded()
    PAGE.write_text(page(records), "utf-8")
    readme = README.read_text("utf-8")
    README.write_text(with_block(readme, readme_block(records)), "utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    ).parse_args()
    render()
