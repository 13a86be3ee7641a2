"""A study from the page: three steps by clicks alone, and the sweep that a coder would start."""

import os
import shutil
import subprocess
import sys

import pytest
from looking import serious
from made_run import make_run
from serving import ROOT, app

from tlskit.study import params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_study_is_set_up_started_and_paused_by_clicks(page, tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("made"), n_slides=3, size_mm=(1.9, 1.5), magnifications=(1,))
    project = tmp_path_factory.mktemp("mine") / "study"
    words = [sys.executable, "-m", "tlskit", "init", str(project)]
    subprocess.run(words, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    slides = project / "slides"
    shutil.copytree(made.parent / "cohorts" / "made" / "slides", slides)
    with app(project) as (url, _):
        page.goto(url)
        page.get_by_role("button", name="A new study").click()
        page.get_by_label("Folder of slides").fill(str(slides))
        page.get_by_label("Folder of slides").press("Enter")
        page.get_by_text("3 slides, 3 of them").wait_for()
        for name in ("20x", "10x", "4x"):
            page.get_by_label(name, exact=True).uncheck()
        page.get_by_role("button", name="Write and check").click()
        page.get_by_text("0 error(s)").wait_for()
        page.get_by_text("tlskit sweep params/my-study.yaml").wait_for()
        assert serious(page) == []
        page.get_by_role("button", name="Start", exact=True).click()
        page.locator(".tlskit-progress", has_text="01_tiling").wait_for()
        page.get_by_role("button", name="Pause").click()
        page.get_by_text("It has stopped").wait_for()
    assert params.read_preset(project / "params" / "my-study.yaml")["sweep"] == {"magnification": [1]}
    assert (project / "outputs" / "my-study.sweep.log").is_file()
    assert page.errors == []
