"""The input pipeline: speed compared with two plain pipelines, memory, indexing.

    python -m benchmarks.pipeline [--seconds 3] [--rounds 9] [--photos FOLDER]

Prints ratios within one run, each the median over rounds in which all pipelines take
turns. `--photos` is a class folder of real photos; without it, photos are generated.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

from benchmarks.results import record

CLASSES, IMAGES = 30, 4


def draw_photos(folder: Path, classes: int = 40, images: int = 20) -> None:
    """Generates JPEG files as large as those of CUB: 500 x 375 px, about 100 kB."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"class {c:03}").mkdir(parents=True)
        for i in range(images):
            coarse = rng.integers(0, 255, (48, 64, 3), np.uint8)
            image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
            image.save(folder / f"class {c:03}" / f"{i:03}.jpg", quality=92)


def our_batches(split: Any, size: int) -> Any:
    """Balanced batches, as used in training."""
    from keras_apinet.data import balanced_batches

    return balanced_batches(
        split,
        classes_per_batch=CLASSES,
        images_per_class=IMAGES,
        image_size=size,
        repeat=True,
    )


def plain_batches(split: Any, size: int) -> Any:
    """The usual pipeline: shuffle, decode, crop, resize and flip in parallel, batch."""
    import tensorflow as tf

    from keras_apinet.data.photos.augmentation import augmenter
    from keras_apinet.data.photos.graph_preprocessing import (
        crop_and_resize,
        decode,
        to_uint8,
    )

    flip = augmenter("paper")

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def one(path: Any, label: Any, number: Any) -> Any:
        seed = tf.random.experimental.stateless_fold_in(tf.constant([1, 2]), number)
        pixels = decode(tf.io.read_file(path))
        image = crop_and_resize(pixels, size, "fit", seed)
        return to_uint8(flip(image, seed)), label

    paths = [split.reference(i) for i in range(len(split))]
    data = tf.data.Dataset.from_tensor_slices(
        (paths, split.labels, np.arange(len(paths)))
    )
    data = data.shuffle(len(paths)).repeat()
    data = data.map(one, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(CLASSES * IMAGES).prefetch(tf.data.AUTOTUNE)


def torch_batches(split: Any, size: int) -> Iterable[Any]:
    """Torch's DataLoader with two workers, Pillow and the same P x K batches."""
    import torch
    from PIL import Image

    from keras_apinet.data import BatchPlan

    paths = [split.reference(i) for i in range(len(split))]
    plan = BatchPlan(split.labels, CLASSES, IMAGES)

    class Photos(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            rng = np.random.default_rng()
            with Image.open(paths[index]) as image:
                rgb = image.convert("RGB")
            side = round(min(rgb.size) * 7 / 8)
            left, top = (int(rng.integers(0, s - side + 1)) for s in rgb.size)
            box = (left, top, left + side, top + side)
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, box=box)
            if rng.random() < 0.5:
                rgb = rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return torch.from_numpy(np.array(rgb)), int(split.labels[index])

    class Batches(torch.utils.data.Sampler):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[list[int]]:
            for step in range(10**9):
                yield plan.indices(0, step).tolist()

    return torch.utils.data.DataLoader(Photos(), batch_sampler=Batches(), num_workers=2)


def rate(batches: Iterator[Any], seconds: float) -> float:
    """Images per second, over whole batches for about the given time."""
    next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += len(next(batches)[1])
    return count / (time.perf_counter() - start)


def speed(folder: Path, seconds: float, rounds: int) -> list[list[str]]:
    """Compares balanced batches with the two other pipelines, at two image sizes."""
    from keras_apinet.data import load

    split = load(folder, validation=0).splits["train"]
    makers: dict[str, Callable[[Any, int], Any]] = {
        "balanced": our_batches,
        "plain": plain_batches,
        "torch": torch_batches,
    }
    rows = []
    for size in (224, 448):
        rates: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(rounds):
            for name, make in makers.items():
                rates[name].append(rate(iter(make(split, size)), seconds))
        for other, least in (("plain", 0.95), ("torch", 1.2)):
            ratios = [
                a / b for a, b in zip(rates["balanced"], rates[other], strict=True)
            ]
            rows.append(
                [
                    f"speed at {size} px, balanced / {other}",
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to "
                    f"{max(ratios):.2f}), {statistics.median(rates['balanced']):.0f} "
                    f"against {statistics.median(rates[other]):.0f} images/s",
                    f"at least {least}",
                ]
            )
    return rows


MEMORY = """
import resource, sys
from keras_apinet.data import balanced_batches, load
split = load(sys.argv[1], validation=0).splits["train"]
batches = balanced_batches(
    split, classes_per_batch=30, images_per_class=4, image_size=224, repeat=True
)
for _ in batches.take(20):
    pass
print(len(split), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def memory(folder: Path) -> list[list[str]]:
    """Compares the peak memory of 20 steps over 5,000 and over 200,000 files."""
    photos = sorted(folder.rglob("*.jpg"))[:10]
    peaks = {}
    for count in (5_000, 200_000):
        with tempfile.TemporaryDirectory(dir=folder.parent) as links:
            for c in range(100):
                place = Path(links, f"class {c:03}")
                place.mkdir()
                for i in range(count // 100):
                    # One file takes at most 65,000 hard links on ext4.
                    source = photos[i % len(photos)]
                    os.link(source, place / f"{i:06}.jpg")
            result = subprocess.run(
                [sys.executable, "-c", MEMORY, links],
                capture_output=True,
                text=True,
                check=True,
            )
        found, peak = map(int, result.stdout.split()[-2:])
        peaks[found] = peak
    low, high = peaks.values()
    found = f"{high - low:+d} MB (peak {low} and {high} MB)"
    return [["memory, 200,000 against 5,000 files", found, "at most +100 MB"]]


def indexing() -> list[list[str]]:
    """Measures the time from a million labels to the first batch of indices."""
    from keras_apinet.data import BatchPlan

    labels = np.random.default_rng(0).integers(0, 10_000, 1_000_000)
    start = time.perf_counter()
    BatchPlan(labels, CLASSES, IMAGES).indices(0, 0)
    passed = time.perf_counter() - start
    return [["1,000,000 labels to the first batch", f"{passed:.2f} s", "at most 5 s"]]


def main() -> None:
    """Runs all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--only", choices=("speed", "memory", "indexing"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch, "photos")
        draw_photos(drawn)
        parts: dict[str, Callable[[], list[list[str]]]] = {
            "indexing": indexing,
            "memory": lambda: memory(drawn),
            "speed": lambda: speed(args.photos or drawn, args.seconds, args.rounds),
        }
        rows = []
        for name in [args.only] if args.only else parts:
            found = parts[name]()
            rows += found
            for row in found:
                print(": ".join(row[:2]), f"({row[2]})", flush=True)
    record(
        "pipeline",
        "The input pipeline, compared with two plain ones",
        ["", "measured", "target"],
        rows,
        "Medians (and ranges) over rounds in which all pipelines take turns; plain: "
        "tf.data in the usual order; torch: a DataLoader with two workers.",
        variant=args.only or "",
    )


if __name__ == "__main__":
    main()
