"""A real browser, and the servers of what it looks at, for the tests and for ``tests/benchmarks/bench_explore``."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")


def chromium_path() -> str | None:
    """A browser of the system, as Debian's package installs it."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def install_chromium() -> str:
    """Install Debian's Chromium where that needs no question; returns why it could not be, or an empty text."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get"
    if os.geteuid() != 0:
        return "only root may install it"
    # Without a network the answer is to come in seconds.
    apt = ["apt-get", "-q", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=0"]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 240}
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        # Test files run two at a time, and apt-get only once.
        with FileLock(Path(tempfile.gettempdir()) / "tlskit-chromium.lock"):
            if chromium_path() is not None:
                return ""
            subprocess.run([*apt, "update"], check=False, env=environment, **quiet)
            done = subprocess.run(
                [*apt, "install", "-y", "--no-install-recommends", "chromium"], check=False, env=environment, **quiet
            )
    except subprocess.TimeoutExpired:
        return "apt-get took more than four minutes"
    return "" if done.returncode == 0 else done.stdout.strip().splitlines()[-1]


@contextmanager
def chromium() -> Iterator:
    """Playwright's handle on a Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(OPTIONS))
        yield browser
        browser.close()


@contextmanager
def tab(browser) -> Iterator:
    """A tab of 1280 x 900 px; `page.requests` are what it has asked for, `page.errors` what was thrown."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(200_000)  # of a busy machine
    page.requests, page.errors = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    context.close()


@contextmanager
def serving(command: list[str], *, cwd: Path, log: Path, pattern: str, **environment: str) -> Iterator[tuple[str, int]]:
    """Run a server; gives the address that it writes to its log, and its process id."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"} | environment
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        yield _address(process, log, pattern), process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def app(project: Path):
    """The page, as `tlskit app` serves it."""
    command = [sys.executable, "-m", "tlskit", "app", "--no-browser", "--port", str(free_port())]
    return serving(command, cwd=project, log=project / "app.log", pattern=r"http://\S+token=\w+")


def lab(project: Path):
    """JupyterLab in a project. All cells are drawn, not only those in sight; nothing is asked of the network."""
    settings = project / "lab-settings" / "@jupyterlab"
    for extension, name, text in (
        ("notebook-extension", "tracker", '{"windowingMode": "none"}'),
        ("apputils-extension", "notification", '{"fetchNews": "false"}'),
    ):
        (settings / extension).mkdir(parents=True, exist_ok=True)
        (settings / extension / f"{name}.jupyterlab-settings").write_text(text)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={free_port()}", "--ip=127.0.0.1",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    pattern = r"http://127\.0\.0\.1:\d+/lab\?token=\w+"
    where = {"JUPYTERLAB_SETTINGS_DIR": str(settings.parent), "JUPYTERLAB_WORKSPACES_DIR": str(project / "lab-spaces")}
    return serving(command, cwd=project, log=project / "lab.log", pattern=pattern, **where)


def open_notebook(page, lab_url: str, path: str) -> None:
    """Open a notebook in JupyterLab and run all its cells."""
    from playwright.sync_api import TimeoutError

    page.goto(lab_url.replace("/lab?", f"/lab/tree/{path}?"))
    # A command given before the kernel stands ready is lost; on a busy machine also one given just after.
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached", timeout=300_000)
    begun = "[...document.querySelectorAll('.jp-InputPrompt')].some(prompt => /[*1]/.test(prompt.textContent))"
    for _ in range(6):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells")).first.click()
        with suppress(TimeoutError):
            page.wait_for_function(begun, timeout=20_000)
            return
    raise RuntimeError(f"JupyterLab does not run the cells of {path}.")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _address(process: subprocess.Popen, log: Path, pattern: str) -> str:
    end = time.monotonic() + 300  # of a busy machine
    while time.monotonic() < end:
        if found := re.search(pattern, log.read_text()):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"The server gave no address: {log.read_text()}")
