"""Slider to picture and to scores in a browser, for a slide of 80,000 x 60,000 px with four maps; memory of the kernel.

Milliseconds from the input event to the end of the frame that shows its effect, of the page (`tlskit app`) and of
JupyterLab: the threshold by arrow key and by dragging, for the whole slide, a closer field, and that field at all four
magnifications side by side; the magnification (first: half a second after the field itself has come); and, on the
page, from the double click on a slide's card to the whole of its first view. `GOALS` are what is promised of them.

Beside them, in the same browser: the threshold of the usual `ipywidgets.interact` over a matplotlib figure of the whole
slide, already in memory; and the first view by OpenSeadragon of OpenSlide's Deep Zoom tiles (where npm can fetch it).
"""

import json
import statistics
import sys

import cv2
import numpy as np
import pandas as pd
import psutil
import shapely
import yaml

from tests.benchmarks import explore_rivals as rivals
from tests.benchmarks import made
from tests.benchmarks.harness import ROOT, WORK, report
from tlskit import units
from tlskit.maps import map_writer
from tlskit.outlines import reading as annotations
from tlskit.study import runs

WIDTH, HEIGHT = 80_000, 60_000
MAGNIFICATIONS = (1, 4, 10, 20)
COARSE_MPP = 10.0
PROJECT = WORK / "explore"
#: Ticks of a slider and view in one repeat.
TICKS = 12

#: What is promised of the page, ms: what was measured, which of its figures, and the most that it may be.
GOALS = (
    ("threshold_tick_picture", "median", 30), ("threshold_tick_picture", "p95", 80),
    ("magnification_first_picture", "median", 120), ("first_view", "median", 1500),
)  # fmt: skip

#: Where the slider is listened to: a tick begins with the input event's own time, and its picture and its scores are
#: there when the frame that holds them is over.
WATCH = """() => {
  const state = () => {
    const canvas = document.querySelector('.tlskit-view canvas');
    const at = document.querySelector('.tlskit-scores');
    return { picture: `${canvas.dataset.map} ${canvas.dataset.cut}`,
             scores: `${canvas.dataset.map} ${at?.dataset.threshold} ${at?.textContent}`,
             whole: canvas.dataset.missing === '0' };
  };
  const painted = (then) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => then(performance.now());
    channel.port2.postMessage(0);
  });
  window.tick = null;
  window.arm = () => { window.tick = { before: state(), start: 0, picture: 0, scores: 0 }; };
  const begin = (event) => { if (tick && !tick.start) tick.start = event.timeStamp; };
  for (const kind of ['keydown', 'pointermove']) document.addEventListener(kind, begin, true);
  const look = () => {
    if (!tick?.start) return;
    const now = state(), mine = tick;
    for (const what of ['picture', 'scores']) {
      if (mine[what] || mine.before[what] === now[what] || (what === 'picture' && !now.whole)) continue;
      mine[what] = -1;
      // The canvas says so within the frame that draws it; the scores are laid out and drawn in the next one.
      if (what === 'picture') {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => { mine[what] = performance.now(); };
        channel.port2.postMessage(0);
      } else painted((end) => { mine[what] = end; });
    }
  };
  const all = { childList: true, subtree: true, characterData: true, attributes: true };
  new MutationObserver(look).observe(document.querySelector('.tlskit-view'), all);
  new MutationObserver(look).observe(document.querySelector('.tlskit-scores').closest('.widget-vbox'), all);
}"""


def main(repeats: int) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    import serving

    if serving.chromium_path() is None:
        raise SystemExit("No Chromium on this machine: apt-get install chromium")
    run_dir = made_run()
    figures: dict[str, float | str] = {"slide_px": f"{WIDTH} x {HEIGHT}", "maps": ", ".join(map(_name, MAGNIFICATIONS))}
    seconds = {}
    with serving.chromium() as browser:
        for place, server in (("page", serving.app), ("lab", serving.lab)):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.set_default_timeout(60_000)
            with server(PROJECT) as (url, pid):
                if place == "page":
                    page.goto(url)
                else:
                    serving.open_notebook(page, url, "notebooks/one.ipynb")
                before = _processor_s(pid)
                times = _measure(page, repeats)
                ticks = sum(len(found) for what, found in times.items() if what.endswith("_picture"))
                figures[f"{place}_processor_ms_per_tick"] = 1000 * (_processor_s(pid) - before) / ticks
                if place == "page":
                    times["first_view"] = _first_views(page, repeats)
                else:
                    times["interact_threshold"] = rivals.interact(page, url, PROJECT, repeats)
                kernels = [child.memory_info().rss for child in psutil.Process(pid).children(recursive=True)]
                figures[f"{place}_kernel_mb"] = max(kernels) / 1e6
            page.context.close()
            every = [ms for what, of in times.items() if what in TICKED for ms in of]
            times["threshold_tick_picture"] = every
            for what, found in times.items():
                figures[f"{place}_{what}_median_ms"] = statistics.median(found)
                figures[f"{place}_{what}_p95_ms"] = float(np.percentile(found, 95))
                seconds[f"{place}_{what}"] = [ms / 1000 for ms in found]
        found = rivals.open_sea_dragon(browser, PROJECT / "outputs/cohorts/wide/S1.tif", repeats)
    if isinstance(found, str):
        figures["open_sea_dragon_first_view"] = found
    else:
        figures["open_sea_dragon_first_view_median_ms"] = statistics.median(found)
        seconds["open_sea_dragon_first_view"] = [ms / 1000 for ms in found]
    for what, which, most in GOALS:
        ms = figures[f"page_{what}_{which}_ms"]
        figures[f"goal_{what}_{which}"] = f"{ms:.0f} ms, at most {most}: {'held' if ms <= most else 'NOT HELD'}"
    figures["ticks_each"] = f"{min(map(len, seconds.values()))} to {max(map(len, seconds.values()))}"
    figures["run"] = run_dir.name
    report("explore", figures, seconds=seconds)


def _measure(page, repeats: int) -> dict[str, list[float]]:
    """Milliseconds by what was moved and what was waited for."""
    from looking import painted, slider

    page.wait_for_selector(".tlskit-view canvas", state="attached")
    page.evaluate("document.querySelector('.tlskit-view canvas').scrollIntoView()")
    painted(page)
    page.wait_for_selector(".tlskit-scores")
    page.evaluate(WATCH)
    times: dict[str, list[float]] = {}

    def tick(label: str, act) -> None:
        page.evaluate("arm()")
        act()
        page.wait_for_function("tick.picture > 0 && tick.scores > 0")
        found = page.evaluate("tick")
        for what in ("picture", "scores"):
            times.setdefault(f"{label}_{what}", []).append(found[what] - found["start"])
        page.wait_for_timeout(100)

    first = True
    for _ in range(repeats):
        # The whole slide, then closer: the canvas takes + as a key.
        for view, closer in (("whole", 0), ("tls", 8)):
            canvas = page.locator(".tlskit-view canvas").first
            canvas.focus()
            page.keyboard.press("Home")
            for _ in range(closer):
                page.keyboard.press("+")
            painted(page)
            page.wait_for_timeout(500)
            handle = slider(page, "Magnification")
            handle.focus()
            for key in ["ArrowRight"] * 3 + ["ArrowLeft"] * 3:
                # What a map shows for the first time must come from the kernel.
                label = "magnification_first" if first and key == "ArrowRight" else "magnification"
                tick(label, lambda key=key: page.keyboard.press(key))
            for n, _ in enumerate(MAGNIFICATIONS):
                if n:
                    handle.focus()
                    tick("magnification", lambda: page.keyboard.press("ArrowRight"))
                slider(page, "Threshold").focus()
                for step in range(TICKS // 2):
                    key = "ArrowLeft" if step % 2 else "ArrowRight"
                    tick(f"threshold_{view}", lambda key=key: page.keyboard.press(key))
                _drag(page, slider(page, "Threshold"), lambda act, label=f"drag_{view}": tick(label, act))
            handle.focus()
            page.keyboard.press("Home")
            painted(page)
        together = page.get_by_label("all magnifications side by side")
        together.check()
        painted(page)
        slider(page, "Threshold").focus()
        for step in range(TICKS):
            key = "ArrowLeft" if step % 2 else "ArrowRight"
            tick("threshold_side_by_side", lambda key=key: page.keyboard.press(key))
        together.uncheck()
        painted(page)
        first = False
    return times


def _drag(page, handle, tick) -> None:
    """Drag a handle to and fro, a few pixels at a time."""
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, TICKS // 2 + 1):
        tick(lambda step=step: page.mouse.move(x + 6 * step, y))
    page.mouse.move(x, y)
    page.mouse.up()
    page.wait_for_timeout(200)


#: The pictures of the threshold's ticks: those of one map, whatever is shown of it and however the slider is moved.
TICKED = [f"{how}_{view}_picture" for how in ("threshold", "drag") for view in ("whole", "tls")]


def _processor_s(pid: int) -> float:
    """Seconds of processor time of a server and its kernels: what a tick costs, however loud the machine is."""
    server = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in (server, *server.children(recursive=True)))


#: From the double click on a card to the frame that shows all of its slide.
FIRST = """name => {
  window.first = { start: 0, end: 0, before: document.querySelector('.tlskit-view canvas') };
  document.addEventListener('dblclick', (event) => { first.start = event.timeStamp; }, { capture: true, once: true });
  const look = () => {
    const canvas = document.querySelector('.tlskit-view canvas');
    if (!first.start || first.end || !canvas || canvas === first.before) return;
    if (canvas.dataset.slide !== name || canvas.dataset.missing !== '0') return;
    first.end = -1;
    const channel = new MessageChannel();
    channel.port1.onmessage = () => { first.end = performance.now(); };
    channel.port2.postMessage(0);
  };
  const all = { childList: true, subtree: true, attributes: true };
  new MutationObserver(look).observe(document.body, all);
}"""


def _first_views(page, repeats: int) -> list[float]:
    """Milliseconds to the first view of the slide, opened from its folder; nothing of it is held, but by the disk."""
    page.get_by_role("button", name="A slide from a folder").click()
    card = page.get_by_role("option", name="S1.tif")
    card.locator("img[src]").wait_for()
    found = []
    for _ in range(max(3, repeats)):
        page.evaluate(FIRST, "S1.tif")
        card.dblclick()
        page.wait_for_function("first.end > 0")
        found.append(page.evaluate("first.end - first.start"))
        page.wait_for_timeout(1500)
    return found


def _name(magnification: float) -> str:
    return f"{magnification:g}x"


def made_run():
    """A run of one slide in a project of its own: smooth noise on tissue, high where an outline is; no training."""
    run_dir = PROJECT / "outputs" / "wide"
    for folder in ("notebooks", "params", "outputs/cohorts/wide"):
        (PROJECT / folder).mkdir(parents=True, exist_ok=True)
    code = 'from tlskit import explore\nexplore.slide("wide")'
    cell = {"cell_type": "code", "execution_count": None, "id": "one", "metadata": {}, "outputs": [], "source": code}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (PROJECT / "notebooks" / "one.ipynb").write_text(json.dumps(notebook))
    (PROJECT / "notebooks" / "app.ipynb").write_text((ROOT / "notebooks" / "app.ipynb").read_text())
    if (run_dir / "run.yaml").exists():
        return run_dir
    cohort_dir = PROJECT / "outputs" / "cohorts" / "wide"
    made.halving_of(cohort_dir / "S1.tif", WIDTH, HEIGHT)
    rng = np.random.default_rng(0)
    centres = np.stack([rng.uniform(0.05, 0.95, 40) * WIDTH, rng.uniform(0.3, 0.7, 40) * HEIGHT], axis=1)
    outlines = [shapely.Point(*c).buffer(r) for c, r in zip(centres, rng.uniform(300, 1800, 40), strict=True)]
    annotations.write_geojson(cohort_dir / "S1.geojson", outlines, class_name="TLS")
    (cohort_dir / "manifest.csv").write_text(
        "slide_id,patient_id,cancer_type,slide_path,annotation_path\nS1,P1,lung,S1.tif,S1.geojson\n"
    )
    coarse, truth = _coarse(outlines, rng)
    for magnification in MAGNIFICATIONS:
        options = {"magnification": magnification, "outputs_dir": PROJECT / "outputs"}
        step = runs.open_run("wide", "01_tiling", **options)
        step.record(magnification=magnification, tile_px=512, target_class="TLS", resolution_by="mpp")
        mpp = units.mpp_for_magnification(magnification)
        _write_map(step.maps_dir / "S1.tif", coarse, mpp)
        rows = [
            {"slide_id": "S1", "patient_id": "P1", "cancer_type": "lung", "split": "test", "region": "slide",
             "truth": code, "bin": value, "count": round(count * (COARSE_MPP / mpp) ** 2)}
            for code in (0, 1)
            for value, count in enumerate(np.bincount(coarse[truth == bool(code)], minlength=256))
        ]  # fmt: skip
        runs.open_run("wide", "05_wsi_evaluation", **options).table(pd.DataFrame(rows), "histograms")
    settings = {"run_name": "wide", "manifest": "outputs/cohorts/wide/manifest.csv", "target_class": "TLS"}
    (run_dir / "run.yaml").write_text(yaml.safe_dump(settings))
    return run_dir


def _coarse(outlines, rng) -> tuple[np.ndarray, np.ndarray]:
    """The map that all magnifications are enlarged from, and its truth, both at `COARSE_MPP`."""
    width, height = round(WIDTH * made.MPP0 / COARSE_MPP), round(HEIGHT * made.MPP0 / COARSE_MPP)
    truth = annotations.rasterise(
        outlines, x_px=0, y_px=0, width_px=width, height_px=height, mpp=COARSE_MPP, mpp0=made.MPP0
    )
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 6)
    noise = 0.15 + 0.12 * noise / noise.std()
    noise[: height // 4] = noise[-height // 4 :] = 0
    probability = np.clip(noise + 0.7 * cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 3), 0, 1)
    return np.rint(probability * 255).astype(np.uint8), truth


def _write_map(path, coarse: np.ndarray, mpp: float) -> None:
    factor = COARSE_MPP / mpp
    width, height = (round(side * factor) for side in coarse.shape[::-1])
    metadata = {"slide_id": "S1", "mpp0": made.MPP0, "magnification": 10 / mpp}
    with map_writer.MapWriter(path, (width, height), mpp=mpp, metadata=metadata) as writer:
        for y in range(0, height, 512):
            for x in range(0, width, 512):
                # Where a pixel's centre lies among the coarse ones.
                onto = np.float32(
                    [[1 / factor, 0, (x + 0.5) / factor - 0.5], [0, 1 / factor, (y + 0.5) / factor - 0.5]]
                )
                block = cv2.warpAffine(
                    coarse, onto, (min(512, width - x), min(512, height - y)),
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
                )  # fmt: skip
                writer.write_block(x, y, block)
        writer.commit()


if __name__ == "__main__":
    main(3)
