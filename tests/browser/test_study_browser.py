"""A study from the page: from an empty folder of slides to the report, by clicks alone, in ten screenshots."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from looking import painted, serious
from made_run import make_run
from serving import ROOT, app

from tlskit.explore import study_setup
from tlskit.study import params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

TEN = (
    "empty_folder", "slides", "patients", "question", "checked", "running", "paused", "found_again", "report",
    "its_slides",
)  # fmt: skip

#: What *quick* is in this project: what takes time in the demo, as small as it can be.
SMALL = {
    "encoder": "tu-mobilenetv3_small_050", "engine": "torch", "tile_px": 64, "epochs": 1, "steps_per_epoch": 2,
    "batch_size": 2, "timing_repeats": 1, "bootstrap_draws": 200,
}  # fmt: skip


def test_from_an_empty_folder_to_the_report_by_clicks_alone(page, tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("made"), n_slides=4, size_mm=(1.9, 1.5), magnifications=(1,))
    project = tmp_path_factory.mktemp("mine") / "study"
    words = [sys.executable, "-m", "tlskit", "init", str(project)]
    subprocess.run(words, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    quick = project / "params" / "demo.yaml"
    quick.write_text(yaml.safe_dump(params.read_preset(quick) | SMALL))
    slides, row = project / "slides", project / "row"
    slides.mkdir()
    preset = project / "params" / "my-study.yaml"
    taken = []

    def picture(name: str) -> None:
        # Two frames: what was said last is laid out and drawn.
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(path=row / f"{len(taken) + 1:02d}_{name}.png")
        taken.append(name)
        assert serious(page) == [], name

    def button(name: str):
        return page.get_by_role("button", name=name, exact=True)

    def open_page(url: str) -> None:
        page.goto(url)
        button("A new study").wait_for()

    with app(project) as (url, _):
        try:
            open_page(url)
            button("A new study").click()
            folder = page.get_by_label("Folder of slides")
            folder.fill(str(slides))
            folder.press("Enter")
            page.get_by_text("0 slides, 0 of them").wait_for()
            picture("empty_folder")
            shutil.copytree(made.parent / "cohorts" / "made" / "slides", slides, dirs_exist_ok=True)
            (slides / "S4.geojson").rename(slides / "other.geojson")
            folder.fill(str(slides) + "/")
            folder.press("Enter")
            page.get_by_text("4 slides, 3 of them").wait_for()
            page.get_by_text("export them from QuPath as S4.geojson").wait_for()
            page.wait_for_function("document.querySelectorAll('.tlskit-gallery img[src]').length === 4")
            picture("slides")
            (slides / "other.geojson").rename(slides / "S4.geojson")
            folder.fill(str(slides))
            folder.press("Enter")
            page.get_by_text("4 slides, 4 of them").wait_for()
            pattern = page.get_by_label("Patient is").first
            pattern.fill("S([0-9])")
            pattern.press("Enter")
            page.get_by_text("patient 4; ").wait_for()
            page.wait_for_function("document.querySelectorAll('.tlskit-gallery img[src]').length === 4")
            picture("patients")
            for name in ("20x", "10x", "4x"):
                page.get_by_label(name, exact=True).uncheck()
            page.get_by_role("heading", name="2. Question").scroll_into_view_if_needed()
            picture("question")
            button("Write and check").click()
            page.get_by_text("0 error(s)").wait_for()
            page.get_by_text("tlskit sweep params/my-study.yaml").first.wait_for()
            page.get_by_text("It has not been started.").wait_for()
            page.get_by_role("heading", name="3. Run").scroll_into_view_if_needed()
            picture("checked")
            button("Start").click()
            # What has been done stays done: a notebook that runs may have ended before the page looks.
            page.locator(".tlskit-is-done", has_text="01_tiling").wait_for(timeout=400_000)
            page.locator(".tlskit-is-running").first.wait_for(timeout=400_000)
            page.get_by_text("left (a guess)").wait_for()
            picture("running")
            button("Pause").click()
            page.get_by_text("It has stopped. Go on takes up what was not finished.").wait_for()
            assert study_setup.sweeps_of(preset) == []
            picture("paused")
            # The page is closed and opened again: the study is found, and goes on.
            page.goto("about:blank")
            open_page(url)
            button("A new study").click()
            page.get_by_label("Study", exact=True).select_option(label="begun before: my-study")
            page.locator(".tlskit-is-done", has_text="01_tiling").wait_for()
            button("Go on").click()
            page.locator(".tlskit-is-done", has_text="02_patient_split").wait_for(timeout=400_000)
            # While it runs, a page that is opened turns to it by itself.
            page.reload()
            page.locator(".tlskit-is-done", has_text="02_patient_split").wait_for()
            picture("found_again")
            page.get_by_text("7 of 7 notebooks are done").wait_for(timeout=1_200_000)
            button("Report").click()
            report = page.frame_locator("iframe.tlskit-report")
            report.get_by_role("heading", level=1).wait_for()
            report.locator("img").evaluate_all("all => Promise.all(all.map(image => image.decode().catch(() => 0)))")
            picture("report")
            button("Its slides").click()
            painted(page)
            page.locator(".tlskit-view").scroll_into_view_if_needed()
            picture("its_slides")
        finally:
            for process in study_setup.sweeps_of(preset):
                process.kill()
    assert tuple(taken) == TEN and len(list(row.glob("*.png"))) == 10
    assert params.read_preset(preset)["sweep"] == {"magnification": [1]}
    assert (project / "outputs" / "my-study.sweep.log").is_file()
    assert (project / "outputs" / "my-study" / "compare" / "report.html").is_file()
    assert page.errors == []
