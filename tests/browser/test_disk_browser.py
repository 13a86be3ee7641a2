"""A disk that takes nothing more, and slides that go away while they are shown: hand work is kept, and it is said."""

import re
import shutil
from contextlib import contextmanager, suppress

import pytest
from looking import draw, go_to_folder, open_run, painted, select_slide, serious, take_slide, turn_to_folders
from made_disk import NoSmallDisk, let_write, small_disk

from tlskit.explore import drawn_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def disk(project):
    """A disk of half a MB where outlines of the run's slides are kept."""
    folder = project / "outputs" / "made" / "explore" / "geojson"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    try:
        with small_disk(folder, 0.5):
            yield folder
    except NoSmallDisk as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    finally:
        with suppress(OSError):
            folder.rmdir()


def unsaved(page, number: int) -> None:
    page.wait_for_selector(f'.tlskit-view[data-unsaved="{number}"]')


def test_outlines_that_a_read_only_folder_refuses_are_kept_and_written_when_it_takes_them(page, app_url, project, disk):
    open_run(page, app_url)
    select_slide(page, "S1")
    draw(page)
    let_write(disk, False)
    # One by the kernel's own doing, of which the browser knows only what it is told; then one by hand.
    page.get_by_role("button", name="Copy the outline in the middle").click()
    page.get_by_text("The outlines are NOT saved: S1.geojson cannot be written").wait_for()
    unsaved(page, 1)
    two = int(painted(page)["drawn"])
    assert two == 2
    select_slide(page, "S2")
    draw(page, kept=False)
    page.get_by_text("The outlines are NOT saved: S2.geojson cannot be written").wait_for()
    page.screenshot(path=project / "refused.png", full_page=True)
    assert serious(page) == []
    # Through other slides they stay as they are; through a reload the browser keeps them, and asks before it.
    select_slide(page, "S1")
    assert painted(page, slide="S1")["drawn"] == "2"
    page.wait_for_selector('.tlskit-view[data-kept="2"]')
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    assert asked == ["beforeunload"]
    select_slide(page, "S2")
    page.get_by_text("1 outline(s) of this slide were drawn in this browser and could not be saved").wait_for()
    page.get_by_role("button", name="Take them in").click()
    page.get_by_text("The outlines are NOT saved: S2.geojson").wait_for()
    assert not (disk / "S2.geojson").exists() and len(drawn_files.read_drawn(disk / "S1.geojson")) == 1
    let_write(disk, True)
    page.get_by_role("button", name="Save outlines").click()
    page.get_by_text("1 outline(s) saved as S2.geojson").wait_for()
    unsaved(page, 0)
    assert len(drawn_files.read_drawn(disk / "S2.geojson")) == 1
    select_slide(page, "S1")
    page.get_by_text("1 outline(s) of this slide were drawn in this browser and could not be saved").wait_for()
    page.get_by_role("button", name="Take them in").click()
    painted(page, drawn=2)
    unsaved(page, 0)
    assert len(drawn_files.read_drawn(disk / "S1.geojson")) == 2
    select_slide(page, "S2")
    select_slide(page, "S1")
    assert page.get_by_text("could not be saved").count() == 0
    assert page.errors == []


def test_on_a_full_disk_outlines_stay_and_the_file_is_as_it_was(run_page, disk):
    page = run_page
    select_slide(page, "S2")
    draw(page)
    before = (disk / "S2.geojson").read_bytes()
    with pytest.raises(OSError), open(disk / "ballast", "wb") as ballast:
        while True:
            ballast.write(bytes(4096))
            ballast.flush()
    draw(page, kept=False)
    page.get_by_text("The outlines are NOT saved").wait_for()
    assert "no room" in page.get_by_text("The outlines are NOT saved").inner_text()
    assert (disk / "S2.geojson").read_bytes() == before and not list(disk.glob(".tmp*"))
    # Another slide and back: it is tried again, and there is room now.
    select_slide(page, "S1")
    (disk / "ballast").unlink()
    select_slide(page, "S2")
    page.get_by_text("2 outline(s) saved as S2.geojson: they could not be before").wait_for()
    assert painted(page, slide="S2")["drawn"] == "2"
    unsaved(page, 0)
    assert len(drawn_files.read_drawn(disk / "S2.geojson")) == 2
    assert page.errors == []


@contextmanager
def moved(path):
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def test_a_slide_of_the_run_that_is_gone_leaves_nothing_of_itself_on_the_page_and_its_outlines_come_back(
    run_page, project
):
    page = run_page
    path = project / "outputs" / "made" / "explore" / "geojson" / "S2.geojson"
    path.unlink(missing_ok=True)
    select_slide(page, "S1")
    select_slide(page, "S2")
    draw(page)
    with moved(project / "outputs" / "cohorts" / "made" / "slides" / "S2.tiff"):
        select_slide(page, "S1")
        page.get_by_label("Slide", exact=True).select_option(label="S2")
        painted(page, slide="", map="", drawn=0)
        page.get_by_role("status").filter(has_text="S2.tiff").wait_for()
        assert page.get_by_role("button", name="Save outlines").is_disabled()
        select_slide(page, "S1")
    select_slide(page, "S2")
    assert painted(page, slide="S2")["drawn"] == "1"
    path.unlink()
    assert page.errors == []


def test_a_slide_that_is_renamed_or_removed_while_it_is_shown(run_page, project):
    page = run_page
    folder = project / "moving"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(project / "outputs" / "cohorts" / "made" / "slides" / "S1.tiff", folder / "before.tiff")
    turn_to_folders(page, folder)
    take_slide(page, "before.tiff")
    (folder / "before.tiff").rename(folder / "after.tiff")
    # It is open: one looks on, closer too, and draws. What would read it anew says why it cannot.
    draw(page)
    for _ in range(4):
        page.keyboard.press("+")
    painted(page, slide="before.tiff")
    page.get_by_role("button", name=re.compile("^Segment")).click()  # again, where its content was segmented before
    page.get_by_text("before.tiff lies no longer in moving: it was renamed, moved or deleted").wait_for()
    page.get_by_role("option", name="before.tiff").dblclick()
    page.get_by_text("before.tiff lies no longer in moving; the cards are of what is there").wait_for()
    take_slide(page, "after.tiff")
    assert painted(page, slide="after.tiff")["drawn"] == "1"
    draw(page)
    (folder / "after.tiff").unlink()
    draw(page)
    (path,) = (project / "outputs" / "segmented" / "drawn").glob("before-*.geojson")
    assert len(drawn_files.read_drawn(path)) == 3
    go_to_folder(page, folder / "after.tiff")
    page.get_by_text("There is no folder").wait_for()
    path.unlink()
    assert page.errors == []
