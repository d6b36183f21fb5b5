"""Wrong labels, outliers and poor photos; the tables that a training reads; advice."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from evaluate_runs import NAMES, make_run, photos
from factories import class_folders
from PIL import Image

from keras_apinet import data
from keras_apinet.cli import main
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.evaluation import open_judged_data
from keras_apinet.evaluate.pages import advice_words
from keras_apinet.open_world.advice import Advice, advise, sentence, sentences
from keras_apinet.open_world.audit import Finding, audit, audit_table, sharpness
from keras_apinet.open_world.confident import doubtful_labels, out_of_fold, outliers
from keras_apinet.runs import Run

pytestmark = pytest.mark.one_backend


def _clouds(count, spread=1.0, classes=3):
    """Photos of each class around its own corner of a cube."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), count)
    return 4 * np.eye(classes)[labels] + rng.normal(
        0, spread, (len(labels), classes)
    ), (labels)


def test_swapped_labels_come_first_with_the_right_suggestion():
    x, true = _clouds(30)
    labels = true.copy()
    bad = np.array([2, 40, 75])
    labels[bad] = (true[bad] + 1) % 3
    doubts = doubtful_labels(out_of_fold(x, labels), labels)
    assert set(doubts.order[:3]) == set(bad)
    np.testing.assert_array_equal(doubts.suggested[bad], true[bad])
    assert 3 <= doubts.candidates <= 6


def test_groups_are_judged_by_what_has_not_seen_them():
    # Each class is two far groups: judged without its group, a photo has no like.
    x = np.repeat(np.eye(4) * 9, 5, axis=0)
    labels, groups = np.repeat([0, 0, 1, 1], 5), np.repeat([0, 1, 2, 3], 5)
    alone = out_of_fold(x, labels)
    together = out_of_fold(x, labels, groups)
    rows = np.arange(20)
    assert alone[rows, labels].min() > 0.9
    assert together[rows, labels].mean() < 0.6


def test_outlier_is_the_photo_away_from_its_class():
    x, labels = _clouds(12, spread=0.2)
    x[5] = [0, -1, 4]
    far = outliers(x, labels)
    assert far.argmax() == 5
    assert np.median(far) == pytest.approx(1, abs=0.3)


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.zeros((5, 5))
    grey[2, 2] = 10
    # Nine inner places: -40 once, 10 four times, 0 four times; their mean is 0.
    assert sharpness(grey) == pytest.approx((1600 + 400) / 9)


def test_advice_goes_to_classes_with_few_photos_and_errors_come_first():
    x, labels = _clouds(12, spread=0.5, classes=4)
    x[labels == 1] = x[labels == 0] + 0.4  # two that look alike
    kept = (labels != 3) | (np.arange(len(labels)) % 3 == 0)  # 4 photos of "d"
    x, labels = x[kept], labels[kept]
    names = ["a", "b", "c", "d"]
    found = {advice.name: advice for advice in advise(x, labels, names, 20)}
    assert sum(advice.more for advice in found.values()) == 20
    assert found["d"].more > found["a"].more
    assert (found["a"].beside, found["b"].beside) == ("b", "a")
    assert found["a"].accuracy < found["d"].accuracy
    for advice in found.values():
        assert advice.low <= advice.gain <= advice.high
        assert f"{advice.more} more" in sentence(advice)
    with pytest.raises(APINetError, match="'e' has 0 photos"):
        advise(x, labels, [*names, "e"], 4)


def test_advice_that_promises_nothing_is_one_line():
    def advice(name, gain):
        return Advice(name, 20, 3, None, False, 0.9, gain, 0.0, 2 * gain)

    told = sentences([advice("a", 0.012), advice("b", 0.0004), advice("c", 0.0)])
    assert told[0].startswith("a: 3 more")
    rest = "the expected gain from more photos is below 0.1 points."
    assert told[1:] == [f"2 other classes: {rest}"]
    assert sentences([advice("b", 0.0)]) == [f"All classes: {rest}"]
    assert sentences([]) == []


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of photos of which one is dark, one broken and one mislabelled."""
    root = tmp_path_factory.mktemp("audit")
    run = make_run(root / "run", photos(root), NAMES)
    rng = np.random.default_rng(3)
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (root / "set" / name).mkdir(parents=True)
        for i in range(12):
            noise = rng.normal(colour, 30, (40, 48, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(noise).save(root / "set" / name / f"{i}.png")
    (root / "set/red/bad.png").write_bytes(b"none")
    dark = rng.integers(0, 20, (40, 48, 3), np.uint8)
    Image.fromarray(dark).save(root / "set/blue/dark.png")
    (root / "set/red/0.png").rename(root / "set/blue/<b>wrong.png")
    page = root / "audit.html"
    command = ["data", str(root / "set"), "--audit", str(run), "--audit-out", str(page)]
    assert main(command) == 0
    return root, command


@pytest.mark.slow
def test_audit_finds_them_and_shows_them(audited):
    root, command = audited
    with (root / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {(row["kind"], row["path"].split("/")[-1]) for row in rows}
    assert ("label", "<b>wrong.png") in kinds
    assert ("dark", "dark.png") in kinds
    assert ("unreadable", "bad.png") in kinds
    wrong = next(r for r in rows if r["kind"] == "label" and "wrong" in r["path"])
    assert (wrong["label"], wrong["suggested"]) == ("blue", "red")
    page = (root / "audit.html").read_text("utf-8")
    assert "&lt;b&gt;wrong.png" in page
    assert "<b>wrong.png" not in page
    assert main(command) == 2  # nothing is replaced unasked
    assert main([*command, "--force"]) == 0


def test_training_reads_the_table(audited, tmp_path, capsys):
    root, _ = audited
    table = tmp_path / "table.csv"
    path = root / "set/blue/<b>wrong.png"
    table.write_text(f"path,suggested\n{path},red\n")
    place = root / "set"
    names = list(place.rglob("*.png"))
    plain = data.load(place, validation=0)
    mended = data.load(place, validation=0, relabel=table)
    less = data.load(place, validation=0, exclude=table)
    assert len(plain.splits["train"]) == len(names)
    assert len(less.splits["train"]) == len(names) - 1

    def label(images):
        train = images.splits["train"]
        place = [train.reference(i) for i in range(len(train))].index(str(path))
        return images.class_names[train.labels[place]]

    assert (label(plain), label(mended)) == ("blue", "red")
    assert "1 photos are relabeled" in mended.notes[-1]
    for text, said in (
        (f"path,suggested\n{path},rde\n", "did you mean 'red'"),
        ("path,suggested\nelsewhere.png,red\n", "None of the photos"),
        ("file\nx\n", "no column 'path'"),
    ):
        table.write_text(text)
        with pytest.raises(APINetError, match=said):
            data.load(place, validation=0, relabel=table)
    assert (
        main(
            [
                "train",
                "--data",
                str(place),
                "--out",
                str(tmp_path / "run"),
                "--exclude",
                str(tmp_path / "none.csv"),
            ]
        )
        == 2
    )
    assert "none.csv" in capsys.readouterr().err


def test_a_table_still_fits_when_the_data_moved(audited, tmp_path, monkeypatch):
    root, _ = audited
    table = tmp_path / "table.csv"
    monkeypatch.chdir(tmp_path)
    for path in (root / "set/blue/3.png", "set/blue/3.png"):  # from anywhere, too
        table.write_text(f"path\n{path}\n")
        moved = shutil.copytree(root / "set", tmp_path / "moved", dirs_exist_ok=True)
        less = data.load(moved, validation=0, exclude=table).splits["train"]
        names = [less.reference(i) for i in range(len(less))]
        assert len(names) == len(list(moved.rglob("*.png"))) - 1
        assert str(moved / "blue/3.png") not in names
    # Some names are in many sets: that does not make it this set's table.
    table.write_text(f"path\n{root}/other/blue/3.png\n{root}/other/blue/99.png\n")
    with pytest.raises(APINetError, match="None of the photos"):
        data.load(moved, validation=0, exclude=table)


def test_a_run_knows_its_moved_photos_by_the_table(tmp_path, rng):
    """Its own data, without splits: judged as another set, training photos were in."""
    colours = [(200, 40, 40), (40, 40, 200)]

    def noisy(label, i):
        return rng.normal(colours[label], 30, (40, 40, 3)).clip(0, 255)

    photos = class_folders(tmp_path / "set", "ab", 20, noisy)
    table = tmp_path / "table.csv"
    table.write_text(f"path\n{photos / 'a/0.png'}\n")
    load = {"name": str(photos), "exclude": str(table), "group_by": "none"}
    own = data.load(load["name"], exclude=table, group_by="none")
    run = make_run(tmp_path / "run", photos, own.class_names)
    description = json.loads((run / "run.json").read_text("utf-8"))
    description["data"] = {"load": load, "fingerprint": own.fingerprint()}
    (run / "run.json").write_text(json.dumps(description), "utf-8")
    photos.rename(tmp_path / "moved")
    images, given = open_judged_data(Run.open(run), str(tmp_path / "moved"))
    assert not given
    assert {n: len(s) for n, s in images.splits.items()} == {"train": 35, "val": 4}
    # The run has a copy of the table, and other data need none.
    table.rename(run / "exclude.csv")
    assert not open_judged_data(Run.open(run), str(tmp_path / "moved"))[1]
    others = class_folders(tmp_path / "others", "ab", 3, noisy)
    assert open_judged_data(Run.open(run), str(others))[1]


def test_findings_stay_with_their_photos_if_one_is_gone(tmp_path, monkeypatch):
    root = tmp_path / "set"
    folder = make_run(tmp_path / "run", photos(tmp_path), NAMES)
    rng = np.random.default_rng(3)
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (root / name).mkdir(parents=True)
        for i in range(60):
            noise = rng.normal(colour, 30, (40, 48, 3)).clip(0, 255).astype("uint8")
            Image.fromarray(noise).save(root / name / f"{i:02}.png")
    (root / "red/30.png").rename(root / "blue/wrong.png")
    images = data.load(root, validation=0)
    run, model = Run.open(folder), Run.model

    def opened(self, *args):
        (root / "blue/05.png").unlink()  # after the first look at the photos
        return model(self, *args)

    monkeypatch.setattr(Run, "model", opened)
    found = [f.path for f in audit(run, images) if f.kind == "label"]
    assert found[0] == str(root / "blue/wrong.png")


def test_a_page_and_its_table_need_names_of_their_own(audited, capsys):
    root, command = audited
    for name, said in (
        ("x.csv", "ends in .html"),
        ("", "ends in .html"),
        ("other.html", "was not written by this package"),
    ):
        (root / "other.csv").write_text("mine\n")
        path = str(root / name) if name else ""
        assert main([*command[:-1], path, "--force"]) == 2
        assert said in capsys.readouterr().err
    assert (root / "other.csv").read_text() == "mine\n"


def test_advice_is_on_the_runs_own_photos(audited, capsys):
    root, _ = audited
    run = Run.open(root / "run")
    assert main(["advise", str(run.folder), "--data", str(root / "set")]) == 2
    assert "is not the data this run was trained on" in capsys.readouterr().err
    assert run.read("advice.json") is None
    assert main(["advise", str(run.folder), "--which", "last"]) == 0
    run.write("advice.json", {**run.read("advice.json"), "advice": ["a: 3 more."]})
    assert advice_words(run, {"model": "best"}) == []
    assert advice_words(run, {"model": "last"}) == ["a: 3 more."]


def test_a_table_of_another_set_of_the_same_names_is_refused(tmp_path):
    for root, level in (("p", 40), ("q", 90)):
        class_folders(
            tmp_path / root,
            "ab",
            6,
            lambda c, i, x=level: np.full((9, 9, 3), x + c + i),
        )
    table = tmp_path / "p.csv"
    rows = [(str(tmp_path / "p" / "a" / f"{i}.png"), "b") for i in range(3)]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "suggested"), *rows])
    with pytest.raises(APINetError, match="None of the photos in the table"):
        data.load(tmp_path / "q", validation=0, relabel=table)
    shutil.copytree(tmp_path / "p", tmp_path / "copy")
    notes = data.load(tmp_path / "copy", validation=0, relabel=table).notes
    assert notes[-1].startswith("3 photos are relabeled")


def test_tables_keep_names_with_a_carriage_return(tmp_path):
    path = str(tmp_path / "a\rb.png")
    text = audit_table([Finding(path, "train", "a", "dark", "", 1.0, "why", 0)])
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["path"] == path


def test_a_validation_split_of_broken_photos_ends_no_audit(tmp_path):
    root = class_folders(
        tmp_path / "train", "ab", 4, lambda c, i: np.full((40, 40, 3), 90 * c + i)
    ).parent
    (root / "val" / "a").mkdir(parents=True)
    (root / "val" / "a" / "0.png").write_bytes(b"no picture")
    run = make_run(tmp_path / "run", root, ["a", "b"])
    kinds = {f.kind for f in audit(run, data.load(root)) if f.split == "val"}
    assert kinds == {"unreadable"}
