"""Folders, tables, the synthetic birds, held-out images and the data command."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from factories import class_folders, save
from PIL import Image

from keras_apinet.cli import main
from keras_apinet.data import load
from keras_apinet.errors import APINetError

pytestmark = pytest.mark.one_backend


def fill(folder, name, count, colour=0):
    for i in range(count):
        pixels = np.full((12, 16, 3), colour + i, np.uint8)
        save(folder / name / f"{i} ü.png", pixels)


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, keras_apinet.data;"
        "print({'tensorflow', 'PIL', 'tensorflow_datasets', 'keras'} & {*sys.modules})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


def test_folder_with_splits(tmp_path):
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for c in ("b class", "a"):
            fill(tmp_path / split, c, count)
    (tmp_path / "train/a/notes.txt").write_text("not an image")
    fill(tmp_path / "train" / "a", ".hidden", 3)
    data = load(tmp_path)
    assert data.class_names == ("a", "b class")
    assert {n: len(s) for n, s in data.splits.items()} == {
        "train": 8,
        "val": 2,
        "test": 4,
    }
    assert data.held_out is None
    assert data.splits["train"].reference(0).endswith("train/a/0 ü.png")


def test_folder_without_splits_is_cut_by_class_and_seed(tmp_path):
    for c, count in (("a", 20), ("b", 3), ("c", 1)):
        fill(tmp_path, c, count)
    data = load(tmp_path, validation=0.2, seed=1, group_by="none")
    train, val = data.splits["train"], data.splits["val"]
    # A fifth of 20; of 3 at least one; a single image stays for training.
    assert np.bincount(train.labels).tolist() == [16, 2, 1]
    assert np.bincount(val.labels).tolist() == [4, 1]
    names = [{s.reference(i) for i in range(len(s))} for s in (train, val)]
    assert not names[0] & names[1]
    assert data.held_out == {
        "from": "train",
        "fraction": 0.2,
        "seed": 1,
        "images": 5,
        "group_by": "none",
        "groups": 5,
    }
    again, other = (
        load(tmp_path, validation=0.2, seed=seed, group_by="none") for seed in (1, 2)
    )
    assert again.fingerprint() == data.fingerprint()
    assert other.fingerprint() != data.fingerprint()


def test_loops_of_links_end(tmp_path):
    fill(tmp_path, "a", 2)
    fill(tmp_path, "b", 2)
    os.symlink(tmp_path / "a", tmp_path / "a" / "again")
    os.symlink(tmp_path, tmp_path / "b" / "up", target_is_directory=True)
    os.symlink(tmp_path / "c", tmp_path / "c")
    os.symlink(tmp_path / "b" / "self", tmp_path / "b" / "self")
    data = load(tmp_path, validation=0)
    assert len(data.class_names) == 2
    assert np.bincount(data.splits["train"].labels)[0] == 2


def test_a_class_only_for_testing_is_named(tmp_path):
    fill(tmp_path / "train", "a", 2)
    fill(tmp_path / "test", "rare", 1)
    with pytest.raises(APINetError, match=r"'test' split.*'rare'.*0 ü\.png"):
        load(tmp_path)


def test_table(tmp_path):
    fill(tmp_path, "images", 3)
    table = tmp_path / "list.tsv"
    table.write_text(
        "path\tlabel\tsplit\n"
        "images/0 ü.png\t10\ttrain\nimages/1 ü.png\t9\ttraining\n"
        "images/2 ü.png\t10\ttest\nimages/gone.png\t9\ttest\n"
    )
    data = load(table, validation=0)
    assert data.class_names == ("9", "10")
    assert data.splits["train"].labels.tolist() == [1, 0]
    assert data.splits["test"].read(0).shape == (12, 16, 3)
    with pytest.raises(APINetError, match=r"gone\.png.*No such file"):
        data.splits["test"].read(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na,b\n", "has the columns file, class"),
        ("path,label,split\na.png,x,holdout\n", "Line 2 .*split='holdout'"),
        ("path,label\na.png,\n", "Line 2"),
        ("path,label\n", "names no photos; add rows"),
    ],
)
def test_wrong_tables_are_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(APINetError, match=message):
        load(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "no/such/folder here"}, "neither a folder nor a file"),
        ({"validation": 1.0}, r"validation=1\.0"),
        ({"level": "family"}, "level='family'"),
    ],
)
def test_wrong_requests_are_named(options, message):
    with pytest.raises(APINetError, match=message):
        load(**{"name": "synthetic_birds"} | options)


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(APINetError, match="no class folders"):
        load(tmp_path)


def test_synthetic_birds():
    data = load("synthetic_birds")
    counts = {name: np.bincount(split.labels) for name, split in data.splits.items()}
    assert len(data.class_names) >= 16
    assert [set(c.tolist()) for c in counts.values()] == [{100}, {20}, {30}]
    assert len(set(data.groups["family"])) < len(data.class_names)
    test = data.splits["test"]
    np.testing.assert_array_equal(test.read(40), test.reader.drawing(40).pixels)
    again = load("synthetic_birds").splits["test"]
    np.testing.assert_array_equal(test.read(7), again.read(7))
    assert not np.array_equal(test.read(7), data.splits["train"].read(7))


def test_the_data_command_with_many_broken_files_and_odd_names(tmp_path, capsys):
    """A tenth is broken, which a training would refuse; no name stops the printing."""
    odd = os.fsdecode(b"caf\xe9")
    for name in (odd, "日本", "line\nbreak"):
        fill(tmp_path / "d", name, 10)
        (tmp_path / "d" / name / "bad.png").write_bytes(b"no")
    sheet = tmp_path / "sheet.png"
    arguments = ["data", str(tmp_path / "d"), "--sheet", str(sheet)]
    assert main([*arguments, "--image-size", "32", "--validation", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "unreadable images: 3" in out
    assert (
        "held out from the training images: 20% of each class requested, seed 0" in out
    )
    assert "caf\\udce9" in out
    assert "日本" in out
    with Image.open(sheet) as image:
        assert image.width > 1000


def test_the_data_command_reports_and_draws(tmp_path, capsys, monkeypatch):
    fill(tmp_path / "d/train", "a", 6, 10)
    fill(tmp_path / "d/train", "b", 3, 100)
    fill(tmp_path / "d/test", "a", 1, 10)  # the same picture as train/a/0
    fill(tmp_path / "d/train", "c", 150, 50)  # b's first pictures again, as class c
    (tmp_path / "d/train/a/bad.jpg").write_bytes(b"text")
    monkeypatch.chdir(tmp_path)
    sheet = tmp_path / "sheet.png"
    arguments = ["data", str(tmp_path / "d"), "--sheet", str(sheet)]
    assert main([*arguments, "--validation", "0", "--image-size", "32", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["per_class"] == {"a": 7, "b": 3, "c": 150}
    assert report["splits"]["train"]["short_side_px"] == {
        "min": 12,
        "median": 12,
        "max": 12,
    }
    assert [*report["unreadable"]] == [str(tmp_path / "d/train/a/bad.jpg")]
    assert [pair[1] for pair in report["leakage"]] == [
        str(tmp_path / "d/test/a/0 ü.png")
    ]
    assert len(report["conflicts"]) == 3
    with Image.open(sheet) as image:
        assert image.width > 1000
    again = [*arguments, "--validation", "0", "--image-size", "32", "--force"]
    assert main(again) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "   train    test  class" in lines
    assert "       7       1  a" in lines
    assert "     150       -  c" in lines
    assert "  smallest classes  b (3), a (7), c (150)" in lines
    assert "exact duplicates across splits (leakage): 1" in lines
    assert main(["data", str(tmp_path / "nothing")]) == 2


def test_a_table_without_rows_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("path,label\n")
    assert main(["data", str(tmp_path / "a.csv")]) == 2
    assert "names no photos; add rows" in capsys.readouterr().err


def test_a_folder_that_may_not_be_opened_is_left_out(tmp_path, monkeypatch):
    class_folders(tmp_path, "abc", 2, lambda *_: np.zeros((8, 8, 3)))
    real, closed = os.stat, str(tmp_path / "c")

    def stat(path, *args, **kwargs):
        if os.fspath(path).startswith(closed + "/"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    def scandir(path):
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    scan = os.scandir
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "scandir", scandir)
    data = load(tmp_path, validation=0)
    assert data.class_names == ("a", "b")
    assert any("cannot be opened" in note for note in data.notes)
