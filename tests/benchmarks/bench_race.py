"""The race: TIAToolbox and LazySlide, each in its own environment; the same weights, slide, um/px, window and overlap.

Every window is run by all, without looking for tissue; each slide in a fresh process, turn by turn; importing and
loading are not counted for anyone. Maps are compared before times. *Equal compute*: all with PyTorch, at the same
precision (bf16 where the processor multiplies it, else float32), channels-last and the same allocator setting, our
network unfolded, wall time per window (the peers' grids have more of them). *As installed*: the peer as pip gives it
against ``engine: auto`` and ``precision: exact``, wall time a slide. *Feed*: with a network that costs nothing.

All of it on a GPU where the variable TLSKIT_BENCH_DEVICE names one (``cuda``), on a larger slide.

The environments are ``outputs/benchmarks/work/venv-<peer>``, made on the first run (about 7 GB each, from the package
index that pip is set to), or the Pythons that TLSKIT_TIATOOLBOX_PYTHON and TLSKIT_LAZYSLIDE_PYTHON name.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections import defaultdict
from pathlib import Path

import numpy as np

from tests.benchmarks import bench_inference, harness, made

REQUIREMENTS = {
    "tiatoolbox": ("tiatoolbox==2.1.3", "openslide-bin", "segmentation-models-pytorch==0.6.0"),
    "lazyslide": ("lazyslide==0.13.0", "openslide-bin", "openslide-python", "segmentation-models-pytorch==0.6.0"),
}
#: At level 0: the peers read other um/px from another level than we do, and interpolate; with different pixels no maps
#: could be compared. The feed is measured on a larger slide, where no network costs time.
DEVICE = os.environ.get("TLSKIT_BENCH_DEVICE", "cpu")
FEED_SIDE_PX0, MPP = 10_240, made.MPP0
SIDE_PX0, THREADS = (2_048, 2) if DEVICE == "cpu" else (FEED_SIDE_PX0, len(os.sched_getaffinity(0)))
_ROOM_GB = 12


def environment(peer):
    """The peer's Python; None, after saying why, where it cannot be had."""
    variable = f"TLSKIT_{peer.upper()}_PYTHON"
    named = os.environ.get(variable)
    python = Path(named) if named else harness.WORK / f"venv-{peer}" / "bin" / "python"
    if not python.exists():
        if named:
            print(f"race with {peer} skipped: {variable} names {named}, which is not there")
            return None
        harness.WORK.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(harness.WORK).free / 2**30
        if free < _ROOM_GB:
            print(f"race with {peer} skipped: its environment needs {_ROOM_GB} GB of disk, {free:.0f} are free")
            return None
        venv.create(python.parents[1], with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", *REQUIREMENTS[peer]]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(python.parents[1])
            print(f"race with {peer} skipped: pip could not install its packages: {done.stderr[-300:]}")
            return None
    return str(python)


def theirs(peer, python, compute, *, side=SIDE_PX0, bf16=False, map_path="", stride=256):
    job = {
        "slide": str(made.halving(side)), "mpp": MPP, "weights": str(weights()), "threads": THREADS,
        "stride": stride, "compute": compute, "bf16": bf16, "map": str(map_path),
        "out": str(harness.WORK / "race_out"), "device": DEVICE,
    }  # fmt: skip
    return _run([python, str(Path(__file__).with_name("race_peer.py")), peer, json.dumps(job)])


def ours(engine, precision, *, folded=True, keep=False, overlap=0.5):
    code = (
        "import json; from tests.benchmarks import bench_race as b; "
        f"print(json.dumps(b.run_ours({engine!r}, {precision!r}, {folded!r}, {keep!r}, {overlap!r})))"
    )
    return _run([sys.executable, "-c", code])


def _run(command):
    environment_ = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, cwd=harness.ROOT, env=environment_, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def weights():
    """The state dict that both load."""
    path = harness.WORK / "race_weights.pt"
    if not path.exists():
        import torch

        torch.save(bench_inference.network().model.state_dict(), path)
    return path


def run_ours(engine, precision, folded, keep, overlap):
    """One slide by us, in this process."""
    import torch

    from tlskit.maps import inference
    from tlskit.networks import engines, runtimes

    torch.set_num_threads(THREADS)
    if not folded:
        runtimes.fold = lambda model: model
    if engine == "null":
        return bench_inference.null_run(made.halving(FEED_SIDE_PX0), MPP, tissue=False)
    net = bench_inference.network(MPP)
    net.model.load_state_dict(torch.load(weights(), weights_only=True))
    out = harness.WORK / "race_ours.tif"
    source = engines.EngineSource(net, engine=engine, precision=precision, window_px=512, device=DEVICE)
    source.get(np.zeros((1, 512, 512, 3), np.uint8))
    start = time.perf_counter()
    prediction = inference.predict_slide(
        net, made.halving(SIDE_PX0), out, engine=source, batch_size=4, overlap=overlap, tissue=False,
        progress=False, resume=False,
    )  # fmt: skip
    wall_s = time.perf_counter() - start
    if not keep:
        out.unlink()
    return {
        "wall_s": wall_s,
        "windows": prediction.windows,
        "peak_mb": harness.peak_mb(),
        "engine": f"{prediction.engine} {prediction.precision}",
    }


def compare(peer, python):
    """Largest and mean difference of the two exact maps, in steps of 1/255.

    Windows side by side: where they overlap, the peers take the plain mean and we weigh by Hann, which differs.
    """
    from tlskit.maps import probmaps

    path = harness.WORK / f"race_{peer}.npy"
    theirs(peer, python, "as_installed", map_path=path, stride=512)
    ours("auto", "exact", keep=True, overlap=0.0)
    other = np.load(path)
    with probmaps.open_map(harness.WORK / "race_ours.tif") as found:
        mine = found.read(0, 0, *found.size_px).astype(np.float32)
    height, width = (min(a, b) for a, b in zip(mine.shape, other.shape, strict=True))
    difference = np.abs(mine[:height, :width] - other[:height, :width] * 255)
    return float(difference.max()), float(difference.mean())


def main(repeats=5):
    from tlskit.networks import hardware

    peers = {peer: python for peer in REQUIREMENTS if (python := environment(peer))}
    if not peers:
        return
    for side in (SIDE_PX0, FEED_SIDE_PX0):
        made.halving(side)
    weights()
    precision = hardware.pick_precision("auto", DEVICE)
    figures = {"race_equal_compute_precision": precision}
    for peer, python in peers.items():
        largest, mean = compare(peer, python)
        figures[f"race_maps_largest_difference_255ths_{peer}"] = largest
        figures[f"race_maps_mean_difference_255ths_{peer}"] = mean
    runs = defaultdict(list)
    for _ in range(repeats):
        runs["our_null"].append(ours("null", "exact"))
        runs["our_auto"].append(ours("auto", "auto"))
        runs["our_exact"].append(ours("auto", "exact"))
        runs["our_equal"].append(ours("torch", precision, folded=False))
        for peer, python in peers.items():
            runs[f"{peer}_as_installed"].append(theirs(peer, python, "as_installed"))
            runs[f"{peer}_equal"].append(theirs(peer, python, "equal", bf16=precision == "bf16"))
            runs[f"{peer}_null"].append(theirs(peer, python, "null", side=FEED_SIDE_PX0))

    def wall(name):
        return [run["wall_s"] for run in runs[name]]

    def per_window(name):
        return [run["wall_s"] / run["windows"] for run in runs[name]]

    for peer in peers:
        installed = wall(f"{peer}_as_installed")
        figures |= {
            f"wsi_vs_{peer}_as_installed": harness.ratio(installed, wall("our_auto")),
            f"wsi_exact_vs_{peer}_as_installed": harness.ratio(installed, wall("our_exact")),
            f"wsi_vs_{peer}_equal_compute": harness.ratio(per_window(f"{peer}_equal"), per_window("our_equal")),
            f"feed_tiles_vs_{peer}": harness.ratio(per_window(f"{peer}_null"), per_window("our_null")),
        }
    figures |= {
        **{f"race_{name}_wall_s": statistics.median(wall(name)) for name in runs},
        **{f"race_{name}_windows": runs[name][0]["windows"] for name in runs},
        **{f"race_{name}_peak_mb": statistics.median(run["peak_mb"] for run in runs[name]) for name in runs},
        "race_our_auto_engine": runs["our_auto"][0]["engine"],
    }
    harness.report("race" if DEVICE == "cpu" else "race_gpu", figures, seconds={name: wall(name) for name in runs})


if __name__ == "__main__":
    main()
