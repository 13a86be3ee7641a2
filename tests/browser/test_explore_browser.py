"""The explorers in JupyterLab, in a real browser."""

import pytest
from looking import objects, painted, scores, slider
from serving import open_notebook, tab

from tlskit.evaluation import slide_findings as findings
from tlskit.maps import probmaps
from tlskit.study import archive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def notebook(browser, lab_url, project):
    """explore.ipynb, opened and run to its end, once for all tests."""
    with tab(browser) as page:
        yield open_explore(page, lab_url, project)


def open_explore(page, lab_url, project):
    path = project / "notebooks" / "explore.ipynb"
    path.write_text(path.read_text().replace('run_name = \\"demo\\"', 'run_name = \\"made\\"'))
    open_notebook(page, lab_url, "notebooks/explore.ipynb")
    # The notebook scrolls to its last cell, and lays out only what is in sight.
    page.wait_for_selector(".tlskit-view canvas", state="attached", timeout=300_000)
    page.evaluate("document.querySelector('.tlskit-view canvas').scrollIntoView()")
    return page


def test_both_sliders_move_layer_outlines_and_scores(notebook, project):
    page = notebook
    study = archive.open_archive(project / "outputs" / "made")
    first = painted(page, cut=128)
    assert first["map"] == "1x"
    assert page.locator(".tlskit-view").first.get_attribute("data-truth") == str(len(study.targets("S1")))
    slider(page, "Magnification").focus()
    page.keyboard.press("ArrowRight")
    painted(page, map="4x")
    slider(page, "Threshold").focus()
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    state = painted(page, map="4x", cut=findings.cut(0.75))
    arm = study.arm("4x")
    with probmaps.open_map(arm.map_path("S1")) as probmap, study.open_slide("S1") as slide:
        level = int(state["level"])
        width, height = probmap.level_sizes_px[level]
        values = probmap.read(0, 0, width, height, level=level)
        assert int(state["positive"]) == (values >= findings.cut(0.75)).sum() > 0
        expected = findings.Findings(probmap, study.targets("S1"), mpp0=slide.mpp0).counts(0.75)
    for name, value in scores(page, 0.75).items():
        assert value == pytest.approx(findings.scores_at(arm.histograms["S1"], 0.75)[name], abs=5e-4)
    assert objects(page, 0.75) == expected


def test_an_outline_is_drawn_by_keyboard_and_saved(notebook, project):
    from tlskit.outlines import reading as annotations

    page = notebook
    state = painted(page)
    assert state["drawn"] == "0"
    canvas = page.locator(".tlskit-view canvas").first
    canvas.focus()
    for key in ("d", " ", "ArrowRight", " ", "ArrowDown", " ", "Enter"):
        page.keyboard.press(key)
    page.get_by_role("button", name="Save outlines").click()
    page.get_by_text("1 outline(s) saved").wait_for()
    saved = annotations.read_targets(project / "outputs" / "made" / "explore" / "geojson" / "S1.geojson", "TLS")
    assert len(saved) == 1
    # Two steps of a twelfth of the field: a right-angled triangle.
    left, top, right, bottom = saved[0].bounds
    assert saved[0].area == pytest.approx((right - left) * (bottom - top) / 2, rel=1e-3)
    assert right - left == pytest.approx(bottom - top, rel=1e-3)
