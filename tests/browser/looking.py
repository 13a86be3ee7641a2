"""What the browser tests look at: the state that the slide view paints, and the scores beside it."""

import re

import pytest

VIEW = ".tlskit-view canvas"

#: A triangle, from the keyboard.
TRIANGLE = ("d", " ", "ArrowRight", " ", "ArrowDown", " ", "Enter")


def painted(page, **wanted) -> dict:
    """State of the first canvas once all its tiles have come and it shows what is `wanted`."""
    page.wait_for_function(
        """(wanted) => {
            const canvas = document.querySelector('.tlskit-view canvas');
            return canvas && canvas.dataset.missing === '0'
                && Object.entries(wanted).every(([name, value]) => canvas.dataset[name] === String(value));
        }""",
        arg=wanted,
    )
    return page.evaluate("({...document.querySelector('.tlskit-view canvas').dataset})")


def slider(page, label: str):
    """Handle of the slider with this label; it takes the arrow keys."""
    box = page.locator(".widget-inline-hbox").filter(has=page.locator("label", has_text=re.compile(f"^{label}$")))
    return box.locator(".noUi-handle").first


def scores(page, threshold: float) -> dict[str, float]:
    """The scores beside the slide, once they stand for this threshold."""
    page.wait_for_selector(f'.tlskit-scores[data-threshold="{threshold:.2f}"]')
    found = page.eval_on_selector_all(".tlskit-score", "nodes => nodes.map(n => [n.dataset.score, n.textContent])")
    return {name: float(text) for name, text in found}


def objects(page, threshold: float) -> dict[str, int]:
    """Objects found, missed and false, once they stand for this threshold."""
    page.wait_for_selector(f'table[data-threshold="{threshold:.2f}"] .tlskit-objects')
    found = page.eval_on_selector_all(".tlskit-objects", "nodes => nodes.map(n => [n.dataset.count, n.textContent])")
    return {name: int(text) for name, text in found}


def draw(page, kept: bool = True) -> None:
    """Draw a triangle; and wait until the kernel has written it, where it can."""
    number = int(painted(page)["drawn"])
    page.locator(VIEW).first.focus()
    for key in TRIANGLE:
        page.keyboard.press(key)
    painted(page, drawn=number + 1)
    if kept:
        page.wait_for_selector('.tlskit-view[data-unsaved="0"]')


def open_run(page, url: str) -> None:
    """Open the page: a run's first slide, and what was found and missed on it."""
    page.goto(url)
    painted(page)
    # Also the first answer of a kernel may be lost on its way to a browser that does not listen yet.
    assert sum(objects(page, 0.5).values()) == 5


def open_folder_page(page, url: str, folder=None) -> None:
    """Open the page, and turn to slides of a folder."""
    page.goto(url)
    turn_to_folders(page, folder)


def turn_to_folders(page, folder=None) -> None:
    """Turn from wherever the page is to slides of a folder."""
    page.get_by_role("button", name="A slide from a folder").click()
    page.get_by_label("Folder", exact=True).wait_for()
    if folder is not None:
        go_to_folder(page, folder)


def go_to_folder(page, path) -> None:
    """Type a folder's path, or a slide's."""
    box = page.get_by_label("Folder", exact=True)
    box.fill(str(path))
    box.press("Enter")


def take_slide(page, name: str) -> None:
    """Open a slide by its card. While thumbnails come, the cards are made anew: a click may meet one that goes."""
    card = page.get_by_role("option", name=name)
    card.locator("img[src]").wait_for()
    card.click()
    page.get_by_role("option", name=name, selected=True).wait_for()
    page.get_by_role("button", name="Open", exact=True).click()
    painted(page, slide=name)


def select_slide(page, name: str) -> None:
    """Choose a slide of the run, and wait until it is painted."""
    painted(page)
    page.get_by_label("Slide", exact=True).select_option(label=name)
    painted(page, slide=name)


def serious(page) -> list[str]:
    """What axe-core calls serious or critical: the rule, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['html'][:160]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
