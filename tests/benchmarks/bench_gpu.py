"""A GPU, measured by one command: ``python -m tests.benchmarks gpu [--parts slides,training] [--device cpu] [--tiny]``.

Parts, each reported when it is done, with the seconds that it took, so that a command that is cut off leaves what it
had:

``forward``   windows a second of the bare network by precision, with its CUDA graph and over what it does without; how
              far from float32 on the CPU; whether a result depends on its company
``slides``    a made slide of 80,000 x 60,000 px, 40 % of it tissue, whole, at four magnifications: minutes, s per mm2
              of tissue, ``pipeline_over_forward`` (windows a second of the slide over those of the bare network; the
              goal is 0.9), the share of time that the GPU was at work, and which thread waited for which
``memory``    windows a second, and the GPU's memory, against the batch
``training``  tiles a second of `networks.train` on a slide, and of the same steps on tensors in the GPU's memory
``race``      TIAToolbox and LazySlide there (see `bench_race`; without their environments it says so and goes on)

Weights are random, the same at each run, or those that TLSKIT_BENCH_CHECKPOINT names. Slides are made on the first run
(seconds) and kept. ``--tiny`` is the same code on small sizes, for a machine without a GPU: its figures say nothing of
speed.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from types import SimpleNamespace

import numpy as np
import pandas as pd

from tests.benchmarks import bench_inference, harness, made

FULL = SimpleNamespace(
    size_px0=(80_000, 60_000), tissue=0.4, magnifications=(20, 10, 4, 1), window_px=512, batch=8, windows=256,
    batches=(1, 2, 4, 8, 16, 32, 64), steps=200,
)  # fmt: skip
TINY = SimpleNamespace(
    size_px0=(8_192, 4_096), tissue=0.5, magnifications=(1,), window_px=64, batch=2, windows=4,
    batches=(1, 2), steps=1,
)  # fmt: skip
OVERLAP = 0.125


def main(repeats=5):
    import torch

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks gpu", allow_abbrev=False)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the code")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of these, with commas")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the code")
    asked = parser.parse_args()
    if unknown := set(asked.parts.split(",")) - set(PARTS):
        parser.error(f"no part called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            f"No CUDA GPU is found by torch {torch.__version__} on this machine, so there is nothing to measure "
            "(`--device cpu --tiny` tries the code)."
        )
    sizes = TINY if asked.tiny else FULL
    device = torch.device(asked.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    failed = []
    print(f"# {name}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}", flush=True)
    for part in asked.parts.split(","):
        start = time.perf_counter()
        try:
            if figures := PARTS[part](sizes, device, max(1, repeats)):
                harness.report(f"gpu_{part}{'_tiny' if asked.tiny else ''}", {"gpu": name, **figures})
        except Exception:  # the time on a lent machine is for the parts that go well, too
            traceback.print_exc()
            failed.append(part)
        print(f"# {part} took {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def network(sizes, magnification=20):
    net = bench_inference.network(10 / magnification)
    net.tile_px = sizes.window_px
    return net


def on(sizes, device):
    return {"engine": "torch", "window_px": sizes.window_px, "device": str(device)}


def some_windows(sizes, engine, count):
    """Windows that look like tissue, where the engine takes them from."""
    field = made._tissue(4 * sizes.window_px)
    rng, side = np.random.default_rng(0), sizes.window_px
    windows = engine.empty(count, side)
    for n, (x, y) in enumerate(rng.integers(0, 3 * side, (count, 2))):
        windows[n] = field[y : y + side, x : x + side]
    return windows


def rate(engine, windows, repeats):
    """Windows a second of the bare network: medians, with as many batches under way as on a slide."""
    took = []
    for turn in range(-1, repeats):
        start = time.perf_counter()
        bench_inference.bare(engine, windows, engine.batch)
        if turn >= 0:
            took.append(time.perf_counter() - start)
    return len(windows) / statistics.median(took)


def forward(sizes, device, repeats):
    from tlskit.networks import engines

    net, figures = network(sizes), {}
    for precision in ("exact", "auto", "bf16"):
        engine = engines.make_engine(net, precision=precision, batch=sizes.batch, **on(sizes, device))
        key, windows = f"forward_{engine.precision}", some_windows(sizes, engine, sizes.windows)
        if f"{key}_per_s" in figures:
            continue
        figures[f"{key}_per_s"] = rate(engine, windows, repeats)
        few = windows[: sizes.batch + 1]
        got = engine.predict(few)
        figures[f"{key}_largest_difference"] = float(np.abs(got - engines.eager(net, few)).max())
        alone = np.concatenate([engine.predict(few[n : n + 1]) for n in range(len(few))])
        figures[f"{key}_alone_is_the_same"] = str(np.array_equal(got, alone))
        if getattr(engine, "_graph", None) is not None:
            engine._graph = None  # the same operations, launched one by one
            figures[f"{key}_graph_over_none"] = figures[f"{key}_per_s"] / rate(engine, windows, repeats)
        elif device.type == "cuda":
            figures[f"{key}_graph_over_none"] = "no graph could be made"
    return figures


def slides(sizes, device, repeats):
    from tlskit.maps import inference
    from tlskit.networks import engines

    path, figures = made.whole(*sizes.size_px0, sizes.tissue), {}
    out = harness.WORK / "gpu_slide.tif"
    for magnification in sizes.magnifications:
        net, key = network(sizes, magnification), f"slide_{magnification}x"
        source = engines.EngineSource(net, **on(sizes, device))
        how = {"engine": source, "batch_size": sizes.batch, "overlap": OVERLAP, "progress": False, "resume": False}
        took = []
        for _ in range(2):  # the first also chooses the engine, makes its graph and reads from the disk
            start = time.perf_counter()
            with at_work(device) as shares:
                done = inference.predict_slide(net, path, out, **how)
            took.append((time.perf_counter() - start) / 60)
        bare = rate(source.made, some_windows(sizes, source.made, sizes.windows), min(3, repeats))
        figures |= {
            f"{key}_minutes": took[1],
            f"{key}_first_minutes": took[0],
            f"{key}_s_per_mm2": done.wall_s / done.tissue_mm2,
            f"{key}_windows": done.windows,
            f"{key}_engine": f"{done.engine} {done.precision}",
            f"{key}_pipeline_over_forward": done.windows / done.wall_s / bare,
            f"{key}_forward_per_s": bare,
        }
        figures |= {f"{key}_gpu_at_work": statistics.mean(shares)} if shares else {}
        figures |= {f"{key}_stage_{stage}_s": s for stage, s in done.stage_s.items()}
    out.unlink()
    return figures


@contextlib.contextmanager
def at_work(device):
    """Shares of time with a kernel running, five a second, from nvidia-smi; nothing without it."""
    shares = []
    if device.type != "cuda" or not shutil.which("nvidia-smi"):
        yield shares
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command += ["-i", visible.split(",")[device.index or 0] if visible else str(device.index or 0)]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield shares
    finally:
        watching.terminate()
        shares += [float(line) / 100 for line in watching.communicate()[0].split() if line.isdigit()]


def memory(sizes, device, repeats):
    import torch

    from tlskit.networks import engines, hardware

    net, figures = network(sizes), {}
    for batch in sizes.batches:
        hardware.free_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            engine = engines.make_engine(net, batch=batch, **on(sizes, device))
            windows = some_windows(sizes, engine, max(batch * 4, sizes.windows))
            figures[f"batch_{batch}_per_s"] = rate(engine, windows, min(3, repeats))
        except Exception as error:
            if not hardware.is_out_of_memory(error):
                raise
            figures[f"batch_{batch}_per_s"] = "out of memory"
            break
        if device.type == "cuda":  # what a graph holds is reserved, not allocated
            figures[f"batch_{batch}_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    return figures


def training(sizes, device, repeats):
    from tests.benchmarks.bench_training_feed import cohort_of
    from tlskit.networks import train
    from tlskit.tiles import tiling

    cohort = cohort_of(made.whole(20_480, 20_480, 1.0))
    how = {"magnification": 20, "tile_px": sizes.window_px, "target_class": "TLS"}
    tiles = tiling.tile_cohort(cohort, keep_tiles="target", overlap=0.5, **how).tiles.head(512)
    tiles = pd.concat([tiles.assign(split="train"), tiles.head(sizes.batch).assign(split="val")], ignore_index=True)
    with tempfile.TemporaryDirectory() as folder:
        done = train(
            tiles, cohort, out_path=f"{folder}/c.pt", overlap=0.5, encoder_weights="none", epochs=2,
            steps_per_epoch=sizes.steps, batch_size=sizes.batch, augment=True, device=device, **how,
        )  # fmt: skip
    fed = float(done.history["tiles_per_s"].iloc[-1])
    bare = sizes.steps * sizes.batch / steps_s(sizes, device)
    return {
        "training_tiles_per_s": fed, "training_bare_tiles_per_s": bare, "training_over_bare": fed / bare,
        "training_precision": done.precision, "training_tile_px": sizes.window_px, "training_batch": sizes.batch,
    }  # fmt: skip


def steps_s(sizes, device):
    """Seconds of as many steps of the same network on tensors that lie on the device."""
    import torch
    from torch.nn import functional

    from tlskit.networks import hardware, models

    model = models.build_model(encoder_weights="none").train().to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images = torch.rand(sizes.batch, sizes.window_px, sizes.window_px, 3, device=device).permute(0, 3, 1, 2)
    masks, half = (images[:, :1] > 0.5).float(), hardware.pick_precision("auto", device)
    for step in range(-3, sizes.steps):
        if step == 0:
            float(images.sum())  # waits for the GPU
            start = time.perf_counter()
        with torch.autocast(device.type, torch.float16 if half == "fp16" else torch.bfloat16, enabled=half != "exact"):
            logits = model(images)
        optimiser.zero_grad()
        functional.binary_cross_entropy_with_logits(logits.float(), masks).backward()
        optimiser.step()
    float(next(model.parameters()).sum())
    return time.perf_counter() - start


def race(sizes, device, repeats):
    if sizes is TINY:
        print("race skipped: it has one size, for a GPU")
        return {}
    # In a process of its own, which reads its device when it is imported; it reports by itself, as race_gpu.
    code = f"from tests.benchmarks import bench_race as b; b.main({min(2, repeats)})"
    environment = {**os.environ, "TLSKIT_BENCH_DEVICE": device.type}
    subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, env=environment, check=True)
    return {}


PARTS = {"forward": forward, "slides": slides, "memory": memory, "training": training, "race": race}
