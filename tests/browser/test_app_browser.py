"""The page for people who do not code, in a real browser; one page for all that need none of their own."""

import csv
import json
from urllib.parse import urlsplit

import pytest
from looking import VIEW, objects, painted, scores, serious, slider, take_slide, turn_to_folders

from tlskit.evaluation import slide_findings as findings
from tlskit.maps import probmaps
from tlskit.study import archive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_page_asks_nothing_of_any_other_machine(run_page):
    hosts = {urlsplit(address).hostname for address in run_page.requests if address.startswith(("http", "ws"))}
    assert hosts == {"127.0.0.1"}


def test_without_the_token_there_is_no_page(page, app_url):
    page.goto(app_url.split("?")[0])
    assert page.locator(VIEW).count() == 0
    assert "/login" in page.url


def test_nothing_runs_over_the_side_of_a_1280_px_window(run_page):
    page = run_page
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    over = page.eval_on_selector_all(
        "button, input, select, canvas, table, pre",
        "nodes => nodes.filter(n => n.getBoundingClientRect().right > 1280).map(n => n.outerHTML.slice(0, 80))",
    )
    assert over == []


def test_axe_finds_nothing_serious_in_any_view(run_page):
    page = run_page
    assert page.locator("head title").count() == 1 and page.title() == "tlskit"
    assert serious(page) == []
    together = page.get_by_label("all magnifications side by side")
    together.check()
    page.wait_for_function("document.querySelectorAll('.tlskit-view canvas').length > 1")
    assert serious(page) == []
    together.uncheck()
    page.wait_for_function("document.querySelectorAll('.tlskit-view canvas').length === 1")
    turn_to_folders(page)
    page.get_by_role("option", name="S1.tiff").locator("img[src]").wait_for()
    assert serious(page) == []
    take_slide(page, "S1.tiff")
    assert serious(page) == []
    page.get_by_role("button", name="A run of the study").click()
    painted(page, slide="S1")


def test_the_threshold_moves_layer_scores_and_objects_to_what_python_computes(run_page, project):
    page = run_page
    painted(page, cut=128)
    handle = slider(page, "Threshold")
    handle.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    state = painted(page, cut=findings.cut(0.3))
    study = archive.open_archive(project / "outputs" / "made")
    arm = study.arm(state["map"])
    with probmaps.open_map(arm.map_path("S1")) as probmap:
        level = int(state["level"])
        width, height = probmap.level_sizes_px[level]
        values = probmap.read(0, 0, width, height, level=level)
        assert int(state["positive"]) == (values >= findings.cut(0.3)).sum() > 0
        with study.open_slide("S1") as slide:
            expected = findings.Findings(probmap, study.targets("S1"), mpp0=slide.mpp0).counts(0.3)
    for name, value in scores(page, 0.3).items():
        assert value == pytest.approx(findings.scores_at(arm.histograms["S1"], 0.3)[name], abs=5e-4)
    assert objects(page, 0.3) == expected


def test_a_slide_is_segmented_measured_and_downloaded_by_keyboard_alone(run_page, project, tmp_path):
    page = run_page
    page.get_by_role("button", name="A slide from a folder").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Segment", exact=True).wait_for()
    page.get_by_role("option", name="S1.tiff").locator("img[src]").wait_for()
    page.get_by_role("listbox", name="Slides and folders").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    painted(page, slide="S1.tiff")
    page.get_by_role("button", name="Segment", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_text("Done: S1.tiff. Move the threshold").wait_for(timeout=400_000)
    painted(page, map="1x")
    handle = slider(page, "Threshold")
    handle.focus()
    page.keyboard.press("Home")
    painted(page, cut=findings.cut(0.01))
    files = {}
    for label in ("Download outlines for QuPath (GeoJSON)", "Download areas (CSV)"):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).focus()
            page.keyboard.press("Enter")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        files[path.suffix] = path
    outlines = json.loads(files[".geojson"].read_text())["features"]
    with open(files[".csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(outlines) == len(rows) >= 1
    # Never the name of the truth: what is downloaded may be exported from QuPath again.
    assert {feature["properties"]["classification"]["name"] for feature in outlines} == {"predicted TLS 1x"}
    assert rows[0]["slide_id"] == "S1.tiff" and float(rows[0]["threshold"]) == 0.01
    made = list((project / "outputs" / "segmented" / "made-1x").glob("S1-*.tif"))
    with probmaps.open_map(made[0]) as probmap:
        found = findings.Findings(probmap, (), mpp0=probmap.metadata["mpp0"], goal_mpp=4.0)
    assert sum(float(row["area_um2"]) for row in rows) == pytest.approx(found.mask(0.01).sum() * found.mpp**2, rel=1e-3)


def test_an_unreadable_file_is_told_as_a_sentence(run_page, project):
    page = run_page
    folder = project / "broken"
    folder.mkdir(exist_ok=True)
    name = "<img src=x onerror=alert(1)>.svs"
    (folder / name).write_bytes(b"no slide at all")
    turn_to_folders(page, folder)
    card = page.get_by_role("option", name="<img")
    card.get_by_text("cannot be opened").wait_for()
    card.dblclick()
    message = page.get_by_role("status").filter(has_text=name).first
    message.wait_for()
    text = message.inner_text()
    assert "Traceback" not in page.content() and "Error:" not in text and text.endswith(".")
    assert page.locator("img[src='x']").count() == 0
