"""Nothing that a person did or read on the page is lost or of another slide: in a real browser."""

import dataclasses
import json
import time

import psutil
import pytest
from looking import (
    TRIANGLE,
    VIEW,
    draw,
    go_to_folder,
    open_folder_page,
    open_run,
    painted,
    select_slide,
    serious,
    take_slide,
)  # fmt: skip
from serving import app

from tlskit.explore import drawn_files
from tlskit.networks import models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def kernels(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if "ipykernel" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_outlines_are_kept_through_other_slides_and_a_reload_and_the_kernel_ends(page, app_server, project):
    url, pid = app_server
    path = project / "outputs" / "made" / "explore" / "geojson" / "S2.geojson"
    path.unlink(missing_ok=True)
    open_run(page, url)
    select_slide(page, "S2")
    draw(page)
    page.locator(VIEW).first.focus()
    page.keyboard.press("ArrowRight")
    select_slide(page, "S1")
    select_slide(page, "S2")
    assert painted(page, slide="S2")["drawn"] == "1"
    draw(page)
    page.get_by_role("button", name="Undo").click()
    painted(page, drawn=1)
    page.get_by_role("button", name="Redo").click()
    painted(page, drawn=2)
    page.wait_for_selector('.tlskit-view[data-unsaved="0"]')
    page.reload()
    select_slide(page, "S2")
    painted(page, slide="S2", drawn=2)
    assert len(drawn_files.read_drawn(path)) == 2
    assert page.errors == []
    path.unlink()
    mine = {kernel.pid for kernel in kernels(pid)}
    page.goto("about:blank")
    end = time.monotonic() + 120
    while mine <= {kernel.pid for kernel in kernels(pid)}:
        assert time.monotonic() < end, "the kernel outlived its page"
        time.sleep(0.2)


def test_going_back_takes_away_what_was_done_here_and_not_what_another_window_drew(page, app_url, project):
    path = project / "outputs" / "made" / "explore" / "geojson" / "S2.geojson"
    path.unlink(missing_ok=True)
    other = page.context.new_page()
    for tab in (page, other):
        open_run(tab, app_url)
        select_slide(tab, "S2")
    draw(page)
    by_first = drawn_files.read_drawn(path)
    other.locator(VIEW).first.focus()
    other.keyboard.press("ArrowUp")
    for key in TRIANGLE:
        other.keyboard.press(key)
    painted(other, drawn=2)  # what the first window drew is seen as soon as this one has written its own
    other.wait_for_selector('.tlskit-view[data-unsaved="0"]')
    (by_other,) = [one for one in drawn_files.read_drawn(path) if one not in by_first]
    page.locator(VIEW).first.focus()
    page.keyboard.press("ArrowDown")
    for key in TRIANGLE:
        page.keyboard.press(key)
    painted(page, drawn=3)
    page.wait_for_selector('.tlskit-view[data-unsaved="0"]')
    for left in (2, 1):  # its own two steps
        page.get_by_role("button", name="Undo").click()
        painted(page, drawn=left)
    page.wait_for_selector('.tlskit-view[data-unsaved="0"]')
    (kept,) = drawn_files.read_drawn(path)
    assert kept == by_other
    assert page.get_by_role("button", name="Undo").is_disabled()
    other.close()
    path.unlink()
    assert page.errors == []


def test_what_was_drawn_while_the_kernel_was_gone_is_offered_again(page, app_server, project):
    url, pid = app_server
    path = project / "outputs" / "made" / "explore" / "geojson" / "S2.geojson"
    path.unlink(missing_ok=True)
    there = {kernel.pid for kernel in kernels(pid)}
    open_run(page, url)
    select_slide(page, "S2")
    for kernel in kernels(pid):
        if kernel.pid not in there:
            kernel.suspend()  # it answers no more, and nothing stands in its place
            mine = kernel
    page.locator(VIEW).first.focus()
    for key in TRIANGLE:
        page.keyboard.press(key)
    painted(page, drawn=1)
    page.wait_for_selector('.tlskit-view[data-kept="1"]')
    mine.kill()
    page.on("dialog", lambda asked: asked.accept())
    page.goto("about:blank")
    open_run(page, url)
    select_slide(page, "S2")
    page.get_by_text("1 outline(s) of this slide were drawn in this browser and could not be saved").wait_for()
    assert not path.exists()
    page.get_by_role("button", name="Take them in").click()
    painted(page, drawn=1)
    page.wait_for_selector('.tlskit-view[data-unsaved="0"]')
    assert len(drawn_files.read_drawn(path)) == 1
    open_run(page, url)
    select_slide(page, "S2")
    painted(page, drawn=1)
    assert page.get_by_text("could not be saved").count() == 0
    path.unlink()


def test_an_outline_deleted_before_the_kernel_hears_of_it_counts_as_written(run_page):
    page = run_page
    draw(page)
    drawn = int(painted(page)["drawn"])
    # A new outline is the chosen one.
    for key in ("Delete", *TRIANGLE, "Delete"):
        page.keyboard.press(key)
    painted(page, drawn=drawn - 1)
    page.wait_for_selector('.tlskit-view[data-unsaved="0"]')


def test_the_page_asks_before_an_unfinished_outline_is_left(run_page):
    page = run_page
    painted(page)
    page.locator(VIEW).first.focus()
    for key in ("d", " ", "ArrowRight", " "):
        page.keyboard.press(key)
    painted(page, corners=2)
    with page.expect_event("dialog") as asked:
        page.evaluate("setTimeout(() => location.reload(), 0)")
    assert asked.value.type == "beforeunload"
    asked.value.dismiss()
    # The reader stayed, and what was begun is there. (A browser without a window takes keys unreliably after a question
    # that was dismissed: nobody uses this page after this test.)
    assert int(painted(page)["corners"]) == 2


def test_a_hole_a_merge_and_a_dropped_file_are_kept_and_a_server_that_is_gone_is_told(page, project):
    path = project / "outputs" / "made" / "explore" / "geojson" / "S1.geojson"
    path.unlink(missing_ok=True)
    square = [[100, 100], [900, 100], [900, 900], [100, 900], [100, 100]]
    text = json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {}})
    with app(project) as (url, _):
        open_run(page, url)
        select_slide(page, "S1")
        draw(page)
        file = (
            "text => { const data = new DataTransfer(); data.items.add(new File([text], 'a.geojson')); return data; }"
        )
        page.dispatch_event(".tlskit-view", "drop", {"dataTransfer": page.evaluate_handle(file, text)})
        painted(page, drawn=2)
        page.get_by_role("button", name="Cut a hole").click()
        for x, y in ((0.02, 0.2), (0.06, 0.2), (0.06, 0.9)):
            box = page.locator(VIEW).first.bounding_box()
            page.mouse.click(box["x"] + box["width"] * (0.5 + x), box["y"] + box["height"] * y)
        page.keyboard.press("Enter")
        page.wait_for_selector('.tlskit-view[data-unsaved="0"]')
        page.wait_for_function("document.querySelector('.tlskit-view canvas').dataset.corners === '0'")
        assert serious(page) == []
        assert len(drawn_files.read_drawn(path)) >= 2
    page.get_by_role("alert").filter(has_text="does not answer").wait_for()
    assert page.errors == []
    path.unlink()


def test_map_and_words_are_of_the_slide_and_the_network_that_is_named(page, app_url, project):
    open_folder_page(page, app_url, project / "outputs" / "cohorts" / "made" / "slides")
    take_slide(page, "S2.tiff")
    page.get_by_role("button", name="Segment", exact=True).click()
    take_slide(page, "S1.tiff")
    page.get_by_text("S2.tiff is segmented. It is not the slide below").wait_for(timeout=400_000)
    painted(page, slide="S1.tiff")
    take_slide(page, "S2.tiff")
    page.get_by_text("S2.tiff was segmented before: here is its map.").wait_for()
    # The network is trained again: the same arm, other weights.
    path = project / "outputs" / "made" / "1x" / "work" / "checkpoint.pt"
    first = path.read_bytes()
    try:
        checkpoint = models.load_checkpoint(path)
        models.save_checkpoint(path, dataclasses.replace(checkpoint, threshold=0.4))
        take_slide(page, "S1.tiff")
        take_slide(page, "S2.tiff")
        page.locator(".tlskit-warning", has_text="Old map").wait_for()
        assert page.get_by_role("button", name="Download areas (CSV)").is_disabled()
        page.get_by_role("button", name="Segment again").wait_for()
    finally:
        path.write_bytes(first)
    broken = project / "outputs" / "cohorts" / "made" / "slides" / "broken.tiff"
    broken.write_bytes(b"no slide at all")
    go_to_folder(page, broken)
    page.get_by_text("broken.tiff cannot be opened.").wait_for()
    painted(page, slide="", map="")
    assert page.get_by_role("button", name="Segment again").is_disabled()
    assert page.get_by_role("button", name="Download areas (CSV)").is_disabled()
    broken.unlink()
    assert page.errors == []
