"""The page in headless Chromium: drop a photo, read the five rows."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from browser import ROWS, Server
from factories import clear_classifier
from PIL import Image

from keras_apinet.data.birds import SPECIES, draw
from keras_apinet.errors import APINetError
from keras_apinet.export import Exporter, load_classifier
from keras_apinet.export.formats import Target

pytestmark = pytest.mark.one_backend
READY = "document.querySelector('#status')?.textContent === 'Ready.'"
FIVE = "document.querySelectorAll('#results li').length === 5"


@pytest.fixture(scope="module")
def pages(tmp_path_factory, web_runtime):
    """A page in float32 and one in int8, of a classifier of drawn birds."""
    folder = tmp_path_factory.mktemp("pages")
    labels = np.arange(48) % 8
    birds = [draw(int(k), 100 + i).pixels for i, k in enumerate(labels)]
    images = np.stack([np.asarray(Image.fromarray(b).resize((64, 64))) for b in birds])
    names = [species.name for species in SPECIES[:8]]
    keras.utils.set_random_seed(0)  # the seed of each test comes after this
    model = clear_classifier(images, labels, names, weights=None)
    exporter = Exporter(model, photos=images, license="CC0-1.0", verify=False)
    exporter.write([Target.of(folder / "float32", "web", runtime=web_runtime)])
    # The second takes its runtime from the first, as without a network.
    exporter.write([Target.of(folder / "int8", "web", "int8", folder / "float32")])
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "bird.jpg"
    pixels = draw(2, 77).pixels
    Image.fromarray(pixels).resize((230, 180)).save(path, quality=90)
    return path


@pytest.mark.slow
def test_the_page_holds_all_it_needs(pages):
    files = {
        p.relative_to(pages / "float32").as_posix()
        for p in pages.rglob("*")
        if p.is_relative_to(pages / "float32") and p.is_file()
    }
    assert {"index.html", "model.tflite", "labels.txt", "classifier.json"} <= files
    assert "runtime/wasm/litert_wasm_internal.wasm" in files
    for name in ("index.html", "page.js", "preparation.js", "offline.js", "style.css"):
        text = (pages / "float32" / name).read_text()
        assert "http:" not in text.replace("http-equiv", "")
        assert "https:" not in text
        assert "@FILES@" not in text


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_five_rows_as_in_python(precision, pages, browser, photo):
    page = pages / precision
    expected = load_classifier(page / "model.tflite").predict(photo)[0]
    with Server(page) as server:
        browser.resize(1280, 800)
        browser.open(server.address)
        browser.until(READY)
        browser.drop(photo, "#drop")
        browser.until(FIVE)
        rows = browser.run(ROWS)
        assert [name for name, _ in rows] == [name for name, _ in expected]
        # JPEG decoders may differ by one level; int8 answers in steps of 1/256.
        limit = 2e-3 if precision == "float32" else 0.02
        for (_, given), (_, wanted) in zip(rows, expected):
            assert given == pytest.approx(wanted, abs=limit)
        assert "ms" in browser.run("document.querySelector('#status').textContent")
        shots = os.environ.get("KERAS_APINET_SCREENSHOTS")
        if shots and precision == "float32":
            browser.screenshot(Path(shots) / "page-desktop.png")
            browser.resize(390, 844, mobile=True, dark=True)
            browser.screenshot(Path(shots) / "page-phone.png")
        assert browser.errors() == []
        fetched = [a for a in browser.requests() if not a.startswith("blob:")]
        assert all(a.startswith((server.address, "data:")) for a in fetched)


def test_it_fits_a_phone_in_light_and_dark(pages, browser, photo):
    """From a folder of the server: whatever the page fetches is beside it."""
    with Server(pages) as server:
        grounds = set()
        for dark in (False, True):
            browser.resize(360, 740, mobile=True, dark=dark)
            browser.open(f"{server.address}float32/")
            browser.until(READY)
            browser.drop(photo, "#drop")
            browser.until(FIVE)
            wide = "document.documentElement.scrollWidth <= window.innerWidth"
            assert browser.run(wide)
            # The whole answer is seen without scrolling.
            lowest = "document.querySelector('#results').getBoundingClientRect().bottom"
            assert browser.run(f"{lowest} <= window.innerHeight")
            grounds.add(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2


def test_several_photos_are_listed_and_looked_at_again(pages, browser, tmp_path):
    paths = []
    for i, species in enumerate((2, 5, 7)):
        paths.append(tmp_path / f"bird{i}.png")
        Image.fromarray(draw(species, 90 + i).pixels).save(paths[-1])
    classify = load_classifier(pages / "float32" / "model.tflite")
    with Server(pages / "float32") as server:
        browser.open(server.address)
        browser.until(READY)
        browser.drop(paths, "#drop")
        browser.until("document.querySelectorAll('#photos li').length === 3 && " + FIVE)
        buttons = "[...document.querySelectorAll('#photos button')]"
        listed = browser.run(f"{buttons}.map((b) => b.textContent)")
        # The newest is the first of the list.
        for path, text in zip(paths, reversed(listed)):
            best = classify.predict(path)[0][0][0]
            assert text.startswith(f"{path.name}: {best}, ")
            browser.run(f"{buttons}.find((b) => b.textContent === {text!r}).click()")
            assert browser.run(ROWS)[0][0] == best
            pressed = f"{buttons}.filter((b) => b.ariaPressed === 'true').length"
            assert browser.run(pressed) == 1


def test_a_page_opened_as_a_file_says_how_to_serve_it(pages, browser):
    browser.open((pages / "float32" / "index.html").as_uri())
    browser.until(
        "document.querySelector('#status')?.textContent.includes('a web server')"
    )
    said = browser.run("document.querySelector('#status').textContent")
    assert "python -m http.server -d" in said


def test_axe_finds_no_barrier(axe, pages, browser, photo):
    with Server(pages / "float32") as server:
        for dark in (False, True):
            browser.resize(390, 844, mobile=True, dark=dark)
            browser.open(server.address)
            browser.until(READY)
            browser.drop([photo, photo], "#drop")
            browser.until("document.querySelectorAll('#photos li').length === 2")
            assert browser.barriers(axe) == []


def test_later_visits_need_no_network_and_have_threads(pages, browser, photo):
    expected = load_classifier(pages / "float32" / "model.tflite").predict(photo)[0]
    kept = (
        "caches.keys().then((names) => caches.open(names[0]))"
        ".then((cache) => cache.keys())"
        ".then((keys) => (window.kept = keys.map((key) => key.url)))"
    )

    def visit(isolated, threads):
        browser.open(server.address)
        browser.until(READY)
        assert browser.run("crossOriginIsolated") == isolated
        browser.drop(photo, "#drop")
        browser.until(FIVE)
        rows = browser.run(ROWS)
        assert [name for name, _ in rows] == [name for name, _ in expected]
        variant = "_threaded" if threads else ""
        wasm = f"litert_wasm{variant}_internal.wasm"
        taken = "performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert any(name.endswith(wasm) for name in browser.run(taken))
        browser.run("window.kept = []")
        browser.until(f"({kept}, window.kept.some((url) => url.endsWith({wasm!r})))")
        assert not any("_compat" in url for url in browser.run(kept))

    with Server(pages / "float32") as server:
        visit(isolated=False, threads=False)
    visit(isolated=True, threads=False)
    with Server(pages / "float32", server.port) as server:
        visit(isolated=True, threads=True)
        browser.events.clear()  # the visit without a network asked for the threads
    visit(isolated=True, threads=True)
    assert browser.errors() == []


@pytest.mark.slow
def test_two_pages_of_one_site_keep_their_files(pages, browser):
    """Offline stores belong to the site; each page keeps its own."""
    with Server(pages) as server:
        for name in ("float32", "int8", "float32"):
            browser.open(f"{server.address}{name}/")
            browser.until(READY)
            browser.run("navigator.serviceWorker.ready.then(() => true)")
        stores = browser.run("caches.keys()")
        assert len({store.rsplit("-", 1)[0] for store in stores}) == 2


def test_the_camera_is_classified(pages, browser):
    with Server(pages / "float32") as server:
        browser.open(server.address)
        browser.until(READY)
        browser.run("document.querySelector('#camera').click()")
        browser.until(FIVE)
        browser.run("document.querySelector('#camera').click()")
        assert browser.run("document.querySelector('#video').hidden")


def test_what_is_no_photo_is_said(pages, browser, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no photo")
    with Server(pages / "float32") as server:
        browser.open(server.address)
        browser.until(READY)
        browser.drop(path, "#drop")
        browser.until("document.querySelector('#status').textContent.includes('read')")
        assert browser.run("document.querySelectorAll('#results li').length") == 0


def test_everything_has_a_name_for_screen_readers(pages, browser):
    with Server(pages / "float32") as server:
        browser.open(server.address)
        browser.until(READY)
        browser.command("Accessibility.enable")
        tree = browser.command("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "main", "heading", "status"}
    seen = set()
    for node in tree:
        role = node.get("role", {}).get("value")
        if role in ("button", "heading"):
            assert node["name"]["value"], node
        seen.add(role)
    assert roles <= seen


@pytest.mark.slow
def test_a_runtime_folder_without_the_runtime_is_named(pages, tmp_path):
    labels = np.arange(4) % 2
    images = np.zeros((4, 32, 32, 3), "uint8") + labels[:, None, None, None] * 200
    model = clear_classifier(images.astype("uint8"), labels, ["a", "b"], weights=None)
    target = Target.of(tmp_path / "page", "web", runtime=tmp_path)
    with pytest.raises(APINetError, match="has no @litertjs/core"):
        Exporter(model, verify=False).write([target])
    assert list(tmp_path.iterdir()) == []
