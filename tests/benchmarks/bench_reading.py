"""Cutting a slide into 512 px tiles with 50 % overlap: our stream against a loop of OpenSlide reads and the decoder.

Everything takes turns in one process on two threads; slides are opened before the clock starts. Each stream's windows
are compared with OpenSlide's pixels in the same run, and a stream faster than the decoder stops the run.
"""

import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import simplejpeg

from tests.benchmarks import harness, made
from tlskit.slides import slide as slides
from tlskit.tiles import tiling

SIDE_PX0 = 20_480
TILE_PX = 512
#: Side of the region that is tiled, in working pixels, where the slide is larger than that.
REGION_PX = 4096
THREADS = 2
REAL_MPP0 = 0.2529


class Case:
    """One slide at one magnification."""

    def __init__(self, path, magnification, *, mpp0=made.MPP0):
        self.path, self.mpp, self.mpp0 = path, 10 / magnification, mpp0
        with self.open() as slide:
            width = slide.size_px(self.mpp)[0]
            self.level = slide.level_for(self.mpp)
            self.reader = slide.reader_for(self.mpp)
            self.level_downsample = slide.level_downsamples[self.level]
        side = min(REGION_PX, width)
        start = (width - side) // 2 // 256 * 256
        self.xy = tiling.tile_grid((side, side), TILE_PX, overlap=0.5) + start
        self.start, self.side = start, side
        self.d = self.mpp / mpp0
        #: CPU seconds of every timed part, all threads together: hardly moved by what else the machine is doing.
        self.cpu = {"loop": [], "stream": [], "limit": []}
        self.ratio = self.d / self.level_downsample

    def open(self, fast=True):
        return slides.open_slide(self.path, mpp_override=self.mpp0, fast=fast)

    def stream(self, fast=True):
        """Seconds to have every window of the region in hand."""
        with self.open(fast) as slide:
            slide.reader_for(self.mpp)  # checks the level, as opening does for level 0
            start, cpu = time.perf_counter(), time.process_time()
            count = sum(1 for _ in slide.windows(self.xy, TILE_PX, mpp=self.mpp, threads=THREADS))
            seconds = time.perf_counter() - start
            if fast:
                self.cpu["stream"].append(time.process_time() - cpu)
        assert count == len(self.xy)
        return seconds

    def loop(self):
        """Seconds of one thread that reads tile by tile from the best level, row by row as its cache likes it."""
        with openslide.OpenSlide(self.path) as scan:
            start, cpu = time.perf_counter(), time.process_time()
            for x, y in self.xy.tolist():
                self.reference(scan, x, y)
            self.cpu["loop"].append(time.process_time() - cpu)
            return time.perf_counter() - start

    def reference(self, scan, x, y):
        """A tile as a plain script would cut it: `read_region` and a resize."""
        side = round(TILE_PX * self.ratio)
        at = (round(x * self.d), round(y * self.d))
        pixels = np.asarray(scan.read_region(at, self.level, (side, side)))[..., :3]
        if side == TILE_PX:
            return pixels
        return cv2.resize(pixels, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)

    def limit(self):
        """A function: seconds in which two threads decode every JPEG tile under the region once, from memory."""
        with self.open() as slide:
            level = slide._level(self.level)
            low = int(self.start * self.ratio) // made.TILE_PX
            rows, columns = level.counts.shape
            high = -(-int((self.start + self.side) * self.ratio) // made.TILE_PX)
            coded = [
                level.header + level.file.bytes_at(int(level.offsets[r, c]), int(level.counts[r, c]))[2:]
                for r in range(low, min(high, rows))
                for c in range(low, min(high, columns))
            ]

        def decode(portion):
            buffer = np.empty((made.TILE_PX, made.TILE_PX, 3), np.uint8)
            for data in portion:
                simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)

        def seconds():
            with ThreadPoolExecutor(THREADS) as pool:
                start, cpu = time.perf_counter(), time.process_time()
                list(pool.map(decode, [coded[i::THREADS] for i in range(THREADS)]))
                self.cpu["limit"].append(time.process_time() - cpu)
                return time.perf_counter() - start

        self.decoded_mpix = len(coded) * made.TILE_PX**2 / 1e6
        return seconds

    def check(self, fast=True):
        """Every window against OpenSlide, pixel by pixel; stops the run at the first difference."""
        whole = abs(self.ratio - round(self.ratio)) < 1e-9 and round(self.ratio) in (1, 2)
        with self.open(fast) as slide, self.open(False) as ours, openslide.OpenSlide(self.path) as scan:
            for i, window in slide.windows(self.xy, TILE_PX, mpp=self.mpp):
                x, y = self.xy[i].tolist()
                if whole:
                    expected = self.reference(scan, x, y)
                else:
                    expected = ours.read(x, y, TILE_PX, TILE_PX, mpp=self.mpp)
                if not np.array_equal(window, expected):
                    sys.exit(f"{self.path.name} at {self.mpp} um/px: window {x, y} differs from OpenSlide's pixels")


def main(repeats: int = 5) -> None:
    cv2.setNumThreads(1)
    halving, quartering = made.halving(SIDE_PX0), made.quartering(SIDE_PX0)
    figures, seconds = {}, {}
    cases = {
        "20x": Case(halving, 20),
        "20x_from_level0": Case(quartering, 20),
        "20x_from_level0_real_scale": Case(quartering, 20, mpp0=REAL_MPP0),
        "10x": Case(halving, 10),
        "10x_quartering": Case(quartering, 10),
        "4x": Case(halving, 4),
        "4x_quartering": Case(quartering, 4),
        "1x": Case(halving, 1),
        "1x_quartering": Case(quartering, 1),
    }
    for name, case in cases.items():
        assert case.reader == "jpeg", name
        case.check()
        candidates = {"loop": case.loop, "stream": case.stream, "limit": case.limit()}
        if name == "20x":
            case.check(fast=False)
            candidates["openslide_path"] = lambda case=case: case.stream(False)
        took = harness.interleaved(candidates, repeats=repeats)
        seconds[name] = took
        figures[f"tiling_{name}_vs_openslide_loop"] = harness.ratio(took["loop"], took["stream"])
        fraction = harness.ratio(took["limit"], took["stream"])
        if len(case.xy) > 100:  # the others are over in milliseconds, most of it starting threads
            figures[f"tiling_{name}_fraction_of_jpeg_limit"] = fraction
            figures[f"tiling_{name}_tiles_per_s"] = harness.rate(len(case.xy), took["stream"])
            figures[f"tiling_{name}_decoded_mpix_per_s"] = harness.rate(case.decoded_mpix, took["stream"])
            used = {part: statistics.median(values) for part, values in case.cpu.items()}
            figures[f"tiling_{name}_cpu_vs_openslide_loop"] = used["loop"] / used["stream"]
            figures[f"tiling_{name}_cpu_fraction_of_jpeg_limit"] = used["limit"] / used["stream"]
            figures[f"openslide_loop_{name}_tiles_per_s"] = harness.rate(len(case.xy), took["loop"])
            if used["stream"] < 0.9 * used["limit"]:  # by CPU time: a busy machine may favour either by the clock
                sys.exit(f"{name}: less work than the decoder's, which cannot be: pixels are missing")
        if name == "20x":
            figures["tiling_fraction_of_jpeg_limit"] = fraction
            figures["tiling_openslide_path_vs_loop"] = harness.ratio(took["loop"], took["openslide_path"])
    figures |= random_reads(repeats, cases["20x_from_level0"], seconds)
    made.quartering(SIDE_PX0 // 2)  # here, lest making it counts as streaming it
    peaks = {side: _peak_mb(side) for side in (SIDE_PX0 // 2, SIDE_PX0)}
    figures["tiling_peak_mb"] = peaks[SIDE_PX0]
    figures["tiling_peak_mb_growth_area_x4"] = peaks[SIDE_PX0] - peaks[SIDE_PX0 // 2]
    figures["open_slide_ms"] = 1000 * statistics.median(_opening(halving) for _ in range(9))
    harness.report("reading", figures, seconds=seconds)


def random_reads(repeats, case, seconds) -> dict:
    """Single tiles in random order, as a shuffled epoch asks for them: one thread, no tile twice."""
    order = np.random.default_rng(0).permutation(len(case.xy))[:60]

    def ours(fast):
        with case.open(fast) as slide:
            start = time.perf_counter()
            for i in order:
                slide.read(*case.xy[i].tolist(), TILE_PX, TILE_PX, mpp=case.mpp)
            return time.perf_counter() - start

    def plain():
        with openslide.OpenSlide(case.path) as scan:
            start = time.perf_counter()
            for i in order:
                case.reference(scan, *case.xy[i].tolist())
            return time.perf_counter() - start

    took = harness.interleaved({"fast": lambda: ours(True), "plain": plain}, repeats=repeats)
    seconds["random_reads_20x_from_level0"] = took
    return {
        "random_read_20x_from_level0_vs_openslide": harness.ratio(took["plain"], took["fast"]),
        "random_read_20x_from_level0_ms": 1000 / harness.rate(len(order), took["fast"]),
    }


def _opening(path) -> float:
    start = time.perf_counter()
    slides.open_slide(path).close()
    return time.perf_counter() - start


def _peak_mb(side: int) -> float:
    """Peak resident memory of a process that streams a whole slide at 20x from level 0."""
    code = f"from tests.benchmarks import bench_reading as b; print(b.stream_whole({side}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def stream_whole(side: int) -> float:
    with slides.open_slide(made.quartering(side)) as slide:
        xy = tiling.tile_grid(slide.size_px(0.5), TILE_PX, overlap=0.5)
        for _ in slide.windows(xy, TILE_PX, mpp=0.5, threads=THREADS):
            pass
    return harness.peak_mb()
