"""A static page that classifies photos in the visitor's browser."""

import hashlib
import importlib.resources
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from keras_apinet.errors import APINetError
from keras_apinet.export.runtime.classifier_info import (
    INFO_FILE,
    LABELS_FILE,
    ClassifierInfo,
)

# The runtime: LiteRT for the browser, pinned, Apache-2.0.
RUNTIME_VERSION = "2.5.3"
_PACKAGES = [
    f"{name}@{RUNTIME_VERSION}" for name in ("@litertjs/core", "@litertjs/wasm-utils")
]
# The default variant, the multithreaded one, and the one for browsers without relaxed
# SIMD (Safari).
_FILES = {
    "@litertjs/core/dist/index.js": "core.js",
    "@litertjs/wasm-utils/dist/index.js": "wasm-utils.js",
    **{
        f"@litertjs/core/wasm/{name}": f"wasm/{name}"
        for variant in ("", "_threaded", "_compat")
        for name in (
            f"litert_wasm{variant}_internal.js",
            f"litert_wasm{variant}_internal.wasm",
        )
    },
}


def write_page(
    model: Path,
    info: ClassifierInfo,
    folder: Path,
    runtime: Path | None,
    say: Callable[[str], None],
) -> Path:
    """Writes the page to a new folder, which any web server can serve.

    `runtime` is a folder in which `npm install` placed the runtime, or an earlier
    exported page; with `None`, npm fetches the runtime.
    """
    page = folder / "page"
    template = importlib.resources.files("keras_apinet.export") / "page"
    with importlib.resources.as_file(template) as source:
        shutil.copytree(source, page)
    shutil.copyfile(model, page / "model.tflite")
    (page / INFO_FILE).write_text(info.to_json(), "utf-8")
    (page / LABELS_FILE).write_text(info.labels, "utf-8")
    _add_runtime(page / "runtime", folder / "npm", runtime, say)
    _add_offline(page)
    return page


def _add_runtime(
    target: Path, fetched: Path, runtime: Path | None, say: Callable[[str], None]
) -> None:
    (target / "wasm").mkdir(parents=True)
    if runtime is None:
        runtime = fetched
        runtime.mkdir()
        fetch_runtime(runtime, say)
    for packaged, own in _FILES.items():
        candidates = (
            runtime / "node_modules" / packaged,
            runtime / packaged,
            runtime / own,
            runtime / "runtime" / own,
        )
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise APINetError(
                f"The folder runtime={str(runtime)!r} has no {packaged}; create it "
                f"with `npm install --prefix FOLDER {' '.join(_PACKAGES)}`, or "
                "omit --runtime."
            )
        shutil.copyfile(found, target / own)
    (target / "LICENCE.txt").write_text(
        f"{', '.join(_PACKAGES)}: LiteRT for the web, Apache License 2.0,\n"
        "https://github.com/google-ai-edge/LiteRT\n",
        "utf-8",
    )


def fetch_runtime(folder: Path, say: Callable[[str], None]) -> None:
    """Fetches the runtime into a folder with npm."""
    npm = shutil.which("npm")
    way_out = (
        f"run `npm install --prefix FOLDER {' '.join(_PACKAGES)}` on a machine with a "
        "network, and pass that folder as --runtime."
    )
    if npm is None:
        raise APINetError(
            "The page needs LiteRT for the browser, but npm, which fetches it, is not "
            f"installed; {way_out}"
        )
    say(f"Fetching the browser runtime with npm ({', '.join(_PACKAGES)}) ...")
    options = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
    answer = subprocess.run(
        [npm, "install", "--prefer-offline", *options, "--prefix", folder, *_PACKAGES],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if answer.returncode:
        lines = [line for line in answer.stdout.splitlines() if "error" in line.lower()]
        reason = (lines or ["no reason given"])[0][:200]
        raise APINetError(
            f"npm could not fetch {', '.join(_PACKAGES)} ({reason}); {way_out}"
        )


def _add_offline(page: Path) -> None:
    """Fills in the files for the service worker's cache, with one cache per model."""
    worker = page / "offline.js"
    digest = hashlib.sha256()
    names = []
    for path in sorted(page.rglob("*")):
        if path.is_file() and path != worker:
            name = path.relative_to(page).as_posix()
            digest.update(name.encode() + b"\0" + path.read_bytes())
            if path.parent.name != "wasm":  # the page itself caches those it has loaded
                names.append(name)
    text = worker.read_text("utf-8")
    text = text.replace("@FINGERPRINT@", digest.hexdigest()[:16])
    text = text.replace("@FILES@", json.dumps(["./", *names], indent=1))
    worker.write_text(text, "utf-8")
