"""Beside other work: a training step and a window of inference quiet, with one core taken, and two trainings at once.

``train_step_busy_over_quiet`` and ``window_busy_over_quiet``: one core is taken by a program that counts;
``train_two_over_one``: two trainings begun together; ``train_quiet_cost``: threads that follow over threads that stay.
256 px, batch 8, from tensors in memory, each in a process of its own, in turns, on a machine with nothing else to do.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time

from tests.benchmarks import harness

TILE_PX, BATCH, WINDOW_PX = 256, 8, 512

#: Seconds before a process is measured, for the threads to find what is free, and seconds that are measured.
SETTLE_S, MEASURE_S = 8.0, 12.0


def main(repeats: int = 3) -> None:
    trained, windows = {}, {}
    for turn in range(repeats):
        for name, what, at_once, taken, is_fixed in (
            ("quiet", "train", 1, 0, False),
            ("fixed", "train", 1, 0, True),
            ("busy", "train", 1, 1, False),
            ("busy_fixed", "train", 1, 1, True),
            ("two", "train", 2, 0, False),
            ("quiet", "window", 1, 0, False),
            ("busy", "window", 1, 1, False),
        ):
            found = trained if what == "train" else windows
            found.setdefault(name, []).append(_measure(what, at_once=at_once, taken=taken, is_fixed=is_fixed))
            print(f"# {turn + 1}/{repeats} {what} {name}: {found[name][-1]:.0f} ms", flush=True)
    figures = {
        "train_step_busy_over_quiet": harness.ratio(trained["busy"], trained["quiet"]),
        "train_two_over_one": harness.ratio(trained["two"], trained["quiet"]),
        "train_quiet_cost": harness.ratio(trained["quiet"], trained["fixed"]),
        "train_step_busy_over_quiet_fixed_threads": harness.ratio(trained["busy_fixed"], trained["fixed"]),
        "window_busy_over_quiet": harness.ratio(windows["busy"], windows["quiet"]),
        "train_step_ms": statistics.median(trained["quiet"]),
        "window_ms": statistics.median(windows["quiet"]),
    }
    harness.report("calm", figures, seconds={f"train_{name}_ms": values for name, values in trained.items()})


def _measure(what: str, *, at_once: int, taken: int, is_fixed: bool) -> float:
    """Milliseconds of a step or window, mean over the processes that measure at once."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if is_fixed:
        environment["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    code = f"from tests.benchmarks import bench_calm as b; b.{what}()"
    with contextlib.ExitStack() as stack:
        for _ in range(taken):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(other.wait)
            stack.callback(other.kill)
        running = [
            subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(at_once)
        ]
        return statistics.mean(float(each.communicate()[0].split()[-1]) for each in running)


def train() -> None:
    """Print the milliseconds of a training step, in the process that is measured."""
    import torch
    from segmentation_models_pytorch.losses import DiceLoss

    from tlskit.networks import calm, hardware, models

    hardware.tune_allocator()
    is_bf16 = hardware.pick_precision("auto", "cpu") == "bf16"
    torch.manual_seed(0)
    model = models.build_model(encoder_weights="none").train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    loss = DiceLoss(mode="binary", from_logits=True)
    images = torch.rand(BATCH, 3, TILE_PX, TILE_PX).contiguous(memory_format=torch.channels_last)
    masks = (torch.rand(BATCH, 1, TILE_PX, TILE_PX) > 0.5).float()
    with calm.following() as look:

        def step() -> None:
            look()
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                logits = model(images)
            optimiser.zero_grad(set_to_none=True)
            loss(logits.float(), masks).backward()
            optimiser.step()

        _print_ms(step)


def window() -> None:
    """Print the milliseconds of a window through the engine that `auto` tries first."""
    import numpy as np

    from tests.benchmarks.bench_inference import network
    from tlskit.networks import engines

    engine = engines.make_engine(network(), window_px=WINDOW_PX, device="cpu")
    windows = np.random.default_rng(0).integers(0, 256, (4, WINDOW_PX, WINDOW_PX, 3), dtype=np.uint8)
    _print_ms(lambda: engine.predict(windows), amount=len(windows))


def _print_ms(once, amount: int = 1) -> None:
    until = time.perf_counter() + SETTLE_S
    while time.perf_counter() < until:
        once()
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURE_S:
        once()
        times += 1
    print(1000 * (time.perf_counter() - began) / times / amount)
