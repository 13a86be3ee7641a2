"""A coarse network lets the fine one look at a tenth of the tissue: what that takes of the fine network's own time.

One slide as `bench_full_slide` has it (80,000 x 60,000 px at 40x, 40 % tissue): at 20x as a whole, then again in the
same process under a screen at 4x. Goals: ``cascade_wall_over_full`` at most 0.2, the coarse network's run included;
``cascade_overhead`` (over that run, and the full run's time for as many windows as are run) at most 0.05.

Weights are random, so that what the coarse network marks is a texture, all over the tissue: its map is made and cut
for their time, and the screen that is used is of a tenth of the tissue in four discs, drawn before the clock starts.
Tissue is searched anew for both runs, as for a slide that was not met before. The same area in smaller pieces
touches more windows: ``cascade_windows_share`` says how many were run. For a smaller slide, the environment variable
TLSKIT_BENCH_SLIDE_PX=16384x12288 (its discs are small beside a window, so that the goals are not for it).
"""

import dataclasses
import os
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from tests.benchmarks import bench_full_slide, bench_inference, harness, made

FINE_MPP, COARSE_MPP, KEPT, DISCS = 0.5, 2.5, 0.1, 4
OPTIONS = {"overlap": bench_full_slide.OVERLAP, "batch_size": 4, "progress": False, "resume": False}


def main(repeats=1):
    from tlskit.cohort import from_slides, slide_rows
    from tlskit.maps import inference, make_screen, open_map
    from tlskit.networks import engines, hardware
    from tlskit.slides import open_slide, tissue_mask

    asked = os.environ.get("TLSKIT_BENCH_SLIDE_PX", "{}x{}".format(*bench_full_slide.SIZE_PX0))
    path = made.whole(*map(int, asked.split("x")), bench_full_slide.TISSUE_FRACTION)
    (row,) = slide_rows(from_slides([path]))
    hardware.tune_allocator()
    networks, sources = {}, {}
    for name, mpp in (("fine", FINE_MPP), ("coarse", COARSE_MPP)):
        networks[name] = SimpleNamespace(**vars(bench_inference.network(mpp)) | {"sha256": name})
        layout = inference.layout_for(networks[name], overlap=OPTIONS["overlap"])
        sources[name] = engines.EngineSource(networks[name], window_px=layout.window_px, device="cpu")
        with open_slide(path) as slide:  # engines are made and checked before the clock starts, for both runs
            sources[name].get(inference.typical_windows(networks[name], slide, layout, 8))
            discs = a_tenth(tissue_mask(slide))
    seconds: dict[str, float] = {}

    def predict(name: str, out: Path, **options) -> dict:
        out.unlink(missing_ok=True)
        start = time.perf_counter()
        found = inference.predict_row(networks[name], row, out, sources[name], **OPTIONS, **options)
        seconds[out.stem] = time.perf_counter() - start
        return found

    def screen_for(_):
        out = harness.WORK / "cascade_coarse.tif"
        predict("coarse", out)
        with open_map(out) as found:
            return dataclasses.replace(make_screen(found, threshold=0.5, grow_um=64.0), area=discs)

    full = predict("fine", harness.WORK / "cascade_full.tif")
    run = predict("fine", harness.WORK / "cascade_screened.tif", screen_for=screen_for)
    for name in ("full", "screened", "coarse"):
        (harness.WORK / f"cascade_{name}.tif").unlink()
    whole, cascade, coarse = (seconds[f"cascade_{name}"] for name in ("full", "screened", "coarse"))
    share = run["windows"] / full["windows"]
    harness.report(
        "cascade",
        {
            "cascade_slide_px": asked,
            "cascade_wall_over_full": cascade / whole,
            "cascade_overhead": cascade / (coarse + share * whole) - 1,
            "cascade_windows_share": share,
            "cascade_coarse_over_full": coarse / whole,
            "cascade_full_minutes": whole / 60,
            "cascade_full_windows": full["windows"],
            "cascade_engine": f"{run['engine']} {run['precision']}",
            "cascade_peak_mb": harness.peak_mb(),
        },
        seconds={name: [value] for name, value in seconds.items()},
    )


def a_tenth(tissue):
    """`KEPT` of the tissue: `DISCS` discs, each as deep in what is left of it as can be."""
    height, width = tissue.mask.shape
    left, mask = tissue.mask.copy(), np.zeros((height, width), bool)
    wanted = KEPT * left.sum() / DISCS
    y, x = np.ogrid[:height, :width]
    for _ in range(DISCS):
        depth = cv2.distanceTransform(left.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        disc = (y - row) ** 2 + (x - column) ** 2 <= wanted / np.pi
        mask |= disc
        left &= ~disc
    return dataclasses.replace(tissue, mask=mask)


if __name__ == "__main__":
    main()
