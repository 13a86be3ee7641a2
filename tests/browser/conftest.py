"""A made run, the servers that show it, and a real browser."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium_path() -> str | None:
    """A browser of the system, as Debian's package installs it."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window; the test is skipped where none is installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A tab of 1280 x 900 px; `page.requests` are the addresses that it has asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    tab.requests = []
    tab.on("request", lambda request: tab.requests.append(request.url))
    yield tab
    context.close()


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A project folder with one finished run of two slides, and an untrained network for the app."""
    import pandas as pd
    from made_run import make_run

    from tlskit import models

    folder = tmp_path_factory.mktemp("project")
    run_dir = make_run(folder, n_slides=2, size_mm=(2.0, 1.6), magnifications=(1, 4, 10), target_class="TLS")
    for name in ("app", "explore"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder / "notebooks")
    network = models.build_model(encoder="efficientnet-b0", encoder_weights="none")
    models.save_checkpoint(
        run_dir / "1x" / "work" / "checkpoint.pt",
        models.Checkpoint(
            model=network, encoder="efficientnet-b0", magnification=1, mpp=10.0, tile_px=64, overlap=0.5,
            normalisation="divide_255", threshold=0.5, target_class="TLS", resolution_by="mpp", split_hash="0" * 64,
            history=pd.DataFrame({"epoch": [1]}),
        ),
    )  # fmt: skip
    return folder


def start(command: list[str], *, cwd: Path, log: Path, pattern: str) -> tuple[subprocess.Popen, str]:
    """Start a server and wait for the address that it writes to its log."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, env=environment)
    for _ in range(240):
        found = re.search(pattern, log.read_text())
        if found:
            return process, found[0]
        assert process.poll() is None, log.read_text()
        time.sleep(0.25)
    process.terminate()
    raise AssertionError(f"no address after a minute: {log.read_text()}")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def app_url(project, browser):
    """Address of the page, served by `tlskit app`."""
    process, url = start(
        [sys.executable, "-m", "tlskit", "app", "--no-browser", "--port", str(free_port())],
        cwd=project, log=project / "voila.log", pattern=r"http://\S+token=\w+",
    )  # fmt: skip
    yield url
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture(scope="session")
def lab_url(project, browser):
    """Address of JupyterLab in the project. All cells are drawn, not only those in sight."""
    settings = project / "lab-settings" / "@jupyterlab"
    for extension, name, text in (
        ("notebook-extension", "tracker", '{"windowingMode": "none"}'),
        ("apputils-extension", "notification", '{"fetchNews": "false"}'),
    ):
        (settings / extension).mkdir(parents=True)
        (settings / extension / f"{name}.jupyterlab-settings").write_text(text)
    os.environ["JUPYTERLAB_SETTINGS_DIR"] = str(settings.parent)
    process, url = start(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={free_port()}",
            "--ip=127.0.0.1", "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ],
        cwd=project, log=project / "lab.log", pattern=r"http://127\.0\.0\.1:\d+/lab\?token=\w+",
    )  # fmt: skip
    yield url
    process.terminate()
    process.wait(timeout=20)
