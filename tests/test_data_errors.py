"""Images that cannot be read: named with a reason, skipped and counted, or fatal."""

import io
import json

import numpy as np
import pytest
from factories import save
from PIL import Image

from keras_apinet.data import (
    ImageData,
    ReadingReport,
    Split,
    balanced_batches,
    evaluation_batches,
    load,
    read_photo,
)
from keras_apinet.data.birds import draw
from keras_apinet.errors import APINetError

pytestmark = pytest.mark.one_backend


def broken_files(folder):
    whole = io.BytesIO()
    Image.fromarray(draw(0, 0).pixels).save(whole, "JPEG")
    whole = whole.getvalue()
    files = {
        "truncated.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"this is a note, not a photo",
        "head only.jpg": whole[:3],
        "torn.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\x02",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


@pytest.mark.slow
def test_broken_files_are_named_with_a_reason(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    names = [*broken_files(tmp_path), "missing.jpg", "folder.jpg", "loop.jpg"]
    for name in names:
        with pytest.raises(APINetError, match=name) as caught:
            read_photo(tmp_path / name)
        assert "0x" not in str(caught.value)
        split = Split.of_files([str(tmp_path / name)], [0])
        batches = evaluation_batches(split, image_size=8)
        with pytest.raises(APINetError, match=name), batches.report:
            list(batches)


@pytest.fixture
def mostly_good(tmp_path):
    """300 photos of 3 classes, two of them broken."""
    for c in range(3):
        folder = tmp_path / "photos" / f"class {c}"
        folder.mkdir(parents=True)
        for i in range(100):
            save(folder / f"{i:03}.jpg", np.full((8, 8, 3), 80 * c + i // 2, np.uint8))
    (tmp_path / "photos/class 1/007.jpg").write_bytes(b"")
    (tmp_path / "photos/class 2/050.jpg").write_bytes(b"text")
    return load(tmp_path / "photos", validation=0)


def test_training_skips_them_keeps_the_balance_and_keeps_account(
    mostly_good, tmp_path, caplog
):
    options = {"classes_per_batch": 3, "images_per_class": 10, "image_size": 8}
    split = mostly_good.splits["train"]
    batches = balanced_batches(split, augmentation="none", **options)
    with batches.report:
        for images, labels in batches:
            assert np.bincount(labels).tolist() == [10, 10, 10]
            # No white or black square: the classes' colours are 0..49, 80.., 160..
            shade = images.numpy()[:, 4, 4, 0].astype(int)
            assert (np.abs(shade - 80 * labels.numpy() - 25) < 30).all()
    assert sorted(k[-15:] for k in batches.report.failed) == [
        "class 1/007.jpg",
        "class 2/050.jpg",
    ]
    assert "2 of 300 images could not be read" in caplog.text
    batches.report.save(tmp_path / "unreadable.json")
    assert len(json.loads((tmp_path / "unreadable.json").read_text())) == 2


@pytest.mark.slow
def test_what_takes_its_place_does_not_depend_on_when_it_was_found(mostly_good):
    options = {"classes_per_batch": 3, "images_per_class": 10, "image_size": 8}
    split = mostly_good.splits["train"]
    first = balanced_batches(split, repeat=True, **options).take(20)
    late = balanced_batches(split, repeat=True, start_step=15, **options).take(5)
    for (a, _), (b, _) in zip(list(first)[15:], late, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_than_a_hundredth_stops_the_training(tmp_path):
    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(20):
            save(tmp_path / c / f"{i}.png", draw(0, 0).pixels)
    (tmp_path / "a/3.png").write_bytes(b"no")
    split = load(tmp_path, validation=0).splits["train"]
    batches = balanced_batches(
        split, classes_per_batch=2, images_per_class=20, image_size=8
    )
    with pytest.raises(APINetError, match=r"more than 1%.*a/3.png"), batches.report:
        list(batches)


@pytest.mark.slow
def test_raise_stops_at_the_first(mostly_good):
    batches = balanced_batches(
        mostly_good.splits["train"],
        classes_per_batch=3,
        images_per_class=100,
        image_size=8,
        on_error="raise",
    )
    with pytest.raises(APINetError, match="cannot be read"), batches.report:
        list(batches)


def test_evaluation_can_leave_them_out(mostly_good):
    batches = evaluation_batches(
        mostly_good.splits["train"], image_size=8, batch_size=64, on_error="skip"
    )
    assert sum(len(labels) for _, labels in batches) == 298
    assert len(batches.report.failed) == 2


def test_unknown_on_error_is_named(mostly_good):
    with pytest.raises(APINetError, match="on_error='ignore'"):
        ReadingReport(mostly_good.splits["train"], "ignore")


@pytest.mark.parametrize("names", [("a", "b", "a"), ("\x1b", "b", "\\x1b")])
def test_two_classes_of_one_name(names):
    with pytest.raises(APINetError, match="0 and 2 are both called"):
        ImageData("birds", names, {})
