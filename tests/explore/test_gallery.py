"""The cards of a folder: pictures, and what is known of each slide."""

import time

import pytest
from made_run import make_run

from tlskit.explore import app
from tlskit.explore.gallery import PICTURE_PX, Gallery, thumbnail
from tlskit.slides import open_slide


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    run_dir = make_run(tmp_path_factory.mktemp("project"), n_slides=2, size_mm=(1.9, 1.5), magnifications=(1,))
    (run_dir / "1x" / "work" / "checkpoint.pt").write_bytes(b"a network")
    return run_dir.parent


def told(gallery: Gallery, names: list[str]) -> dict[str, tuple[dict, int]]:
    """What the gallery sends for these names, as a browser would ask: message and number of pictures."""
    sent = {}
    gallery.send = lambda message, buffers=None: sent.update({message["name"]: (message, len(buffers or []))})
    gallery._on_message(gallery, {"kind": "pictures", "folder": gallery.folder, "names": names}, [])
    known = {item["name"] for item in gallery.items}
    end = time.monotonic() + 20
    while set(names) & known - set(sent):
        assert time.monotonic() < end
        time.sleep(0.02)
    return sent


def test_a_thumbnail_is_the_slide_in_small(outputs):
    pixels, d = thumbnail(outputs / "cohorts" / "made" / "slides" / "S1.tiff")
    assert d == pytest.approx(
        max(open_slide(outputs / "cohorts" / "made" / "slides" / "S1.tiff").size_px0) / PICTURE_PX
    )
    assert max(pixels.shape[:2]) in range(PICTURE_PX - 2, PICTURE_PX + 2) and pixels.dtype == "uint8"
    assert pixels.std() > 10


def test_cards_say_what_is_known_of_a_slide(outputs):
    page = app.page(outputs_dir=outputs).pages["folder"]
    slide = outputs / "cohorts" / "made" / "slides" / "S1.tiff"
    page.chooser.folder.value = str(slide.parent)
    assert [item["name"] for item in page.chooser.gallery.items][:2] == ["S1.tiff", "S2.tiff"]
    assert page._known(slide) == "test slide of made"
    page.take(slide)
    page.desk.view.drawn = [{"rings": [[[10, 10], [300, 10], [300, 300]]], "class": "TLS"}]
    message, pictures = told(page.chooser.gallery, ["S1.tiff"])["S1.tiff"]
    assert message["known"] == "1 outline(s) drawn; test slide of made" and pictures == 1 and not message["bad"]


def test_a_broken_slide_is_told_and_no_file_out_of_the_list_is_read(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"no slide")
    (tmp_path / "secret.txt").write_text("x")
    gallery = Gallery(lambda _: None)
    gallery.show(tmp_path, [{"name": "a.svs", "kind": "slide"}])
    sent = told(gallery, ["a.svs", "secret.txt", "../a.svs"])
    assert set(sent) == {"a.svs"} and sent["a.svs"][0]["bad"] and sent["a.svs"][1] == 0


def test_a_card_is_opened_by_its_number_and_a_wrong_number_is_none(tmp_path):
    opened = []
    gallery = Gallery(opened.append)
    gallery.show(tmp_path, [{"name": "a.svs", "kind": "slide"}])
    for number in (0, 1, -1):
        gallery._on_message(gallery, {"kind": "open", "index": number}, [])
    assert opened == [0]
