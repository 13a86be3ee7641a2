"""Damaged slides by the thousand: open, check, one read at each magnification, in workers that may die.

    python tests/slide_fuzzer.py 100000 --workers 2 --seed 0

Ten small slides of five formats are made; each mutant changes 1-3 bytes of tags, an offset, some bytes of a tile, or
the length of the file. What a mutant gives is compared with OpenSlide itself, read in the same worker: where both give
the pixels of level 0, they must be the same. Workers are processes with limits of time and memory; one that dies or
hangs is replaced, and its mutant counted.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import tifffile
from made_slides import aperio_description, picture, quartering_slide, vips_slide

#: Seconds that a read may take, and a whole mutant; bytes that a worker may add to what it has.
READ_S, MUTANT_S, MEMORY_BYTES = 10.0, 60.0, 3 * 2**30

_MPPS = (0.25, 0.5, 1.0, 2.5, 10.0)


def make_seeds(folder: Path) -> list[Path]:
    """Ten slides of five formats: Aperio JPEG (three codings), Aperio LZW, generic TIFF, OME-TIFF and OME-Zarr."""
    import zarr

    folder.mkdir(parents=True, exist_ok=True)
    image = picture(700, 520)
    image[:130] = 242
    seeds = [
        vips_slide(folder / "aperio_420.svs", image),
        vips_slide(folder / "aperio_rgb.svs", image, quality=95),
        quartering_slide(folder / "aperio_quarter.svs", image, coding="ycbcr_422", tile_px=128, factors=(1, 4)),
        quartering_slide(folder / "aperio_big.svs", image, coding="rgb_444", tile_px=240, factors=(1, 4, 16)),
        vips_slide(folder / "generic.tif", image, description=False, xres=4000.0, yres=4000.0),
        vips_slide(folder / "generic_deflate.tif", image, description=False, xres=4000.0, yres=4000.0,
                   compression="deflate"),
    ]  # fmt: skip
    with tifffile.TiffWriter(folder / "aperio_lzw.svs") as out:
        for factor in (1, 2):
            level = cv2.resize(image, (700 // factor, 520 // factor), interpolation=cv2.INTER_AREA)
            text = aperio_description(700, 520, mpp=0.25, power=40)
            out.write(level, tile=(128, 128), photometric="rgb", compression="lzw", metadata=None,
                      subfiletype=int(factor > 1), description=text)  # fmt: skip
    seeds.append(folder / "aperio_lzw.svs")
    for name, compression in (("ome_deflate.ome.tif", "deflate"), ("ome_jpeg.ome.tif", "jpeg")):
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        with tifffile.TiffWriter(folder / name, ome=True) as out:
            kind = {"tile": (128, 128), "photometric": "rgb", "compression": compression}
            out.write(image, subifds=1, metadata=metadata, **kind)
            out.write(cv2.resize(image, (350, 260), interpolation=cv2.INTER_AREA), subfiletype=1, **kind)
        seeds.append(folder / name)
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    group = zarr.open_group(str(folder / "scan.zarr"), mode="w", zarr_format=2)
    datasets = []
    for i, factor in enumerate((1, 2)):
        level = cv2.resize(image, (700 // factor, 520 // factor), interpolation=cv2.INTER_AREA)
        array = group.create_array(str(i), shape=(3, *level.shape[:2]), chunks=(3, 128, 128), dtype="uint8")
        array[:] = np.moveaxis(level, -1, 0)
        scale = [{"type": "scale", "scale": [1.0, 0.25 * factor, 0.25 * factor]}]
        datasets.append({"path": str(i), "coordinateTransformations": scale})
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    seeds.append(folder / "scan.zarr")
    return seeds


def tag_ranges(data: bytes) -> list[tuple[int, int]]:
    """Byte ranges of the directories of a TIFF: (start, stop) of each list of tags."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack(f"{order}H", data[2:4])[0] == 43
    at = struct.unpack(f"{order}Q", data[8:16])[0] if big else struct.unpack(f"{order}I", data[4:8])[0]
    found = []
    while at and at + 8 < len(data) and len(found) < 12:
        count = (
            struct.unpack(f"{order}Q", data[at : at + 8])[0]
            if big
            else struct.unpack(f"{order}H", data[at : at + 2])[0]
        )
        stop = at + (8 + 20 * count if big else 2 + 12 * count)
        found.append((at, stop))
        after = data[stop : stop + (8 if big else 4)]
        at = struct.unpack(f"{order}{'Q' if big else 'I'}", after)[0] if len(after) == (8 if big else 4) else 0
    return found


def mutate(data: bytes, rng: np.random.Generator, ranges: list[tuple[int, int]]) -> tuple[bytes, str]:
    """A damaged copy, and the kind of damage."""
    kind = rng.choice(["tags", "offsets", "tile", "cut"], p=[0.5, 0.2, 0.2, 0.1])
    out = bytearray(data)
    if kind == "cut":
        return bytes(out[: int(rng.integers(0, len(out)))]), kind
    if kind == "tile" or not ranges:
        start = int(rng.integers(8, len(out)))
        for _ in range(int(rng.integers(1, 9))):
            out[min(len(out) - 1, start + int(rng.integers(0, 400)))] = int(rng.integers(0, 256))
        return bytes(out), kind
    start, stop = ranges[int(rng.integers(0, len(ranges)))]
    if kind == "offsets":  # the arrays that directories point to lie beside them
        start, stop = max(8, start - 600), min(len(out), stop + 600)
    for _ in range(int(rng.integers(1, 4))):
        out[int(rng.integers(start, min(stop, len(out))))] = int(rng.integers(0, 256))
    return bytes(out), str(kind)


def write_mutant(seed: Path, path: Path, rng: np.random.Generator) -> str:
    """A mutant of a seed under `path`, and its kind; of a Zarr one file is damaged, or gone."""
    if seed.is_dir():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(seed, path)
        files = sorted(p for p in path.rglob("*") if p.is_file())
        victim = files[int(rng.integers(0, len(files)))]
        if rng.random() < 0.2:
            victim.unlink()
            return "gone"
        data, kind = mutate(victim.read_bytes() + b"", rng, []) if victim.stat().st_size > 16 else (b"", "cut")
        victim.write_bytes(data)
        return kind
    content = seed.read_bytes()
    data, kind = mutate(content, rng, tag_ranges(content))
    path.write_bytes(data)
    return kind


def outcome(path: Path, *, wanted) -> dict:
    """What opening, checking and reading gives: a row that says which step ended it, and how it compares."""
    import openslide

    from tlskit.cohort.inspection import inspect_slide
    from tlskit.cohort.manifest import SlideRow
    from tlskit.errors import TlskitError
    from tlskit.slides import open_slide

    row = {"open": "", "reads": 0, "lost": 0, "slowest_s": 0.0, "different": 0, "escaped": "", "compared": 0}
    start = time.perf_counter()
    step = "check"
    try:
        inspect_slide(SlideRow("s", "p", "", str(path)), wanted)
        row["check_s"] = time.perf_counter() - start
        step = "open"
        with open_slide(path) as slide:
            row["open"] = slide.reader
            for mpp in _MPPS:
                if mpp < slide.mpp0 * 0.95:
                    continue
                start, step = time.perf_counter(), f"read at {mpp:g}"
                width, height = (min(side, 700) for side in slide.size_px(mpp))
                try:
                    slide.read(0, 0, width, height, mpp=mpp)
                    row["reads"] += 1
                except TlskitError:
                    row["lost"] += 1
                row["slowest_s"] = max(row["slowest_s"], time.perf_counter() - start)
            step = "compare"
            if slide.reader in ("jpeg", "openslide"):
                width, height = (min(side, 700) for side in slide.size_px0)
                try:
                    # Ours first: what it refuses may end the process when OpenSlide is asked.
                    ours = slide.read(0, 0, width, height, mpp=slide.mpp0)
                    with openslide.OpenSlide(path) as theirs:
                        rgba = np.asarray(theirs.read_region((0, 0), 0, (width, height)))
                    row["compared"] = 1
                    opaque = rgba[..., 3] == 255
                    row["different"] = int((ours[opaque] != rgba[..., :3][opaque]).any())
                except (openslide.OpenSlideError, TlskitError):
                    pass
    except TlskitError as error:
        row["open"] = type(error).__name__
        row["ended"] = step
    except Exception as error:  # the point of the exercise
        row["escaped"] = f"{step}: {type(error).__name__}: {error}"[:300]
    return row


def _work(pipe, seeds: list[Path], folder: Path) -> None:
    import logging

    from tlskit.cohort.inspection import Wanted

    logging.disable(logging.CRITICAL)
    faulthandler.disable()
    open_now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (open_now + MEMORY_BYTES, open_now + MEMORY_BYTES))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    wanted = Wanted("TLS", magnifications=(20, 4), tile_px=64)
    while True:
        number = pipe.recv()
        if number is None:
            return
        rng = np.random.default_rng(number)
        seed = seeds[number % len(seeds)]
        path = folder / f"m{os.getpid()}{''.join(seed.suffixes)}"
        kind = write_mutant(seed, path, rng)
        pipe.send({"seed": seed.name, "kind": kind, "number": number, **outcome(path, wanted=wanted)})


class _Worker:
    def __init__(self, context, seeds, folder):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, seeds, folder), daemon=True)
        self.process.start()
        theirs.close()
        self.number, self.since = None, 0.0

    def give(self, number):
        self.number, self.since = number, time.monotonic()
        self.pipe.send(number)


def run(count: int, *, seed: int = 0, workers: int = 1, folder: Path, say=None) -> list[dict]:
    """Rows of `count` mutants: what `outcome` says, or that the worker died or hung."""
    seeds = make_seeds(folder / "seeds")
    context = multiprocessing.get_context("spawn")
    pool = [_Worker(context, seeds, folder) for _ in range(workers)]
    todo, rows = iter(range(seed * 10_000_000, seed * 10_000_000 + count)), []
    while True:
        for i, worker in enumerate(pool):
            if worker.number is None:
                number = next(todo, None)
                if number is not None:
                    worker.give(number)
                continue
            row = None
            try:
                if worker.pipe.poll(0.002):
                    row = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                row = {"number": worker.number, "seed": seeds[worker.number % len(seeds)].name, "died": True}
            if row is None and time.monotonic() - worker.since > MUTANT_S:
                row = {"number": worker.number, "seed": seeds[worker.number % len(seeds)].name, "hung": True}
            if row is not None:
                rows.append(row)
                if "died" in row or "hung" in row:
                    worker.process.kill()
                    worker.process.join()
                    pool[i] = _Worker(context, seeds, folder)
                else:
                    worker.number = None
                if say and len(rows) % 1000 == 0:
                    say(summary(rows))
        if len(rows) == count:
            break
    for worker in pool:
        worker.pipe.send(None)
        worker.process.join(5)
    return rows


def summary(rows: list[dict]) -> dict:
    """Figures of a run."""
    good = [row for row in rows if "open" in row]
    return {
        "mutants": len(rows),
        "opened": sum(row["open"] in ("jpeg", "openslide", "ome-tiff", "ome-zarr") for row in good),
        "refused": sum(row["open"] in ("SlideError", "ScaleError", "SlideGoneError") for row in good),
        "compared": sum(row["compared"] for row in good),
        "different": [row["number"] for row in good if row["different"]],
        "escaped": dict(collections.Counter(row["escaped"] for row in good if row["escaped"]).most_common(20)),
        "escaped_numbers": [row["number"] for row in good if row["escaped"]][:20],
        "died": [row["number"] for row in rows if "died" in row],
        "hung": [row["number"] for row in rows if "hung" in row],
        "slow": [(row["number"], round(row["slowest_s"], 1)) for row in good if row["slowest_s"] > READ_S],
        "slowest_s": max((row["slowest_s"] for row in good), default=0.0),
        "by_kind": dict(collections.Counter(row.get("kind", "?") for row in rows)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(given.count, seed=given.seed, workers=given.workers, folder=Path(folder),
                   say=lambda figures: print(json.dumps(figures), file=sys.stderr, flush=True))  # fmt: skip
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
