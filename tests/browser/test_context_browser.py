"""The field that a network saw around its window, framed on request: the checkbox on the page, in a real browser."""

import shutil

import pytest
from looking import VIEW, painted, select_slide, serious, slider
from made_run import write_map

from tlskit.maps import frames_of
from tlskit.maps.probmaps import open_map

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BOX = "window in the middle, and its context (white)"


@pytest.fixture
def seen_around(project):
    """The run's map of S2 at 4x, as a network writes it that saw a wider field at a quarter of the resolution."""
    path = project / "outputs" / "made" / "4x" / "work" / "maps" / "S2.tif"
    with open_map(path) as found:
        values, metadata, mpp = found.read(0, 0, *found.size_px), dict(found.metadata), found.mpp
    context = {"window_px": 128, "stride_px": 64, "context": {"ratio": 4, "px": 128, "of": "field"}}
    kept = path.with_suffix(".kept")
    shutil.move(path, kept)
    write_map(path, values, mpp=mpp, metadata={**metadata, "parameters": context})
    with open_map(path) as found:
        yield frames_of(found)
    shutil.move(kept, path)


def pixel(page, x: float, y: float) -> list[int]:
    """Colour of the view at a place, in CSS px from its top left."""
    found = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
    return page.locator(VIEW).first.evaluate(found, [x, y])[:3]


def test_the_checkbox_frames_the_window_and_what_the_network_saw_around_it(page, app_url, seen_around):
    page.goto(app_url)
    select_slide(page, "S2")
    box = page.get_by_label(BOX)
    slider(page, "Magnification").focus()
    page.keyboard.press("ArrowRight")
    before = painted(page, map="4x")
    assert before["framed"] == "" and not box.is_checked()
    page.evaluate("document.querySelector('.tlskit-view canvas').scrollIntoView()")
    size = page.locator(VIEW).first.evaluate("node => [node.clientWidth, node.clientHeight]")
    # One looks at the whole slide: the frames are those of the window nearest to its middle.
    w, h = page.locator(VIEW).first.evaluate("node => node.dataset.size.split(' ').map(Number)")
    side, around = seen_around.window_px0, seen_around.context_px0
    place = [
        min(zip(windows, contexts, strict=True), key=lambda pair: abs(pair[0] + side / 2 - middle))
        for windows, contexts, middle in zip(seen_around.windows, seen_around.contexts, (w / 2, h / 2), strict=True)
    ]
    (x, x_around), (y, y_around) = place
    expected = [x, y, side, x_around, y_around, around]
    scale = size[0] / (max(w, h * size[0] / size[1]) * 1.02)

    def edge(left: float, top: float, of: float) -> tuple[float, float]:
        """Where the left edge of a frame lies on the screen, a third of the way down."""
        return size[0] / 2 + (left - w / 2) * scale, size[1] / 2 + (top + of / 3 - h / 2) * scale

    at = edge(x, y, side)
    assert min(pixel(page, *at)) < 250
    box.check()
    page.wait_for_function("document.querySelector('.tlskit-view canvas').dataset.framed !== ''")
    framed = painted(page, map="4x")["framed"].replace(",", "").split()
    assert [float(v) for v in framed] == pytest.approx(expected, abs=0.02)
    assert min(pixel(page, *at)) > 250, "the window's edge is white"
    # The wider frame is dashed: somewhere within a dash and a gap (15 px) it is white.
    left, top = edge(x_around, y_around, around)
    assert max(min(pixel(page, left, top + step)) for step in range(16)) > 250
    assert serious(page) == []
    # At 1x the network saw nothing around its windows: nothing is framed, whatever is ticked.
    slider(page, "Magnification").focus()
    page.keyboard.press("ArrowLeft")
    assert painted(page, map="1x")["framed"] == ""
    page.keyboard.press("ArrowRight")
    painted(page, map="4x", framed=", ".join([" ".join(framed[:3]), " ".join(framed[3:])]))
    box.uncheck()
    painted(page, map="4x", framed="")
    # A slide whose maps have no context does not offer it.
    page.get_by_label("Slide", exact=True).select_option(label="S1")
    painted(page, slide="S1")
    box.wait_for(state="hidden")
    assert page.errors == []
