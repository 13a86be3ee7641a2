"""Counts of a 40,000 x 30,000 px map at all 255 thresholds: Mpx/s and peak memory, against one threshold by numpy.

The map is a TIFF of 20 outlines' worth of blurred probability with noise in the tissue around them, read band by band.
"""

import subprocess
import sys

import numpy as np
import shapely

from tests.benchmarks.harness import ROOT, WORK, interleaved, rate, report
from tlskit.evaluation import counting
from tlskit.evaluation.opened_slides import Opened
from tlskit.maps import map_writer, probmaps
from tlskit.outlines.truth import Truth
from tlskit.slides.tissue import Tissue

WIDTH, HEIGHT, MPP = 40_000, 30_000, 0.5
TILE_PX = 512


def outlines():
    rng = np.random.default_rng(0)
    centres = np.stack([rng.uniform(3000, WIDTH - 3000, 60), rng.uniform(3000, HEIGHT - 3000, 60)], axis=1)
    return [shapely.Point(*c).buffer(r) for c, r in zip(centres, rng.uniform(200, 900, 60), strict=True)]


def made_map():
    """Noise of low probability over three quarters of the slide, high inside the outlines."""
    path = WORK / "counts_map.tif"
    if not path.exists():
        rng = np.random.default_rng(1)
        noise = rng.gamma(1.5, 8, (512, 512)).clip(0, 120).astype(np.uint8)
        truth = Truth(outlines(), mpp0=MPP)
        path.parent.mkdir(parents=True, exist_ok=True)
        with map_writer.MapWriter(path, (WIDTH, HEIGHT), mpp=MPP, metadata={"mpp0": MPP}) as writer:
            for y in range(0, HEIGHT, 512):
                for x in range(0, WIDTH, 512):
                    w, h = min(512, WIDTH - x), min(512, HEIGHT - y)
                    block = noise[:h, :w] if x < WIDTH * 3 // 4 else np.zeros((h, w), np.uint8)
                    writer.write_block(
                        x, y, np.where(truth.at(x, y, w, h, mpp=MPP), 255 - block, block).astype(np.uint8)
                    )
    return path


def count(path):
    """What `evaluate_slides` does for one slide, its map at hand."""
    shape = (round(HEIGHT * MPP / 8), round(WIDTH * MPP / 8))
    on_tissue = Tissue(np.ones(shape, bool), 8.0, MPP)
    with probmaps.open_map(path) as prob_map:
        opened = Opened(prob_map, Truth(outlines(), mpp0=MPP), on_tissue, (WIDTH, HEIGHT), on_tissue)
        ids = {"slide_id": "s", "patient_id": "p", "cancer_type": "c"}
        return counting._slide_counts(ids, opened, {"fixed": 0.5}, TILE_PX)


def one_threshold(path):
    """The plain way, for scale: four sums of boolean bands at a single threshold."""
    truth = Truth(outlines(), mpp0=MPP)
    counts = np.zeros(4, np.int64)
    with probmaps.open_map(path) as prob_map:
        for y, band in prob_map.bands(TILE_PX):
            target, positive = truth.at(0, y, WIDTH, len(band), mpp=MPP), band >= 128
            pairs = ((positive, target), (positive, ~target), (~positive, target), (~positive, ~target))
            counts += [np.count_nonzero(a & b) for a, b in pairs]
    return counts


def read_only(path):
    with probmaps.open_map(path) as prob_map:
        for _ in prob_map.bands(TILE_PX):
            pass


def peak_mb(path) -> float:
    """Peak resident memory of a process that only counts, imports included (Linux)."""
    code = (
        "import sys; from tests.benchmarks import bench_counts as b, harness; from pathlib import Path\n"
        "b.count(Path(sys.argv[1])); print(harness.peak_mb())"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(out.stdout)


def main(repeats: int = 3) -> None:
    path = made_map()
    counted, plain = count(path).slides.iloc[0], one_threshold(path)
    if tuple(plain) != tuple(counted[c] for c in ("tp", "fp", "fn", "tn")):
        raise SystemExit("counts: the two ways of counting disagree")
    seconds = interleaved(
        {
            "all_thresholds": lambda: count(path),
            "one_threshold_numpy": lambda: one_threshold(path),
            "read_only": lambda: read_only(path),
        },
        repeats=repeats,
    )
    mpx = WIDTH * HEIGHT / 1e6
    figures = {f"counts_{name}_mpx_per_s": rate(mpx, values) for name, values in seconds.items()}
    report("counts", figures | {"counts_peak_memory_mb": peak_mb(path)}, seconds=seconds)


if __name__ == "__main__":
    main()
