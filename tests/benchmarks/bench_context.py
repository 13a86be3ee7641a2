"""What a context costs: ratio 4, context 256 px, windows of 512 px, against the same network without.

Figures: ``context_forward_over_single`` (a batch of windows in one engine at one precision),
``context_wall_over_single`` (a slide from opening to the finished map), ``context_step_over_single`` (forward, backward
and optimiser on tensors in memory), ``context_peak_mb_growth_area_x4`` (peak memory of a slide at four times the area,
with a network that costs nothing), and ``context_training_gb`` (what a training step holds at batch 8, counted).
"""

import json
import statistics
import subprocess
import sys

import numpy as np

from tests.benchmarks import bench_inference, harness, made

TILE_PX, CONTEXT_PX, RATIO, BATCH, TRAIN_BATCH = 512, 256, 4, 4, 4
MPP = bench_inference.MPP
SIDE_PX0 = 10_240


def checkpoint(model, *, ratio, mpp=MPP):
    plain = bench_inference.checkpoint(model, mpp)
    plain.context_ratio, plain.context_px, plain.context_of = ratio, CONTEXT_PX, "field"
    return plain


def networks():
    """The same weights without and with a context that is listened to."""
    import torch

    from tlskit.networks import models

    found = {}
    for name, ratio in (("single", 0), ("context", RATIO)):
        torch.manual_seed(0)
        model = models.build_model(encoder_weights="none", context_ratio=ratio).eval()
        if ratio:
            torch.nn.init.normal_(model.hook.weight, std=1e-3)
        found[name] = checkpoint(model, ratio=ratio)
    return found


def forward_and_wall(repeats):
    """One engine at one precision for both: that which ``auto`` takes first here."""
    from tlskit.maps import inference
    from tlskit.networks import engines, inputs
    from tlskit.networks import hardware as compute
    from tlskit.slides import open_slide

    compute.tune_allocator()
    nets, path = networks(), made.halving(SIDE_PX0)
    made_of, stacks, sources = {}, {}, {}
    with open_slide(path) as slide:
        for name, net in nets.items():
            # Asked for by name: random weights, which bf16 moves more than trained ones, change no engine on the way.
            sources[name] = engines.EngineSource(net, window_px=TILE_PX, device="cpu", precision="bf16")
            sources[name].made = made_of[name] = engines.make_engine(net, window_px=TILE_PX, device="cpu")
            stacks[name] = inference.typical_windows(net, slide, inference.layout_for(net), BATCH)
    assert inputs.fields(stacks["context"])[1].shape == (BATCH, CONTEXT_PX, CONTEXT_PX, 3)
    forward = harness.interleaved(
        {name: (lambda name=name: made_of[name].predict(stacks[name])) for name in nets}, repeats=3 * repeats
    )
    stages = {}

    def whole(name):
        prediction = inference.predict_slide(
            nets[name], path, harness.WORK / f"context_{name}.tif", engine=sources[name], batch_size=BATCH,
            progress=False, resume=False,
        )  # fmt: skip
        stages[name] = prediction.stage_s | {"windows": prediction.windows}

    wall = harness.interleaved({name: (lambda name=name: whole(name)) for name in nets}, repeats=repeats, warm_up=False)
    for name in nets:
        (harness.WORK / f"context_{name}.tif").unlink()
    figures = {
        "context_forward_over_single": harness.ratio(forward["context"], forward["single"]),
        "context_wall_over_single": harness.ratio(wall["context"], wall["single"]),
        "context_engine": f"{made_of['context'].name} {made_of['context'].precision}",
        "context_windows": stages["context"]["windows"],
        "context_stage_s": stages["context"]["context"],
    }
    return figures, {f"forward_{k}": v for k, v in forward.items()} | {f"wall_{k}": v for k, v in wall.items()}


def training(repeats):
    """A step of either network, in the precision that training takes here."""
    import torch
    from segmentation_models_pytorch.losses import DiceLoss

    from tlskit.networks import hardware as compute
    from tlskit.networks import training_bytes

    is_bf16 = compute.pick_precision("auto", "cpu") == "bf16"
    rng, loss, candidates, held = np.random.default_rng(0), DiceLoss(mode="binary", from_logits=True), {}, {}
    masks = torch.from_numpy(rng.integers(0, 2, (TRAIN_BATCH, 1, TILE_PX, TILE_PX)).astype(np.float32))
    for name, net in networks().items():
        model = net.model.train().to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
        sides = (TILE_PX, CONTEXT_PX) if name == "context" else (TILE_PX,)
        images = [torch.rand(TRAIN_BATCH, 3, s, s).contiguous(memory_format=torch.channels_last) for s in sides]

        def step(model=model, optimiser=optimiser, images=images):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                logits = model(*images)
            optimiser.zero_grad(set_to_none=True)
            loss(logits.float(), masks).backward()
            optimiser.step()

        candidates[name] = step
    seconds = harness.interleaved(candidates, repeats=repeats)
    for name, net in networks().items():
        context_px = CONTEXT_PX if name == "context" else 0
        held[name] = training_bytes(net.model, tile_px=TILE_PX, batch_size=8, mixed=is_bf16, context_px=context_px)
    figures = {
        "context_step_over_single": harness.ratio(seconds["context"], seconds["single"]),
        "context_training_gb": held["context"] / 1e9,
        "context_training_gb_single": held["single"] / 1e9,
    }
    return figures, {f"step_{name}": took for name, took in seconds.items()}


class _Null(bench_inference._Null):
    """A network with context that costs nothing."""

    def empty(self, count, window_px):
        from tlskit.networks import inputs

        return inputs.room(count, window_px, CONTEXT_PX)


def null_run(path):
    """Peak memory of one slide with the null network."""
    from tlskit.maps import inference
    from tlskit.networks import hardware as compute

    compute.tune_allocator()
    out = harness.WORK / "context_null.tif"
    prediction = inference.predict_slide(
        checkpoint(None, ratio=RATIO, mpp=made.MPP0), path, out, engine=bench_inference.source_of(_Null()),
        batch_size=BATCH, progress=False, resume=False,
    )  # fmt: skip
    out.unlink()
    return {"peak_mb": harness.peak_mb(), "windows": prediction.windows}


def memory(repeats):
    """Two slides, each in a process of its own."""
    peak = {}
    for name, side in (("small", SIDE_PX0), ("x4", 2 * SIDE_PX0)):
        code = (
            "import json; from tests.benchmarks import bench_context as b; "
            f"print(json.dumps(b.null_run({str(made.halving(side))!r})))"
        )
        runs = []
        for _ in range(max(1, min(3, repeats))):
            done = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            runs.append(json.loads(done.stdout.splitlines()[-1])["peak_mb"])
        peak[name] = statistics.median(runs)
    figures = {
        "context_peak_mb_growth_area_x4": peak["x4"] - peak["small"],
        **{f"context_peak_mb_{name}": value for name, value in peak.items()},
    }
    return figures, {}


def main(repeats=5):
    harness.report_parts("context", [forward_and_wall, training, memory], repeats)


if __name__ == "__main__":
    main()
