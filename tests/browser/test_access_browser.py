"""The page for anyone: axe-core finds nothing serious in any of its views."""

import pytest
from looking import painted, serious

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
