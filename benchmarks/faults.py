"""Hostile inputs must cause no traceback, hang, change of other files or memory peak.

    python -m benchmarks.faults [--only checkpoint]

Runs all cases of `benchmarks.hostile`, then damaged models of every format, and
checkpoints damaged at every kind of byte position: each field of the archive's headers
and of the arrays' headers, and the values. A damaged checkpoint must be skipped in
favor of the previous one, or restore exactly what was saved. Cases run in child
processes, which report each one: a child without output for 20 seconds counts as
hanging, one that dies as crashed.
"""

import argparse
import json
import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import hostile
from benchmarks.hostile import Case

HANG_S = 20
LARGEST_KB = 2 * 2**20
START_S = 300  # the child first imports the backend and builds its models


def checkpoints() -> Iterator[Case]:
    """Checkpoints damaged or truncated at every kind of byte position."""
    from keras_apinet.train.checkpoints import Progress, everything, readable, save

    rng = np.random.default_rng(0)
    old, new = (
        [rng.normal(size=(8, 16)).astype("float32"), np.arange(5)] for _ in "ab"
    )

    def written(folder: Path) -> list[Path]:
        save(folder, old, Progress(epoch=1), 2)
        save(folder, new, Progress(epoch=2), 2)
        return everything(folder)

    with tempfile.TemporaryDirectory() as place:
        content = written(Path(place))[-1].read_bytes()
        positions = classes_of(Path(place))

    def damaged(folder: Path, harm: Callable[[bytes], bytes]) -> Callable[[], Any]:
        path = written(folder)[-1]
        path.write_bytes(harm(path.read_bytes()))

        def check() -> None:
            found = next(readable(folder), None)
            assert found is not None, "no checkpoint is left"
            wanted = {1: old, 2: new}[found[0].epoch]
            same = [np.array_equal(a, b) for a, b in zip(found[1], wanted, strict=True)]
            assert all(same), "other values were read"

        return check

    for what, position in positions:
        for bit in range(8):

            def flip(content: bytes, i: int = position, b: int = bit) -> bytes:
                return content[:i] + bytes([content[i] ^ 1 << b]) + content[i + 1 :]

            yield Case(
                f"checkpoint: bit {bit} of {what}",
                lambda folder, h=flip: damaged(folder, h),
                fails=False,
            )
        yield Case(
            f"checkpoint: cut off before {what}",
            lambda folder, i=position: damaged(folder, lambda content: content[:i]),
            fails=False,
        )
    for kind, text in hostile.CONTENTS.items():
        yield Case(
            f"checkpoint: {kind}",
            lambda folder, c=text: damaged(folder, lambda content: c),
            fails=False,
        )
    for size in (1, 100, 10_000):
        yield Case(
            f"checkpoint: {size} bytes more",
            lambda folder, n=size: damaged(folder, lambda content: content + b"\0" * n),
            fails=False,
        )
    assert len(content) < 100_000


def classes_of(run: Path) -> Iterator[tuple[str, int]]:
    """Every kind of byte position in the newest checkpoint, with one example each."""
    path = sorted(run.glob("checkpoints/*.npz"))[-1]
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        start = archive.start_dir
    found = []
    for part in (parts[0], parts[-1]):
        at = part.header_offset
        names, extra = (
            int.from_bytes(content[at + i :][:2], "little") for i in (26, 28)
        )
        data = at + 30 + names + extra
        found += [(f"{part.filename}, header byte {i}", at + i) for i in range(30)]
        found += [(f"{part.filename}, name", at + 30)]
        found += [(f"{part.filename}, extra field", at + 30 + names)] if extra else []
        size = part.compress_size
        inside = [*range(0, min(size, 80), 4), size // 2, size - 1]
        found += [(f"{part.filename}, data byte {i}", data + i) for i in inside]
    found += [(f"directory byte {i}", start + i) for i in range(46)]
    found += [(f"end byte {i}", len(content) - 22 + i) for i in range(22)]
    return iter(dict(found).items())


def models(world: Path) -> Iterator[Case]:
    """Models of every format, truncated and damaged."""
    from keras_apinet.export import load_classifier

    photo = world / "photo.png"
    rng = np.random.default_rng(0)
    for name in ("m.tflite", "m.onnx", "m.keras", "saved/saved_model.pb"):
        whole = (world / name).read_bytes()
        size = len(whole)
        cuts = [0, 1, 4, 8, 30, 100, *(size * np.linspace(0.05, 0.999, 14)).astype(int)]
        flips = rng.integers(0, size, 40)

        def opened(folder: Path, name: str, content: bytes) -> Callable[[], Any]:
            top = name.split("/")[0]
            if "/" in name:
                shutil.copytree(world / top, folder / top)
            (folder / name).write_bytes(content)
            return lambda: load_classifier(folder / top).predict(photo)

        for cut in cuts:
            yield Case(
                f"{name}: first {cut} bytes",
                lambda folder, n=name, c=whole[:cut]: opened(folder, n, c),
            )
        for i in flips:
            content = bytearray(whole)
            content[i] ^= 1 << int(rng.integers(8))
            yield Case(
                f"{name}: byte {i} changed",
                lambda folder, n=name, c=bytes(content): opened(folder, n, c),
                fails=False,
            )


def world_in(folder: Path) -> Path:
    """A small classifier in every format, and a photo."""
    from PIL import Image

    import keras_apinet
    from keras_apinet.export import Exporter
    from keras_apinet.export.formats import Target

    model = keras_apinet.build("tiny", 3, 32, None, class_names=list("abc"))
    targets = [Target.of(folder / name) for name in ("m.tflite", "m.onnx", "saved")]
    Exporter(model, verify=False).write(targets)
    model.save(folder / "m.keras")
    Image.fromarray(np.zeros((32, 32, 3), "uint8")).save(folder / "photo.png")
    return folder


def cases(only: str, world: Path) -> Iterator[Case]:
    """All cases whose names start with `only`."""
    for source in (hostile.everything, checkpoints, lambda: models(world)):
        yield from (case for case in source() if case.name.startswith(only))


def work(only: str, begin: int, world: Path) -> None:
    """Runs the cases from `begin` on in the child; prints a line of JSON for each."""
    import keras  # noqa: F401

    if not (world / "m.keras").exists():
        world_in(world)
    out = os.fdopen(os.dup(1), "w")
    print(json.dumps(None), file=out, flush=True)
    for i, case in enumerate(cases(only, world)):
        if i < begin:
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"case": case.name}), file=out, flush=True)
            try:
                wrong = hostile.trouble(case, Path(folder))
            except BaseException as error:
                wrong = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"wrong": wrong, "peak_kb": peak}), file=out, flush=True)


def run(only: str) -> list[dict[str, Any]]:
    """Runs all cases in child processes; starts a new one after a hang or crash."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as world:
        while True:
            command = [sys.executable, "-m", "benchmarks.faults", "--worker", world]
            child = subprocess.Popen(
                [*command, "--only", only, "--begin", str(len(results))],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_pump, args=(child, lines), daemon=True).start()
            current, limit, lost = None, START_S, ""
            while True:
                try:
                    line = lines.get(timeout=limit)
                except queue.Empty:
                    lost = f"hangs for {HANG_S} s"
                    break
                if not line:
                    lost = f"the process ended with {child.wait()}" if current else ""
                    break
                told, limit = json.loads(line), HANG_S
                if told is None:
                    continue
                if "case" in told:
                    current = told["case"]
                    continue
                results.append({"case": current, **told})
                current = None
                if told["wrong"]:
                    print(f"{results[-1]['case']}: {told['wrong']}", flush=True)
            child.kill()
            child.wait()
            if not lost:
                return results
            if current is None:
                sys.exit("The child did not start.")
            print(f"{current}: {lost}", flush=True)
            results.append({"case": current, "wrong": lost, "peak_kb": 0})


def _pump(child: subprocess.Popen, lines: "queue.Queue[str]") -> None:
    for line in child.stdout:
        lines.put(line)
    lines.put("")


def main() -> None:
    """Prints and records the failures."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--only", default="", metavar="NAME", help="prefix of names")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.only, args.begin, Path(args.worker))
        return
    results = run(args.only)
    wrong = [r["wrong"] or "" for r in results]
    counts = {
        "inputs": len(results),
        "hangs over 20 s": sum(w.startswith("hangs") for w in wrong),
        "unrelated files changed": sum(w.startswith("changed") for w in wrong),
        "peaks over 2 GB": sum(r["peak_kb"] > LARGEST_KB for r in results),
    }
    rest = sum(map(bool, wrong)) - counts["hangs over 20 s"]
    counts["tracebacks, crashes and wrong answers"] = (
        rest - counts["unrelated files changed"]
    )
    for name, count in counts.items():
        print(f"{count:7,} {name}")
    if args.only:
        return
    from benchmarks.results import record

    kinds = sorted(
        {r["case"].split(":")[0].split("(")[0].split(" --")[0] for r in results}
    )
    record(
        "faults",
        "Hostile inputs: damaged and deceptive files, numbers out of bounds",
        list(counts),
        [[f"{count:,}" for count in counts.values()]],
        f"Inputs for {', '.join(kinds)}.",
        headline={
            "tracebacks, hangs, changed files, peaks over 2 GB in "
            f"{len(results):,} hostile inputs": str(sum(list(counts.values())[1:]))
        },
    )
    if sum(list(counts.values())[1:]):
        sys.exit(1)


if __name__ == "__main__":
    main()
