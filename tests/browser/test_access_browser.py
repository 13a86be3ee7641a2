"""The page for anyone: axe-core finds nothing serious in any of its views."""

import pytest
from looking import painted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


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


def test_axe_finds_nothing_serious_in_any_view(page, app_url, project):
    page.goto(app_url)
    painted(page)
    assert page.locator("head title").count() == 1 and page.title() == "tlskit"
    assert serious(page) == []
    page.get_by_label("all magnifications side by side").check()
    page.wait_for_function("document.querySelectorAll('.tlskit-view canvas').length > 1")
    assert serious(page) == []
    page.get_by_role("button", name="A slide from a folder").click()
    page.get_by_role("option", name="S1.tiff").locator("img[src]").wait_for()
    assert serious(page) == []
    page.get_by_role("option", name="S1.tiff").dblclick()
    painted(page, slide="S1.tiff")
    assert serious(page) == []
