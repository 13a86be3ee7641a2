"""A made run, the servers that show it, and a real browser."""

import shutil
import sys

import pytest
from looking import open_run
from serving import ROOT, app, chromium, chromium_path, install_chromium, lab, tab

sys.path.insert(0, str(ROOT / "tests"))


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window. Installed where it is missing and may be; the test is skipped where it may not."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if chromium_path() is None and (reason := install_chromium()):
        pytest.skip(f"no Chromium on this machine, and {reason}: apt-get install chromium")
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser):
    """A tab of 1280 x 900 px; `page.requests` are what it has asked for, `page.errors` what was thrown."""
    with tab(browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def run_page(browser, app_url):
    """The page as it opens, once for all tests of a file that only look at it."""
    with tab(browser) as opened:
        open_run(opened, app_url)
        yield opened


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A project folder with one finished run of two slides, and an untrained network for the app."""
    import pandas as pd
    from made_run import make_run

    from tlskit.networks import models

    folder = tmp_path_factory.mktemp("project")
    run_dir = make_run(folder, n_slides=2, size_mm=(2.0, 1.6), magnifications=(1, 4, 10), target_class="TLS")
    for name in ("app", "explore"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
    encoder = "tu-mobilenetv3_small_050"  # the smallest: what is tried is the page
    network = models.build_model(encoder=encoder, encoder_weights="none")
    models.save_checkpoint(
        run_dir / "1x" / "work" / "checkpoint.pt",
        models.Checkpoint(
            model=network, encoder=encoder, magnification=1, mpp=10.0, tile_px=64, overlap=0.5,
            normalisation="divide_255", threshold=0.5, target_class="TLS", resolution_by="mpp", split_hash="0" * 64,
            history=pd.DataFrame({"epoch": [1]}),
        ),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def app_server(project, browser):
    """Address of the page, served by `tlskit app`, and the process that serves it."""
    with app(project) as served:
        yield served


@pytest.fixture(scope="session")
def app_url(app_server):
    """Address of the page."""
    return app_server[0]


@pytest.fixture(scope="session")
def lab_url(project, browser):
    """Address of JupyterLab in the project."""
    with lab(project) as (url, _):
        yield url
