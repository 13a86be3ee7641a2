"""How long a study will take on this machine: a guess, made of its parameters and of a look at how fast the network is.

It is worth what a guess is worth (a factor of two); once some notebooks are done, the rest is measured by theirs.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping

from tlskit import cohort, units
from tlskit.errors import TlskitError
from tlskit.files import resolve
from tlskit.outlines import read_annotations
from tlskit.study import keys, planning, preflight

__all__ = ["guess_seconds", "in_words", "seconds_left"]

#: Start of a kernel, its imports, its figures.
_NOTEBOOK_S = 8.0
#: The comparison draws some fifty figures.
_MEETING_S = 45.0
#: A step of training in forward passes of the same pixels: forward, backward, the optimiser, reading.
_TRAINING = 3.5
#: Share of a slide that is tissue.
_TISSUE = 0.5


@functools.cache
def forward_s_per_px(encoder: str) -> float:
    """Seconds of the network for a pixel, from two looks at one tile of 256 px.

    On a processor its own time on one core counts, so that what else runs at this moment does not.
    """
    import torch

    from tlskit import networks

    model = networks.models.build_model(encoder=encoder, encoder_weights="none").eval()
    on_gpu = networks.describe_hardware()["device"] == "cuda"
    device, clock = ("cuda", time.perf_counter) if on_gpu else ("cpu", time.thread_time)
    model, tile = model.to(device), torch.full((1, 3, 256, 256), 0.5, device=device)
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(3):
                begun = clock()
                model(tile).sum().item()
                seconds.append(clock() - begun)
    finally:
        torch.set_num_threads(threads)
    cores = 1 if on_gpu else 0.8 * min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    return min(seconds[1:]) / max(1, cores) / 256**2


def guess_seconds(preset: dict) -> dict[tuple[str, str], float]:
    """Seconds of each notebook that a preset asks for, by arm and step.

    Parameters
    ----------
    preset
        As `planning.prepare` returns it.
    """
    arms = preflight.arms_of(preset)
    areas, boxes = preflight.areas_um2_of(arms[0]), _boxes_um(arms[0])
    found = {}
    for arm in arms:
        for step, seconds in _of_arm(arm, areas, boxes, forward_s_per_px(arm["encoder"])).items():
            found[arm["arm"], step] = seconds
    for step in planning.meetings(preset):
        found[keys.MEETINGS[step], step] = _MEETING_S
    return found


def _of_arm(arm: Mapping, areas_um2: list[float], boxes_um: list[tuple[float, float]], px_s: float) -> dict[str, float]:
    mpp, tile_px = units.mpp_for_magnification(arm["magnification"]), arm["tile_px"]
    stride = tile_px * (1 - arm["overlap"])
    tiles = sum((w / mpp + tile_px) * (h / mpp + tile_px) / stride**2 for w, h in boxes_um)
    tiles = min(tiles, sum(areas_um2) / mpp**2 / stride**2)
    training, *_ = arm["split_ratios"]
    training = training / (sum(arm["split_ratios"]) or 1)
    drawn = arm["steps_per_epoch"] * arm["batch_size"] if arm["steps_per_epoch"] else tiles * training
    pixel_s = px_s * tile_px**2
    # What the network sees of a slide: its tissue, as often as windows overlap. Several overlaps are compared in one
    # pass of a third more windows than a half has; of `auto` its maps of a half are kept.
    overlap = preflight.densest_overlap(arm)
    slides = [area / mpp**2 * _TISSUE / (1 - overlap) ** 2 * px_s for area in areas_um2]
    mean = sum(slides) / max(1, len(slides))
    compared = preflight.slides_compared(arm, len(slides))
    a_pass = mean * (1 - overlap) ** 2 * 4 * (4 / 3) - (mean if arm["window_overlap"] == "auto" else 0.0)
    untrained = sum(slides) * (1 - training) + compared * a_pass
    timed = arm["timing_slides"] or max(1, len(slides) * arm["split_ratios"][-1])
    work = {
        "01_tiling": 0.5 * len(slides),
        "02_patient_split": 0.0,
        "03_training": arm["epochs"] * (drawn * _TRAINING + tiles * (1 - training) / 2) * pixel_s,
        "04_tile_evaluation": tiles * (1 - training) / 2 * pixel_s,
        "05_wsi_evaluation": untrained,
        "06_wsi_inference_timing": timed * arm["timing_repeats"] * mean,
    }
    return {step: _NOTEBOOK_S + work.get(step, 0.0) for step in keys.STEPS}


def _boxes_um(arm: Mapping) -> list[tuple[float, float]]:
    """Widths and heights of the target's outlines, um."""
    wanted = arm["target_class"] if isinstance(arm["target_class"], (list, tuple)) else [arm["target_class"]]
    boxes = []
    for row in cohort.slide_rows(cohort.read_manifest(resolve(arm["manifest"]))):
        try:
            outlines = read_annotations(row.annotation_path).outlines if row.annotation_path else []
            with cohort.open_row(row, resolution_by=arm["resolution_by"]) as slide:
                mpp0 = slide.mpp0
        except (TlskitError, OSError):  # told by the check
            continue
        for outline in outlines:
            if outline.class_name in wanted:
                x0, y0, x1, y1 = outline.geometry.bounds
                boxes.append(((x1 - x0) * mpp0, (y1 - y0) * mpp0))
    return boxes


def seconds_left(
    guessed: Mapping[tuple[str, str], float],
    took: Mapping[tuple[str, str], float],
    running: Mapping[tuple[str, str], float] | None = None,
    told: Mapping[tuple[str, str], float] | None = None,
) -> float:
    """What is left, measured by what is done.

    Parameters
    ----------
    guessed
        Of `guess_seconds`, all notebooks.
    took
        Seconds of those that are done.
    running
        Seconds that those under way have been running.
    told
        Seconds that those under way need yet, of those that tell by what they have done.
    """
    running, told = running or {}, told or {}
    known = [name for name in took if name in guessed]
    factor = sum(took[name] for name in known) / sum(guessed[name] for name in known) if known else 1.0
    left = 0.0
    for name, seconds in guessed.items():
        if name in told:
            left += told[name]
        elif name not in took:
            # One that is longer under way than was guessed is not nearly done for that: a fifth of it is added.
            left += max(seconds * factor - running.get(name, 0.0), 0.2 * running.get(name, 0.0))
    return left


def in_words(seconds: float) -> str:
    """``about 3 minutes``, ``about 2.5 hours``."""
    if seconds < 50:
        return "less than a minute"
    if seconds < 90 * 60:
        minutes = round(seconds / 60)
        return "about a minute" if minutes == 1 else f"about {minutes} minutes"
    return f"about {seconds / 3600:.1f} hours" if seconds < 36 * 3600 else f"about {seconds / 86400:.1f} days"
