"""What else shows a slide and moves a threshold in a browser, measured as `bench_explore` measures the page."""

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

from tests.benchmarks.harness import WORK

#: Ticks of the slider in one repeat.
TICKS = 6

#: As one finds it in tutorials; slide and map are read once, at about the screen's resolution.
INTERACT = """import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from tlskit.maps import open_map
from tlskit.slides import open_slide

with open_slide("{slide}") as slide:
    width, height = slide.size_px(16)
    picture = slide.read(0, 0, width, height, mpp=16)
with open_map("{map}") as found:
    level = min(range(len(found.level_sizes_px)), key=lambda n: abs(found.level_sizes_px[n][0] - width))
    values = found.read(0, 0, *found.level_sizes_px[level], level=level) / 255

@ipywidgets.interact(threshold=ipywidgets.FloatSlider(0.5, min=0.01, max=0.99, step=0.01))
def show(threshold):
    plt.figure(figsize=(9, 6))
    plt.imshow(picture, extent=(0, width, height, 0))
    plt.imshow(np.ma.masked_less(values, threshold), extent=(0, width, height, 0), alpha=0.35)
    plt.axis("off")
    plt.show()
"""

#: A tick ends with the frame that shows another picture.
WATCH = """() => {
  const source = () => document.querySelector('.jp-OutputArea-output img')?.src;
  window.arm = () => { window.tick = { before: source(), start: 0, end: 0 }; };
  document.addEventListener('keydown', (event) => { if (!tick.start) tick.start = event.timeStamp; }, true);
  const look = () => {
    if (!window.tick?.start || tick.end || !source() || source() === tick.before) return;
    tick.end = -1;
    document.querySelector('.jp-OutputArea-output img').decode().then(() => requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => { tick.end = performance.now(); };
      channel.port2.postMessage(0);
    }));
  };
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true, attributes: true });
}"""

PAGE = """<!doctype html><title>rival</title>
<div id="view" style="width: {width}px; height: {height}px"></div>
<script src="/openseadragon.min.js"></script><script>
window.openOnce = (n) => new Promise((done) => {{
  window.viewer?.destroy();
  const start = performance.now();
  window.viewer = OpenSeadragon({{ id: "view", showNavigationControl: false, tileSources: `/${{n}}.dzi` }});
  viewer.addHandler("open", () => {{
    const item = viewer.world.getItemAt(0);
    const end = () => requestAnimationFrame(() => done(performance.now() - start));
    if (item.getFullyLoaded()) end(); else item.addOnceHandler("fully-loaded-change", end);
  }});
}});
</script>"""


def interact(page, url: str, project: Path, repeats: int) -> list[float]:
    """Milliseconds of a tick of `ipywidgets.interact` over a matplotlib figure, in JupyterLab."""
    import serving

    arm = project / "outputs" / "wide" / "1x" / "work" / "maps"
    code = INTERACT.format(slide=project / "outputs/cohorts/wide/S1.tif", map=next(arm.rglob("S1.tif")))
    notebook = json.loads((project / "notebooks" / "one.ipynb").read_text())
    notebook["cells"][0]["source"] = code
    (project / "notebooks" / "rival.ipynb").write_text(json.dumps(notebook))
    page = page.context.new_page()
    # A workspace of its own: in the other one the other notebook would be opened again, and run in its place.
    serving.open_notebook(
        page, url.replace("/lab?", "/lab/workspaces/rival/tree/notebooks/rival.ipynb?"), "rival.ipynb"
    )
    shown = page.locator(".jp-OutputArea-output img").first
    shown.wait_for(timeout=120_000)
    page.evaluate(WATCH)
    handle = page.locator(".noUi-handle").first
    found = []
    for step in range(TICKS * repeats):
        page.evaluate("arm()")
        handle.focus()
        page.keyboard.press("ArrowLeft" if step % 2 else "ArrowRight")
        page.wait_for_function("tick.end > 0")
        found.append(page.evaluate("tick.end - tick.start"))
        page.wait_for_timeout(200)
    return found


def open_sea_dragon(browser, slide: Path, repeats: int, size_px: tuple[int, int] = (920, 560)) -> list[float] | str:
    """Milliseconds to the first view of a slide, from OpenSlide's Deep Zoom tiles; or why that was not measured."""
    script = WORK / "rival" / "node_modules" / "openseadragon" / "build" / "openseadragon" / "openseadragon.min.js"
    if not script.is_file():
        if shutil.which("npm") is None:
            return "not measured: there is no npm"
        (WORK / "rival").mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--prefix", str(WORK / "rival"), "openseadragon"]
        if subprocess.run(install, check=False, capture_output=True).returncode or not script.is_file():
            return "not measured: npm could not fetch it"
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(slide, script, size_px))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    try:
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        return [page.evaluate("n => openOnce(n)", n) for n in range(max(3, repeats))]
    finally:
        page.context.close()
        server.shutdown()


def _handler(slide: Path, script: Path, size_px: tuple[int, int]) -> type[BaseHTTPRequestHandler]:
    from openslide import OpenSlide
    from openslide.deepzoom import DeepZoomGenerator

    opened: dict[str, DeepZoomGenerator] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Nothing: the figures are printed."""

        def do_GET(self):
            path = self.path.lstrip("/")
            if not path:
                return self.give("text/html", PAGE.format(width=size_px[0], height=size_px[1]).encode())
            if path == script.name:
                return self.give("text/javascript", script.read_bytes())
            if path.endswith(".dzi"):  # a slide that is opened, as the page opens it
                opened[path.removesuffix(".dzi")] = zoom = DeepZoomGenerator(OpenSlide(str(slide)), 254, 1)
                return self.give("application/xml", zoom.get_dzi("jpeg").encode())
            if path.count("/") != 2:
                return self.send_error(404)
            name, level, tile = path.split("/")
            column, row = tile.removesuffix(".jpeg").split("_")
            data = BytesIO()
            opened[name.removesuffix("_files")].get_tile(int(level), (int(column), int(row))).save(
                data, "JPEG", quality=88
            )
            return self.give("image/jpeg", data.getvalue())

        def give(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
