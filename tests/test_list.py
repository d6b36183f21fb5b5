"""`keras-apinet list`: the runs below a folder."""

import json
import os

import pytest

from keras_apinet.cli import main

pytestmark = pytest.mark.one_backend


@pytest.fixture
def runs(tmp_path):
    for place, age, backbone in (
        ("runs/new", 0, "tiny"),
        ("runs/deep/old", 86400, "resnet50"),
    ):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        description = {
            "settings": {"backbone": backbone},
            "class_names": ["a", "b", "c"],
            "image_size": 32,
            "data": {"load": {"name": "/photos/of/birds"}},
        }
        (folder / "run.json").write_text(json.dumps(description))
        os.utime(folder / "run.json", (1_700_000_000 - age,) * 2)
    (tmp_path / "runs/new/training.json").write_text(
        json.dumps({"best_epoch": 3, "val_accuracy": 0.8125, "unreadable": {}})
    )
    (tmp_path / "runs/bad").mkdir()
    (tmp_path / "runs/bad/run.json").write_text("{}")
    # A link to a run that is gone, and figures that are none.
    (tmp_path / "runs/gone").mkdir()
    (tmp_path / "runs/gone/run.json").symlink_to(tmp_path / "nowhere.json")
    odd = tmp_path / "runs/odd"
    odd.mkdir()
    (odd / "run.json").write_text(json.dumps(description))
    (odd / "training.json").write_text('{"val_accuracy": "high"}')
    for folder in ("bad", "gone", "odd"):
        path = tmp_path / "runs" / folder / "run.json"
        os.utime(path, (1_800_000_000,) * 2, follow_symlinks=False)
    (tmp_path / "runs/.hidden").mkdir()
    (tmp_path / "runs/.hidden/run.json").write_text("{}")
    return tmp_path / "runs"


def test_each_run_is_a_line_the_newest_last(runs, capsys):
    assert main(["list", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("run", "backbone", "data", "classes", "validation", "date")
    ]
    # No run was tested, so there is no column for that.
    cells = [line.split() for line in lines[1:]]
    assert cells[0][:5] == ["deep/old", "resnet50", "birds", "3", "-"]
    assert cells[1][:5] == ["new", "tiny", "birds", "3", "81.2%"]
    assert cells[1][5].startswith("2023-11-1")
    for folder, row in zip(("bad", "gone", "odd"), cells[2:], strict=True):
        assert row == [folder, "cannot", "be", "read"]
    assert max(map(len, lines)) <= 80


def test_runs_as_json(runs, capsys):
    assert main(["list", str(runs), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in listed] == ["deep/old", "new", "bad", "gone", "odd"]
    assert listed[1]["validation"] == 0.8125
    assert "run.json" in listed[2]["error"]


@pytest.mark.parametrize(
    ("folder", "said"), [("nowhere", "does not exist"), (".", "No runs found")]
)
def test_nothing_to_list_is_one_sentence(folder, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["list", folder]) == 2
    assert said in capsys.readouterr().err
