import base64
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from browser import Browser, chromium
from evaluate_runs import COLOURS, NAMES, make_run, photos
from huggingface_hub import ModelCard
from PIL import Image

from keras_apinet import APINetError, data
from keras_apinet.cli import main
from keras_apinet.cli.card import push_card
from keras_apinet.cli.predict import write_maps
from keras_apinet.evaluate import evaluate_run, plots
from keras_apinet.evaluate.comparison import compare, page, save
from keras_apinet.evaluate.contrast_maps import data_uri, with_heat, with_signs
from keras_apinet.evaluate.pages import (
    as_text,
    license_tag,
    need,
    public,
    write_card,
)
from keras_apinet.evaluate.plots import projection, read_log, spread, square
from keras_apinet.evaluate.predictions import predict_split
from keras_apinet.evaluate.report import write_report
from keras_apinet.open_world.features import run_features
from keras_apinet.runs import Run

pytestmark = pytest.mark.one_backend
needs_chromium = pytest.mark.skipif(chromium() is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, table):
    names = data.load(table).class_names
    return make_run(tmp_path_factory.mktemp("runs") / "<run> & co", table, names)


@pytest.fixture(scope="module")
def report(run):
    return write_report(run, bootstrap=20)


@pytest.fixture(scope="module")
def comparison(run, table):
    test = data.load(table).splits["test"]
    return compare(run, test.reference(0), test.reference(8))


def check_page(file):
    """What holds for every page: seen by a browser, and by a person's aids."""
    with Browser() as browser:
        browser.resize(390, 844, mobile=True, dark=True)
        browser.open(file.as_uri())
        browser.until("document.readyState === 'complete'")
        assert browser.errors() == []
        fetched = {url.split(":")[0] for url in browser.requests()}
        assert fetched <= {"file", "data"}
        assert [u for u in browser.requests() if u.startswith("file")] == [
            file.as_uri()
        ]
        assert browser.run("document.querySelectorAll('script').length") == 0
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        # Nothing sticks out of a phone's screen, and every picture has its words.
        assert browser.run("document.documentElement.scrollWidth") <= 390
        images = browser.run(
            "[...document.images].map(i => [i.alt.trim().length > 0, i.naturalWidth])"
        )
        assert len(images) > 5
        assert all(named for named, _ in images)
        assert browser.run(
            "[...document.querySelectorAll('[role=img]')]"
            ".every(e => e.getAttribute('aria-label'))"
        )
        levels = browser.run(
            "[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        ids = browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        links = browser.run(
            "[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"
        )
        assert all(link[1:] in ids for link in links if link.startswith("#"))
        # Labels are words, not markup.
        assert browser.run("document.querySelectorAll('main b, main i').length") == 0
        return browser.run("document.body.innerText")


@pytest.mark.slow
@needs_chromium
def test_the_report_in_a_browser(report):
    text = check_page(report)
    assert "<b>pear</b> & $co$" in text
    assert "<run> & co" in text
    assert "Calibration" in text
    assert report.stat().st_size < 10e6


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_barrier(axe, report, comparison, tmp_path, width, dark):
    with Browser() as browser:
        browser.resize(width, 844, mobile=width == 390, dark=dark)
        for page in (report, save(comparison, tmp_path / "pair.html")):
            browser.open(page.as_uri())
            browser.until("document.readyState === 'complete' && document.images[0]")
            browser.run(
                "document.querySelectorAll('details').forEach(d => d.open = true)"
            )
            assert browser.barriers(axe) == []


@needs_chromium
def test_the_comparison_in_a_browser(comparison, tmp_path):
    text = check_page(save(comparison, tmp_path / "a & b.html"))
    assert "What distinguishes" in text


def test_the_report_leaves_the_evaluation_in_the_run(report, run):
    result = json.loads((run / "evaluation_test.json").read_text("utf-8"))
    html = report.read_text("utf-8")
    assert f"{result['metrics']['top1']['value']:.1%}" in html
    assert html.count("<article") >= result["errors"]


def test_report_without_errors_or_log_or_validation(run, table, tmp_path):
    """One image of one class, rightly classified, and a run that has only warmed up."""
    from dataclasses import replace

    import keras_apinet

    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "log.csv").write_text("")
    (copy / "calibration.json").unlink(missing_ok=True)
    images = data.load(table)
    test = images.splits["test"]
    model = keras_apinet.load(copy)
    model.classifier.set_weights(
        [np.zeros_like(model.classifier.get_weights()[0]), np.array([9.0, 0, 0])]
    )
    model.save(copy / "best.keras")
    first = test.take(np.flatnonzero(test.labels == 0)[:1])
    small = replace(images, splits={"train": images.splits["train"], "test": first})
    html = write_report(copy, data=small, bootstrap=10).read_text("utf-8")
    assert "No image was misclassified" in html
    assert "no temperature was fitted" in html
    assert 'id="training"' not in html


@pytest.mark.parametrize("ending", [".png", ".jpg", ".svg", ".pdf"])
def test_a_comparison_as_a_picture(comparison, tmp_path, ending):
    path = save(comparison, tmp_path / f"out{ending}")
    content = path.read_bytes()
    if ending in (".png", ".jpg"):
        with Image.open(path) as picture:
            width, height = picture.size
        assert width > height > 500
    else:
        assert content[:4] == (b"%PDF" if ending == ".pdf" else b"<?xm")


def test_a_comparison_names_what_it_compares(comparison, run, table):
    assert len(set(comparison.class_names)) == 2
    assert set(comparison.class_names) <= set(NAMES)
    channels = [c for _, row in comparison.channel_rows for c in row]
    assert set(channels) == set(comparison.patches)
    assert all(len(patches) == 3 for patches in comparison.patches.values())
    # Photos of a class have its colour: patches are of the two classes only.
    third = COLOURS[NAMES.index(*set(NAMES) - set(comparison.class_names))]
    for patch in (p for patches in comparison.patches.values() for p in patches):
        assert np.abs(patch.mean(axis=(0, 1)) - third).max() > 40
    assert "<b>" not in page(comparison)
    test = data.load(table).splits["test"]
    chosen = compare(
        run,
        test.reference(0),
        test.reference(1),
        classes=(NAMES[0], NAMES[2]),
        patches=False,
    )
    assert chosen.class_names == (NAMES[0], NAMES[2])
    assert chosen.patches == {}
    with pytest.raises(APINetError, match="no class 'kiwi'"):
        compare(run, test.reference(0), test.reference(1), classes=("kiwi", "apple"))
    with pytest.raises(APINetError, match="are the same class"):
        compare(run, test.reference(0), test.reference(1), classes=("apple", "apple"))


def test_predict_writes_a_map_of_each_photo(run, table, tmp_path, capsys):
    test = data.load(table).splits["test"]
    other = tmp_path / "elsewhere" / Path(test.reference(0)).name
    other.parent.mkdir()
    shutil.copy(test.reference(0), other)
    photos = [test.reference(0), str(other)]
    assert main(["predict", str(run), *photos, "--map", str(tmp_path / "maps")]) == 0
    assert "%" in capsys.readouterr().out
    stem = other.stem
    written = sorted(tmp_path.glob("maps/*"))
    assert [p.name for p in written] == [f"{stem} 2.map.png", f"{stem}.map.png"]
    with Image.open(written[0]) as picture:
        assert picture.size == (64, 32)
        left = np.asarray(picture)[:, :32]
    np.testing.assert_array_equal(left, data.prepare(data.read_photo(other), 32))
    assert main(["predict", "m.tflite", photos[0], "--map", "x"]) == 2


def test_maps_need_a_model_with_places(tmp_path):
    with pytest.raises(APINetError, match=r"'m\.tflite' has no feature maps"):
        write_maps("m.tflite", [], tmp_path)


def test_a_comparison_needs_a_known_ending(comparison, tmp_path):
    with pytest.raises(APINetError, match=r"must end in \.html"):
        save(comparison, tmp_path / "out.docx")


def test_a_missing_package_says_how_to_get_it():
    with pytest.raises(APINetError, match=r"'no_such_package'.*keras-apinet\[report\]"):
        need("no_such_package")


def test_the_card(run, report):
    card = write_card(run, license_name="MIT").read_text("utf-8")
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    known = yaml.safe_load(front)
    parsed = ModelCard(card).data
    (figure,) = parsed.eval_results
    assert (parsed.license, parsed.model_name) == ("mit", "<run> & co")
    assert (figure.metric_type, figure.dataset_split) == ("accuracy", "test")
    assert known["license"] == "mit"
    assert known["pipeline_tag"] == "image-classification"
    (entry,) = known["model-index"]
    assert entry["name"] == "<run> & co"
    assert entry["results"][0]["dataset"]["split"] == "test"
    result = json.loads((run / "evaluation_test.json").read_text("utf-8"))
    top1 = result["metrics"]["top1"]
    (metric,) = entry["results"][0]["metrics"]
    assert metric["value"] == pytest.approx(top1["value"], abs=1e-4)
    row = f"| Top-1 accuracy | {top1['value']:.1%} | {top1['low']:.1%} to"
    assert row in body
    assert "&lt;b&gt;pear&lt;/b&gt; &amp; \\$co\\$" in body
    assert "<b>" not in body
    for heading in ("Figures", "Data", "Recipe", "Limits", "License", "Method"):
        assert f"\n## {heading}\n" in body
    assert "None was stated" in write_card(run).read_text("utf-8")


def test_a_card_of_other_photos_says_so(run, report, tmp_path):
    """What was judged is not what it learned from; nothing in it becomes HTML."""
    copy = Run.open(shutil.copytree(run, tmp_path / "run"))
    copy.description["data"]["fingerprint"] = "<script>1</script>"
    (copy.folder / "run.json").write_text(json.dumps(copy.description), "utf-8")
    result = copy.read("evaluation_test.json")
    result |= {"data": "/elsewhere/others", "given": True, "model": "last"}
    result["calibrated"] |= {"reason": "<img src=x>"}
    copy.write("evaluation_test.json", result)
    card = write_card(copy).read_text("utf-8")
    assert "Of the last model, on 9 images of the test split of others" in card
    assert "Trained on photos" in card
    for tag in ("<script>", "<img"):
        assert tag not in card


@pytest.mark.slow
def test_a_report_takes_the_features_that_the_run_has(run, tmp_path, monkeypatch):
    """Those of the evaluation and of the training, until a photo is replaced."""
    made = Run.open(shutil.copytree(run, tmp_path / "run"))
    passes = []

    def counted(model, split, **options):
        passes.append(len(split))
        return predict_split(model, split, **options)

    for place in ("evaluation", "report"):
        monkeypatch.setattr(f"keras_apinet.evaluate.{place}.predict_split", counted)
    told = evaluate_run(made, bootstrap=0)
    run_features(made, made.model(), splits=("train",))
    assert passes == [9]
    write_report(made, bootstrap=0)
    assert passes == [9]
    again = made.read("evaluation_test.json")
    for name, figure in told["metrics"].items():
        assert again["metrics"][name]["value"] == pytest.approx(figure["value"])
    os.utime(made.data().splits["test"].reference(0), (0, 0))
    write_report(made, bootstrap=0)
    assert passes == [9, 9, 12]


def test_pages_of_a_temperature_written_by_hand(run, report, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "calibration.json").write_text('{"temperature": 0.5}')
    html = write_report(copy, bootstrap=5).read_text("utf-8")
    assert "At its temperature, 0.50, it has" in html
    titles = re.findall(r'alt="([^"]*): accuracy against confidence"', html)
    assert titles == ["Before calibration", "After calibration"]
    plain = report.read_text("utf-8")  # its few photos tell no temperature
    titles = re.findall(r'alt="([^"]*): accuracy against confidence"', plain)
    assert titles == ["Accuracy by confidence"]
    assert "At its temperature, 0.50, it has" in write_card(copy).read_text("utf-8")
    file = copy / "evaluation_test.json"
    result = json.loads(file.read_text("utf-8"))
    del result["warnings"]
    file.write_text(json.dumps(result), "utf-8")
    with pytest.raises(APINetError, match="evaluated by an earlier version"):
        write_card(copy)


class Hub:
    """The hub as `push_card` meets it: what is sent to it, nothing of a network."""

    def __init__(self, refuses=None):
        self.refuses, self.made, self.files = refuses, [], {}

    def create_repo(self, name, exist_ok):
        if self.refuses:
            raise self.refuses
        self.made.append((name, exist_ok))
        return f"https://hub/{name}"

    def create_commit(self, name, operations, commit_message):
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


def test_a_card_is_pushed_with_the_model(run, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    card = tmp_path / "card.md"
    card.write_text("# Birds")
    model = run / "best.keras"
    assert push_card(card, model, "me/birds") == "https://hub/me/birds"
    assert hub.made == [("me/birds", True)]
    # Not run.json, which says where the photos lie on this machine.
    assert hub.files == {"README.md": b"# Birds", "best.keras": model.read_bytes()}


def test_the_model_that_is_pushed_is_the_one_that_was_judged(
    run, tmp_path, monkeypatch
):
    hub, other = Hub(), shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    evaluate_run(other, split="val", which="last", bootstrap=0)
    command = ["card", str(other), "--split", "val", "--push", "me/birds"]
    assert main(command) == 0
    assert [*hub.files] == ["README.md", "last.keras"]
    assert b"last model" in hub.files["README.md"]


def test_a_hub_that_refuses_is_one_sentence(run, tmp_path, monkeypatch):
    hub = Hub(refuses=ConnectionError("401 Client Error: no token\nmore"))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    (tmp_path / "card.md").write_text("# Birds")
    with pytest.raises(APINetError, match=r"to 'me/birds' failed \(401 Cli"):
        push_card(tmp_path / "card.md", run / "best.keras", "me/birds")


def test_what_a_card_tells_strangers():
    assert [license_tag(x) for x in ("Apache-2.0", "Our: own", None)] == [
        "apache-2.0",
        "other",
        None,
    ]
    assert public("/home/me/birds") == "birds"
    assert [public(x) for x in ("imagenet", "a/b", 3)] == ["imagenet", "a/b", 3]


@pytest.mark.parametrize(
    "name", ['a: "b" #c', "'", "- x", "\u00e9\u2028", "{y}", "a\u202eb"]
)
def test_front_matter_holds_any_name(run, report, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / name)
    card = write_card(copy, license_name=name).read_text("utf-8")
    front = card.split("\n---\n")[0]
    assert front.isascii()
    known = yaml.safe_load(front)
    assert (known["license"], known["license_name"]) == ("other", name)
    assert known["model-index"][0]["name"] == name


def test_the_card_needs_an_evaluation(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for file in copy.glob("evaluation_*.json"):
        file.unlink()
    with pytest.raises(APINetError, match="not been evaluated on test or val"):
        write_card(copy)
    evaluate_run(copy, "val", bootstrap=0)
    assert "val split" in write_card(copy).read_text("utf-8")


def test_text_in_markdown_is_only_text():
    assert as_text("a|b *c* <d>\n[e](f)") == r"a\|b \*c\* &lt;d&gt; \[e\](f)"


def test_a_log_is_read_by_column(tmp_path):
    log = tmp_path / "log.csv"
    assert read_log(tmp_path) == ({}, 0)
    log.write_text("epoch,loss\n")
    assert read_log(tmp_path) == ({}, 0)
    log.write_text("epoch,loss\n0,2.5\n1,\n")
    columns, head = read_log(tmp_path)
    assert (columns["epoch"], head) == ([0, 1], 0)
    assert np.isnan(columns["loss"][1])
    log.write_text("epoch,loss\n0,what\n")
    with pytest.raises(APINetError, match=r"log\.csv"):
        read_log(tmp_path)


def test_the_log_of_the_head_phase_comes_first(tmp_path):
    (tmp_path / "log_head.csv").write_text("epoch,loss\n1,3\n2,2.5\n")
    assert read_log(tmp_path) == ({"epoch": [1, 2], "loss": [3, 2.5]}, 2)
    (tmp_path / "log.csv").write_text("epoch,loss,val_loss\n1,2,1.5\n")
    columns, head = read_log(tmp_path)
    assert (columns["loss"], head) == ([3, 2.5, 2], 2)
    np.testing.assert_array_equal(columns["val_loss"], [np.nan, np.nan, 1.5])


def test_the_projection_keeps_the_two_widest_directions(rng):
    """Points on a plane in five dimensions keep their distances."""
    plane = rng.normal(size=(30, 2)) * (3, 1)
    axes, _ = np.linalg.qr(rng.normal(size=(5, 2)))
    flat = projection((plane @ axes.T).astype("float32"))
    gaps = np.linalg.norm(plane[:, None] - plane, axis=-1)
    found = np.linalg.norm(flat[:, None] - flat, axis=-1)
    np.testing.assert_allclose(found, gaps, atol=1e-4)
    assert projection(np.ones((1, 5), "float32")).tolist() == [[0, 0]]


def test_thumbnails_are_spread_over_the_map(rng):
    places = rng.normal(size=(500, 2))
    chosen = spread(places, 5)
    assert len(chosen) == len(set(chosen)) <= 25
    assert spread(np.zeros((4, 2))) == [0]


def test_a_map_keeps_its_photos_inside(rng):
    features = rng.normal(size=(50, 4)).astype("float32")
    places, apart = plots.map_places(features, np.arange(10, 50))
    assert places.shape == (40, 2)
    assert (places >= 60).all()
    assert (places <= (580, 420)).all()
    assert apart <= set(range(10, 50))
    same, _ = plots.map_places(np.ones((2, 4), "float32"), np.arange(2))
    assert same.tolist() == [[60, 60]] * 2


def svg_of(address):
    """The drawing in a `data:` address."""
    kind, content = address.split(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(content).decode()


def test_confusions_bear_numbers_where_they_can_be_read(rng):
    names = [f"<{i}> $x$" for i in range(150)]
    few = plots.confusion(np.array([[7, 0], [3, 12]]), names, np.array([1, 0]))
    svg = svg_of(few)
    assert re.findall(r">(\d+)</text>", svg) == ["12", "3", "7"]
    assert "&lt;1&gt; $x$" in svg
    matrix = rng.integers(0, 3, (150, 150))
    many = svg_of(plots.confusion(matrix, names, np.arange(150)))
    assert re.findall(r">([^<]*)</text>", many) == ["predicted", "true"]


def test_the_best_epoch_is_marked():
    log = {"loss": [2.0, 1.0, 1.5], "val_accuracy": [0.2, 0.6, 0.5]}
    titles, pictures = zip(*plots.curves(log, 2), strict=True)
    loss, accuracy = map(svg_of, pictures)
    assert titles == ("loss over the epochs", "accuracy over the epochs")
    assert "best epoch: 2" in loss
    assert "best epoch: 2" in accuracy
    assert "validation" not in loss
    assert "best epoch" not in svg_of(plots.curves(log)[0][1])
    assert "head phase" not in accuracy


def test_the_head_phase_is_marked_before_the_epochs():
    log = {"loss": [2.0, 1.0, 1.5], "val_accuracy": [np.nan, 0.6, 0.5]}
    accuracy = svg_of(plots.curves(log, 0, head=2)[1][1])
    assert "head phase" in accuracy
    assert "best: the head phase" in accuracy
    # Two epochs of the head end at 0, and one of all layers follows.
    assert re.findall(r">(\W?\d)</text>", accuracy) == ["\N{MINUS SIGN}1", "0", "1"]


def test_the_ranking_part_is_drawn_beside_the_loss_of_pairs():
    log = {"loss": [2.0, 1.0], "ranking_loss": [0.2, 0.1], "val_loss": [2.0, 1.5]}
    loss = svg_of(plots.curves(log | {"accuracy": [0.5, 0.6]})[0][1])
    legend = ["training (pairs)", "ranking part", "validation"]
    assert re.findall(r">(training[^<]*|[rv][^<]*)</text>", loss) == legend


def test_heat_marks_its_peak():
    image = np.full((64, 64, 3), 100, "uint8")
    where = np.zeros((64, 64))
    where[40, 20] = 1
    marked = with_heat(image, where)
    assert marked[40, 20].tolist() != [100, 100, 100]
    assert (marked == 255).all(axis=-1).any()
    assert (with_heat(image, np.zeros((64, 64))) == 100).all()


def test_signs_have_two_colours():
    image = np.full((4, 4, 3), 100, "uint8")
    signed = np.zeros((4, 4))
    signed[0, 0], signed[3, 3] = 1, -1
    shown = with_signs(image, signed).astype(int)
    assert shown[0, 0, 0] > shown[0, 0, 2]
    assert shown[3, 3, 2] > shown[3, 3, 0]
    assert shown[1, 1].tolist() == [100, 100, 100]


def test_pictures_travel_inside_the_page():
    assert data_uri(np.zeros((9, 9, 3), "uint8")).startswith("data:image/jpeg;base64,")
    tall = square(np.zeros((40, 20, 3), "uint8"), 16)
    assert tall.shape == (16, 16, 3)
    assert tall[8, 0].tolist() == [128, 128, 128]


@pytest.mark.slow
def test_a_sure_model_is_never_shown_as_certain(run, table, tmp_path, capsys):
    import keras_apinet

    copy = shutil.copytree(run, tmp_path / "run")
    model = keras_apinet.load(copy)
    model.classifier.set_weights([1e4 * w for w in model.classifier.get_weights()])
    model.save(copy / "best.keras")
    test = data.load(table).splits["test"]
    first, last = test.reference(0), test.reference(8)
    assert main(["predict", str(copy), first]) == 0
    shown = capsys.readouterr().out
    assert ">99.9%" in shown
    assert "<0.1%" in shown
    assert "100.0%" not in shown
    assert main(["predict", str(copy), first, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["top"][0]["probability"] == 1.0  # machines are told what it was
    compared = compare(copy, first, last, patches=False)
    assert "&gt;99.9%" in page(compared)
    assert ">100.0%<" not in page(compared)
    html = write_report(copy, bootstrap=5).read_text("utf-8")
    errors = html[html.index('id="errors"') : html.index('id="classes"')]
    assert "&gt;99.9%" in errors
    assert ">100.0%<" not in errors
    assert " 100.0%" not in errors
