"""Classes that are added to a run, removed from it and merged, and the new run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluate_runs import NAMES, make_run, photos
from factories import class_folders
from PIL import Image

from keras_apinet.cli import main
from keras_apinet.errors import APINetError
from keras_apinet.export import load_classifier
from keras_apinet.open_world.heads import fit_head, imprint
from keras_apinet.runs import Run
from keras_apinet.train import classes, resume
from keras_apinet.train.classes import add_classes, merge_classes, remove_classes


def with_known_settings(folder):
    """The drawn run has a setting that no recipe knows."""
    description = json.loads((folder / "run.json").read_text("utf-8"))
    description["settings"] |= {"image_size": 32}
    del description["settings"]["note"]
    (folder / "run.json").write_text(json.dumps(description), "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of three classes, and photos of a fourth, which is blue."""
    root = tmp_path_factory.mktemp("classes")
    folder = make_run(root / "run", photos(root), NAMES)
    with_known_settings(folder)
    rng = np.random.default_rng(1)
    (root / "new" / "sky").mkdir(parents=True)
    for i in range(10):
        noise = rng.normal((40, 60, 220), 40, (40, 48, 3)).clip(0, 255)
        Image.fromarray(noise.astype("uint8")).save(root / "new/sky" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def added(place):
    return add_classes(place / "run", place / "new", place / "added")


@pytest.mark.one_backend
def test_imprinted_class_gets_the_logit_of_the_old_ones():
    # Two classes on axes 0 and 1, columns of length 2; the new one lies on axis 2.
    head = (2 * np.eye(3, 2, dtype="float32"), np.zeros(2, "float32"))
    old = np.array([[1, 0, 0], [0, 1, 0]], "float32")
    column, bias = imprint(head, (old, [0, 1]), np.array([[0, 0, 1]]))
    # From the mean (.5, .5, 0) to (0, 0, 1), by hand.
    away = np.array([-0.5, -0.5, 1]) / np.sqrt(1.5)
    np.testing.assert_allclose(column, 2 * away, rtol=1e-6)
    np.testing.assert_allclose(column[2] + bias, [2.0], rtol=1e-6)
    logits = old @ column + bias
    assert (logits < 2).all()


@pytest.mark.one_backend
def test_fitted_head_is_balanced_and_stays_near_its_start():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-1, 1, (400, 1)), rng.normal(1, 1, (20, 1))])
    y = np.repeat([0, 1], [400, 20])
    kernel, bias = fit_head(x, y, 2, pull=1e-5)
    # In balance, the boundary lies in the middle, not with the few.
    edge = -(bias[1] - bias[0]) / (kernel[0, 1] - kernel[0, 0])
    assert abs(edge) < 0.4
    start = (np.array([[3.0, -1.0]]), np.array([0.5, 0.25]))
    held = fit_head(x, y, 2, start=start, pull=1e6)
    np.testing.assert_allclose(held[0], start[0], atol=1e-3)


@pytest.mark.slow
def test_added_class_is_known_and_the_old_run_stays(place, added):
    run = added.run
    assert run.class_names == sorted([*NAMES, "sky"])
    assert Run.open(place / "run").class_names == list(NAMES)
    assert added.photos + added.images[1] == 10
    assert added.images[0] == 6
    assert added.new is not None  # two photos of the ten were held out
    answers = load_classifier(run.folder).predict(sorted((place / "new/sky").iterdir()))
    assert np.mean([answer[0][0] == "sky" for answer in answers]) >= 0.75
    with (run.folder / "photos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # 4 + 2 + 3 photos of each of the three, and ten new ones.
    assert len(rows) == 37
    assert sum(row["split"] == "test" for row in rows) == 9
    model, data = run.model(), run.data()
    assert data.fingerprint() == run.description["data"]["fingerprint"]
    assert list(data.class_names) == model.class_names == run.class_names
    before = Run.open(place / "run").model()
    pixels = np.full((1, 32, 32, 3), 100, "uint8")
    np.testing.assert_allclose(
        model.feature_model().predict(pixels, verbose=0),
        before.feature_model().predict(pixels, verbose=0),
        atol=1e-5,
    )


@pytest.mark.one_backend
def test_new_run_evaluates_predicts_and_has_ended(place, added, capsys):
    folder = str(added.run.folder)
    assert main(["evaluate", folder, "--split", "val", "--bootstrap", "0"]) == 0
    result = added.run.read("evaluation_val.json")
    right = result["metrics"]["top1"]["value"] * result["images"]
    old, new = added.images
    assert right == pytest.approx(added.after * old + added.new * new, abs=0.01)
    assert main(["predict", folder, str(place / "new/sky/0.png")]) == 0
    capsys.readouterr()
    resume(folder)
    assert "already finished" in capsys.readouterr().out


@pytest.mark.one_backend
def test_classes_are_removed_and_merged(place, added):
    less = remove_classes(added.run, ["sky"], place / "less", refit=False)
    assert less.run.class_names == sorted(NAMES)
    old = Run.open(place / "run").model()
    for i, name in enumerate(less.run.class_names):
        np.testing.assert_array_equal(
            less.run.model().classifier.get_weights()[0][:, i],
            added.run.model().classifier.get_weights()[0][
                :, added.run.class_names.index(name)
            ],
        )
    assert old.num_classes == 3
    one = merge_classes(added.run, ["apple", NAMES[1]], "fruit", place / "one")
    assert one.run.class_names == sorted(["fruit", NAMES[2], "sky"])
    labels = one.run.data().splits["train"].labels
    assert np.bincount(labels)[one.run.class_names.index("fruit")] == 8


@pytest.mark.slow
@pytest.mark.one_backend
def test_names_are_those_that_the_new_runs_table_gives_back(place, tmp_path):
    """Quotes and blanks: a table keeps some and drops some, and orders what is left."""
    names = ["'Gala'", "Malus 'Gala'", "zebra"]
    with (place / "photos.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = {}
    for row in rows:
        part = images.setdefault(row["split"], ([], []))
        part[0].append(str(place / row["path"]))
        part[1].append(names[NAMES.index(row["label"])])
    for split, (paths, labels) in images.items():  # folders keep any name
        for path, label in zip(paths, labels, strict=True):
            to = tmp_path / "own" / split / label / Path(path).name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    run = make_run(tmp_path / "run", tmp_path / "own", names)
    with_known_settings(run)
    photo = str(place / "new/sky/0.png")
    added = add_classes(run, {" 'sky": [photo] * 3}, tmp_path / "more", refit=False)
    new = added.run
    assert new.class_names == ["Gala", "Malus 'Gala'", "sky", "zebra"]
    assert list(new.data().class_names) == new.model().class_names == new.class_names
    kernels = [
        Run.open(r).model().classifier.get_weights()[0] for r in (run, new.folder)
    ]
    np.testing.assert_array_equal(kernels[1][:, [0, 1, 3]], kernels[0])
    test = new.data().splits["test"]
    for i, label in enumerate(test.labels):
        folder = Path(test.reference(i)).parent.name
        assert new.class_names[label] == {"'Gala'": "Gala"}.get(folder, folder)


@pytest.mark.one_backend
def test_merged_photos_are_judged_before_and_after(place, tmp_path):
    """Into a name of theirs: the same six photos are counted on both sides."""
    run = Run.open(place / "run")
    one = merge_classes(run, NAMES[:2], NAMES[0], tmp_path / "one", refit=False)
    assert one.images == (6, 0)
    held_out = run.data().splits["val"]
    answers = load_classifier(run.folder).predict(
        [held_out.reference(i) for i in range(6)]
    )
    merged = {NAMES[1]: NAMES[0]}
    said = [merged.get(a[0][0], a[0][0]) for a in answers]
    true = [run.class_names[label] for label in held_out.labels]
    right = [s == merged.get(t, t) for s, t in zip(said, true, strict=True)]
    assert one.before == pytest.approx(np.mean(right))
    other = merge_classes(run, NAMES[:2], "fruit", tmp_path / "other", refit=False)
    assert (other.before, other.after, other.new) == (one.before, one.after, None)


@pytest.mark.one_backend
def test_data_that_moved_is_named(place, tmp_path, capsys):
    run = shutil.copytree(place / "run", tmp_path / "run")
    description = json.loads((run / "run.json").read_text("utf-8"))
    where = description["data"]["load"]["name"]
    description["data"]["load"]["name"] = str(tmp_path / "gone.csv")
    (run / "run.json").write_text(json.dumps(description), "utf-8")
    for name, more in (
        ("remove", [NAMES[0]]),
        ("merge", [*NAMES[:2], "--into", "fruit"]),
    ):
        command = [name, str(run), "--out", str(tmp_path / name), "--class", *more]
        assert main(command) == 2
        assert "--data" in capsys.readouterr().err
        assert main([*command, "--data", where]) == 0


@pytest.mark.one_backend
def test_mistakes_are_one_sentence_and_leave_nothing(place, tmp_path, capsys):
    run, photo = str(place / "run"), str(place / "new/sky/0.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    out = tmp_path / "out"
    for arguments, said in (
        (["add", run, "--class", "apple", photo], "already has a class 'apple'"),
        (["add", run, "--class", "x", photo, str(broken)], "broken.png"),
        (["add", run, "--class", "x"], "needs all of its photos"),
        (["add", run], "Give the new photos"),
        (["remove", run, "--class", "appel"], "did you mean 'apple'?"),
        (["remove", run, "--class", *NAMES[:2]], "at least 2"),
        (["remove", run, "--class", *NAMES], "at least 2"),
        (["merge", run, "--class", "apple", "--into", "x"], "Only one class to merge"),
        (["merge", run, "--class", *NAMES[:2], "--into", NAMES[2]], "already"),
    ):
        assert main([*arguments, "--out", str(out)]) == 2, arguments
        told = capsys.readouterr().err
        assert said in told, told
        assert len(told.splitlines()) == 1
        assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.png"]
    with pytest.raises(APINetError, match="not empty"):
        add_classes(run, {"x": [photo]}, tmp_path)


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_class_that_was_all_of_the_validation_takes_it_along(place, tmp_path):
    """No photo that was learned takes the place of those that are gone."""
    with (place / "photos.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            (str(place / r["path"]), r["label"], r["split"])
            for r in csv.DictReader(file)
            if r["split"] != "val" or r["label"] == "apple"
        ]
    with (tmp_path / "own.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    run = make_run(tmp_path / "run", tmp_path / "own.csv", sorted(NAMES))
    with_known_settings(run)
    less = remove_classes(run, ["apple"], tmp_path / "less", refit=False)
    assert sorted(less.run.data().splits) == ["test", "train"]
    assert less.after is None


@pytest.mark.one_backend
def test_what_came_into_the_place_meanwhile_stays(place, tmp_path, monkeypatch):
    out, save = tmp_path / "out", classes.save_atomically

    def saved(*args):
        out.mkdir(exist_ok=True)
        (out / "precious.txt").write_text("mine")
        save(*args)

    monkeypatch.setattr(classes, "save_atomically", saved)
    with pytest.raises(APINetError, match=r"not empty.*'precious.txt'"):
        remove_classes(place / "run", ["apple"], out, refit=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "precious.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.one_backend
def test_names_that_nobody_sees_and_photos_that_are_there(place, tmp_path, capsys):
    run = Run.open(place / "run")
    one = merge_classes(run, NAMES[:2], "fr\u200buit", tmp_path / "one", refit=False)
    assert "fr\\u200buit" in one.run.class_names
    with pytest.raises(APINetError, match="only quotes and spaces"):
        merge_classes(run, NAMES[:2], "\"'", tmp_path / "two")
    known = run.data().splits["train"].reference(0)
    (tmp_path / "link.png").symlink_to(known)
    with pytest.raises(APINetError, match=r"link.png' is already in the run .*, as"):
        add_classes(run, {"new": [str(tmp_path / "link.png")]}, tmp_path / "three")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.png", "one"]


@pytest.mark.one_backend
def test_a_name_with_a_carriage_return_is_kept_in_a_copy(place, tmp_path):
    photo = shutil.copy(place / "new/sky/0.png", tmp_path / "a\rb.png")
    added = add_classes(
        place / "run", {"sky": [photo] * 3}, tmp_path / "more", refit=False
    )
    images = added.run.data()
    label = images.class_names.index("sky")
    assert sum((s.labels == label).sum() for s in images.splits.values()) == 3


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_run_that_keeps_no_features_is_added_to(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "run")
    (run / "features.npz").unlink(missing_ok=True)
    (run / "features.npz").mkdir()  # nothing can be written there
    added = add_classes(
        run, {"sky": [str(place / "new/sky/0.png")] * 3}, tmp_path / "more", refit=False
    )
    assert "sky" in added.run.class_names


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_class_that_came_beside_the_others_is_added(tmp_path):
    """Its photos are in the run's folder of data, and not in the run."""
    pixels = [np.full((40, 40, 3), 60 * c) for c in range(3)]
    class_folders(tmp_path / "set", "ab", 4, lambda c, i: pixels[c] + i)
    folder = make_run(tmp_path / "run", tmp_path / "set", "ab")
    with_known_settings(folder)
    class_folders(tmp_path / "set", "c", 4, lambda c, i: pixels[2] + i)
    new = [str(path) for path in (tmp_path / "set" / "c").iterdir()]
    added = add_classes(folder, {"c": new}, tmp_path / "more", refit=False)
    assert added.run.class_names == ["a", "b", "c"]
