"""Whole-slide inference against its own limits: the bare network, plain float32 PyTorch, and flat memory.

Figures: ``wsi_wall_over_pure_forward`` (a slide from opening to the finished map, over the same windows preloaded into
the same engine), ``forward_vs_eager_fp32`` and ``forward_exact_vs_eager_fp32`` (engines over PyTorch as it comes, all
with the same allocator setting), ``forward_fraction_of_matmul`` (float32 arithmetic a second of the rewritten network,
over that of one large matrix product), ``wsi_peak_mb_growth_area_x4`` (peak memory at four times the area, square and
as a 4:1 strip) and ``feed_tiles_per_s`` (windows a second with a network that costs nothing).

Weights are random, or those of the trained checkpoint that the variable TLSKIT_BENCH_CHECKPOINT names: a forward pass
costs the same whatever they are, but which engine ``auto`` picks depends on how much bf16 changes the result.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tests.benchmarks import harness, made

TILE_PX, BATCH = 512, 4
#: Side of the slide in level-0 pixels and the um/px at which it is predicted: 5,120 px square, half of it tissue.
SIDE_PX0, MPP = 20_480, 1.0


def network(mpp=MPP):
    """A checkpoint with random weights, the same at every call, or with trained ones."""
    import torch

    from tlskit.networks import models

    trained = os.environ.get("TLSKIT_BENCH_CHECKPOINT")
    if trained:
        return checkpoint(models.load_checkpoint(trained, device="cpu").model, mpp)
    torch.manual_seed(0)
    return checkpoint(models.build_model(encoder_weights="none").eval(), mpp)


def checkpoint(model, mpp):
    return SimpleNamespace(
        model=model, magnification=10 / mpp, mpp=mpp, tile_px=TILE_PX, overlap=0.5, normalisation="divide_255",
        sha256="", resolution_by="mpp",
    )  # fmt: skip


def tissue_windows(path, mpp, count=None):
    """The windows that inference would run, (N, 512, 512, 3) uint8."""
    from tlskit.maps.windows import layout_for, plan_windows
    from tlskit.slides import slide as slides

    with slides.open_slide(path) as slide:
        layout = layout_for(checkpoint(None, mpp))
        planned, _ = plan_windows(slide, layout, slide.size_px(mpp), mpp, None)
        rows, columns = np.nonzero(planned)
        xy = np.stack([columns, rows], 1)[:count] * layout.stride_px
        return np.stack([window for _, window in slide.windows(xy, TILE_PX, mpp=mpp)])


def engines_race(repeats):
    """Seconds for a batch by every engine that is installed, and how far each is from plain float32."""
    import importlib.util

    from tlskit.networks import engines, runtimes
    from tlskit.networks import hardware as compute

    compute.tune_allocator()
    net = network()
    stack = tissue_windows(made.halving(SIDE_PX0), MPP, BATCH)
    plain = runtimes.TorchEngine(net, "exact", compute.pick_device("cpu"), plain=True)
    candidates = {"eager_fp32": plain}
    for name in ("torch", "openvino"):
        if name == "torch" or importlib.util.find_spec(name):
            for precision in ("exact", "auto") if compute.pick_precision("auto", "cpu") != "exact" else ("exact",):
                candidates[f"{name}_{precision}"] = engines.make_engine(
                    net, engine=name, precision=precision, window_px=TILE_PX, device="cpu"
                )
    chosen = {
        "forward_vs_eager_fp32": engines.EngineSource(net, window_px=TILE_PX, device="cpu"),
        "forward_exact_vs_eager_fp32": engines.EngineSource(net, window_px=TILE_PX, device="cpu", precision="exact"),
    }
    picked = {}
    for figure, source in chosen.items():
        engine = source.get(stack)
        picked[figure] = f"{engine.name}_{'exact' if engine.precision == 'exact' else 'auto'}"
        if engine.name == "eager":
            picked[figure] = "eager_fp32"
    seconds = harness.interleaved(
        {name: (lambda engine=engine: engine.predict(stack)) for name, engine in candidates.items()}, repeats=repeats
    )
    reference = plain.predict(stack)
    gflop, limit = gflop_of(net), matmul_gflops()
    fastest = min(statistics.median(seconds[name]) for name in seconds if name.endswith("_exact")) / BATCH
    figures = {
        "forward_gflop_per_window": gflop["as_it_is"],
        "forward_gflop_per_window_rewritten": gflop["rewritten"],
        "matmul_fp32_gflops": limit,
        "forward_fraction_of_matmul": gflop["rewritten"] / fastest / limit,
    }
    figures |= {
        figure: harness.ratio(seconds["eager_fp32"], seconds[name]) if name in seconds else float("nan")
        for figure, name in picked.items()
    }
    for name, engine in candidates.items():
        figures[f"forward_ms_per_window_{name}"] = statistics.median(seconds[name]) / BATCH * 1000
        if name != "eager_fp32":
            figures[f"forward_dprob_{name}"] = float(np.abs(engine.predict(stack) - reference).max())
    for figure, engine in chosen.items():
        figures[f"{figure}_engine"] = f"{engine.made.name} {engine.made.precision}"
        figures[f"{figure}_dprob"] = engine.made.max_dprob
    figures["forward_weights"] = "trained" if os.environ.get("TLSKIT_BENCH_CHECKPOINT") else "random"
    return figures, seconds


def gflop_of(net):
    """Arithmetic of one window, as the network is and as our engines run it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tlskit.networks.fusion import fold

    found = {}
    for name, model in (("as_it_is", net.model), ("rewritten", fold(net.model))):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(torch.zeros(1, 3, TILE_PX, TILE_PX))
        found[name] = counter.get_total_flops() / 1e9
    return found


def matmul_gflops(side=4096, repeats=5):
    """What all cores multiply in float32: the best of some large matrix products."""
    import torch

    a, b = torch.rand(side, side), torch.rand(side, side)
    took = harness.interleaved({"matmul": lambda: torch.mm(a, b)}, repeats=repeats)["matmul"]
    return 2 * side**3 / min(took) / 1e9


def bare(engine, windows, batch):
    """All windows through the network alone, with as many batches under way as on a slide."""
    tickets = []
    for at in range(0, len(windows), batch):
        tickets.append(engine.submit(windows[at : at + batch]))
        if len(tickets) >= engine.depth:
            engine.result(tickets.pop(0))
    for ticket in tickets:
        engine.result(ticket)


def whole_slide(repeats):
    """Wall time of a slide over the bare forward pass of its windows, turn by turn."""
    from tlskit.maps import inference
    from tlskit.networks import engines

    net, path = network(), made.halving(SIDE_PX0)
    windows = tissue_windows(path, MPP)
    source = engines.EngineSource(net, window_px=TILE_PX, device="cpu")
    engine = source.get(windows[:BATCH])
    out = harness.WORK / "wall.tif"
    last = {}

    def wall():
        last["prediction"] = inference.predict_slide(
            net, path, out, engine=source, batch_size=BATCH, progress=False, resume=False
        )
        assert last["prediction"].windows == len(windows)

    turns = {"pure_forward": lambda: bare(engine, windows, BATCH), "wall": wall}
    seconds = harness.interleaved(turns, repeats=repeats, warm_up=False)
    out.unlink()
    figures = {
        "wsi_wall_over_pure_forward": harness.ratio(seconds["wall"], seconds["pure_forward"]),
        "wsi_s_per_window": statistics.median(seconds["wall"]) / len(windows),
        "wsi_windows": len(windows),
        "wsi_engine": f"{engine.name} {engine.precision}",
    }
    figures |= {f"wsi_stage_{name}_s": s for name, s in last["prediction"].stage_s.items() if s == s}
    return figures, seconds


class _Null:
    """A network that costs nothing and gives 0.37: what is left is reading, blending and writing."""

    name, precision, device, depth = "null", "exact", "cpu", 1
    max_dprob = compile_s = check_s = 0.0
    is_loaded = False

    def __init__(self):
        self._answer = np.full((BATCH, TILE_PX, TILE_PX), 0.37, np.float32)

    def empty(self, count, window_px):
        return np.empty((count, window_px, window_px, 3), np.uint8)

    def submit(self, windows):
        return self._answer[: len(windows)]

    def result(self, ticket):
        return ticket


def source_of(null: _Null):
    """The null network as slides are given one: asked for by name, so that it is compared with nothing."""
    from tlskit.networks import engines

    source = engines.EngineSource(None, window_px=TILE_PX, precision="bf16")
    source.made = null
    return source


def null_run(path, mpp, tissue=None):
    """One slide with the null network: seconds, windows and this process's peak memory."""
    from tlskit.maps import inference
    from tlskit.networks import hardware as compute

    compute.tune_allocator()
    out = harness.WORK / f"null_{Path(path).stem}.tif"
    start = time.perf_counter()
    prediction = inference.predict_slide(
        checkpoint(None, mpp), path, out, engine=source_of(_Null()), batch_size=BATCH, tissue=tissue, progress=False,
        resume=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    out.unlink()
    return {
        "wall_s": seconds,
        "windows": prediction.windows,
        "peak_mb": harness.peak_mb(),
        "map_px": prediction.map_px,
    }


def in_a_process(path, mpp):
    """`null_run` in a process of its own, so that its peak memory is its own."""
    code = (
        "import json; from tests.benchmarks import bench_inference as b; "
        f"print(json.dumps(b.null_run({str(path)!r}, {mpp!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def strip() -> Path:
    """The area of the large square as a strip of 4:1."""
    path = harness.WORK / f"strip_{2 * SIDE_PX0}_{SIDE_PX0 // 2}.tif"
    if not path.exists():
        import pyvips

        from tlskit.slides.tiffs import write_slide

        whole = pyvips.Image.new_from_file(str(made.halving(SIDE_PX0)), access="random")
        part = whole.crop(0, SIDE_PX0 // 4, SIDE_PX0, SIDE_PX0 // 2)
        half = part.crop(0, 0, SIDE_PX0, SIDE_PX0 // 4)
        glass = (pyvips.Image.black(2 * SIDE_PX0, SIDE_PX0 // 2) + [243, 242, 244]).cast("uchar")
        image = glass.insert(half.join(half, "horizontal"), 0, SIDE_PX0 // 8)
        write_slide(path, image, mpp=made.MPP0, objective_power=made.OBJECTIVE_POWER, quality=made.QUALITY)
    return path


def memory_and_feed(repeats):
    """Peak memory of three slides, and windows a second."""
    cases = {
        "small": made.halving(SIDE_PX0 // 2),
        "square_x4": made.halving(SIDE_PX0),
        "strip_x4": strip(),
    }
    runs = {name: [] for name in cases}
    for _ in range(max(1, min(3, repeats))):
        for name, path in cases.items():
            runs[name].append(in_a_process(path, made.MPP0))
    peak = {name: statistics.median(run["peak_mb"] for run in made_) for name, made_ in runs.items()}
    figures = {
        "wsi_peak_mb_growth_area_x4": max(peak["square_x4"], peak["strip_x4"]) - peak["small"],
        **{f"wsi_peak_mb_{name}": value for name, value in peak.items()},
        "feed_tiles_per_s": statistics.median(run["windows"] / run["wall_s"] for run in runs["square_x4"]),
    }
    return figures, {f"null_{name}": [run["wall_s"] for run in made_] for name, made_ in runs.items()}


def main(repeats=5):
    harness.report_parts("inference", [engines_race, whole_slide, memory_and_feed], repeats)


if __name__ == "__main__":
    main()
