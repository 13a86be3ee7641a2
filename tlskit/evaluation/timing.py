"""How long whole-slide inference takes, by stage, and what that means for a slide of usual size."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tlskit import units
from tlskit.cohort import open_row, slide_rows
from tlskit.errors import ParameterError, TlskitError
from tlskit.maps import inference
from tlskit.metrics import PERSON_MINUTES_PER_SLIDE
from tlskit.networks import describe_hardware, engines

__all__ = ["project_timings", "summarise_timings", "time_inference"]

log = logging.getLogger(__name__)

#: Columns of what a measurement stands on, the same in every row of it.
_SETTING = (
    "magnification", "mpp", "window_px", "stride_px", "batch_size", "engine", "precision", "device", "threads", "cpu",
    "gpu", "allocator",
)  # fmt: skip


def time_inference(
    checkpoint,
    manifest_rows: Iterable,
    *,
    repeats: int = 3,
    batch_size: int = 8,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    engine_note=None,
    out_dir=None,
    on_failure=None,
    on_prediction=None,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Predict slides several times over, and keep the seconds of every stage.

    The engine is made, checked and warmed up before, which is timed apart. The first pass over a slide is cold: the
    operating system is asked to forget the file (where it lets itself be asked: Linux; elsewhere cold means first).
    Passes go round the slides in turn, so that a busy spell of the machine does not fall on one slide alone. Maps are
    written, as in earnest, and thrown away unless `out_dir` is given.

    Parameters
    ----------
    checkpoint : models.Checkpoint or path
        Loading is timed where a path is given.
    manifest_rows : DataFrame or iterable of its rows
    repeats : int
        Passes over every slide, the cold one included.
    batch_size, engine, precision, device, threads, options
        See `inference.predict_slide`.
    engine_note : path, optional
        What was chosen for the maps whose making is timed: see `engines.EngineSource`.
    out_dir : path, optional
        Where to leave the maps.
    on_failure : callable, optional
        Called with slide_id and exception for a slide that fails, which is then left out; without it the error is
        raised.
    on_prediction : callable, optional
        Called with the `inference.Prediction` of every pass, whose events make a timeline.

    Returns
    -------
    DataFrame
        One row a slide, pass and stage: slide_id, repeat, warm, stage, kind, seconds; kind is "work" (stages of
        `inference.STAGES`), "wait" (at the queues), "wall", or, with an empty slide_id, "setup" (load, compile, check;
        "load_compiled" in place of compile where what an earlier step had compiled was loaded). Stages run beside one
        another: they do not add up to the wall time. Then windows, windows_skipped, tissue_mm2, map_mpx (10**6 working
        pixels of the whole slide), level, reader, max_dprob, and the setting: magnification, mpp, window_px,
        stride_px, batch_size, engine, precision, device, threads, cpu, gpu, allocator.
    """
    if repeats < 1:
        raise ParameterError(f"`repeats` should be at least 1, not {repeats!r}.")
    load_s = 0.0
    if isinstance(checkpoint, (str, Path)):
        from tlskit.networks import load_checkpoint

        start = time.perf_counter()
        checkpoint = load_checkpoint(checkpoint, device=device)
        load_s = time.perf_counter() - start
    if isinstance(manifest_rows, pd.DataFrame):
        manifest_rows = slide_rows(manifest_rows)
    slides = list(manifest_rows)
    layout = inference.layout_for(checkpoint, overlap=options.get("overlap"))
    source = engines.EngineSource(
        checkpoint, engine=engine, precision=precision, window_px=layout.window_px, device=device, threads=threads,
        note=engine_note,
    )  # fmt: skip
    rows: list[dict] = []
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=repeats * len(slides), desc="timing", unit="slide", disable=not progress))
        folder = Path(out_dir) if out_dir else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        failed = set()
        for repeat in range(repeats):
            for row in slides:
                bar.update()
                if row.slide_id in failed:
                    continue
                try:
                    if source.made is None:
                        _warm_up(source, row, checkpoint, layout, batch_size)
                    if repeat == 0:
                        _forget(row.slide_path)
                    start = time.perf_counter()
                    with open_row(row, **inference.reading_of(checkpoint)) as slide:
                        open_s = time.perf_counter() - start
                        prediction = inference.predict_slide(
                            checkpoint, slide, folder / f"{row.slide_id}.tif", slide_id=row.slide_id, engine=source,
                            batch_size=batch_size, progress=False, resume=False, **options,
                        )  # fmt: skip
                except (TlskitError, OSError) as error:
                    if on_failure is None:
                        raise
                    failed.add(row.slide_id)
                    on_failure(row.slide_id, error)
                    continue
                rows += _rows(prediction, repeat, open_s)
                if on_prediction is not None:
                    on_prediction(prediction)
                if out_dir is None:
                    prediction.path.unlink()
    rows = [row for row in rows if row["slide_id"] not in failed]
    setting = _setting(checkpoint, layout, batch_size, source)
    if source.made is not None:
        making = "load_compiled" if source.made.is_loaded else "compile"
        setup = {"load": load_s, making: source.made.compile_s, "check": source.made.check_s}
        rows = [
            {"slide_id": "", "repeat": 0, "warm": False, "stage": stage, "kind": "setup", "seconds": seconds}
            for stage, seconds in setup.items()
        ] + rows
    return pd.DataFrame(rows).assign(**setting)


def _rows(prediction: inference.Prediction, repeat: int, open_s: float) -> list[dict]:
    common = {"slide_id": prediction.slide_id, "repeat": repeat, "warm": repeat > 0}
    facts = {
        "windows": prediction.windows,
        "windows_skipped": prediction.windows_skipped,
        "tissue_mm2": prediction.tissue_mm2,
        "map_mpx": prediction.map_px[0] * prediction.map_px[1] / 1e6,
        "level": prediction.level,
        "reader": prediction.reader,
        "max_dprob": prediction.max_dprob,
    }
    seconds = dict(prediction.stage_s)
    seconds["open"] += open_s
    kinds = {stage: "wait" if stage.startswith("wait_") else "work" for stage in seconds} | {"wall": "wall"}
    seconds["wall"] = prediction.wall_s + open_s
    return [{**common, "stage": stage, "kind": kinds[stage], "seconds": s, **facts} for stage, s in seconds.items()]


def _setting(checkpoint, layout, batch_size: int, source: engines.EngineSource) -> dict:
    made = source.made
    hardware = describe_hardware(made.device if made else "auto")
    return {
        "magnification": float(checkpoint.magnification),
        "mpp": float(checkpoint.mpp),
        "window_px": layout.window_px,
        "stride_px": layout.stride_px,
        "batch_size": batch_size,
        "engine": made.name if made else source.asked[0],
        "precision": made.precision if made else source.asked[1],
        **{name: hardware[name] for name in ("device", "threads", "cpu", "gpu", "allocator")},
    }


def _warm_up(source, row, checkpoint, layout, batch_size) -> None:
    """Choose and run the engine once, on windows of a slide that hold tissue."""
    with open_row(row, **inference.reading_of(checkpoint)) as slide:
        windows = inference.typical_windows(checkpoint, slide, layout, max(batch_size, engines.CHECK_WINDOWS))
    if len(windows):
        source.get(windows).predict(np.ascontiguousarray(windows[:batch_size]))


def _forget(path) -> None:
    """Ask the operating system to drop a file from its cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError), open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def summarise_timings(timings: pd.DataFrame) -> pd.DataFrame:
    """Medians and spread of wall times: one row a slide, cold and warm, and one for all slides together.

    Parameters
    ----------
    timings : DataFrame
        Of `time_inference`.

    Returns
    -------
    DataFrame
        slide_id ("all" for the whole), warm, n (passes), wall_s (median), wall_s_min, wall_s_max, wall_s_iqr,
        tissue_mm2, windows, s_per_window, s_per_cm2 (of tissue), s_per_mpx (of tissue, in 10**6 working pixels),
        minutes_per_slide, slides_per_minute (of the slides timed; a person's minutes stand beside `project_timings`),
        and the setting. Of "all", wall_s is the mean of the slides' medians, and minimum, maximum and
        interquartile range are those of the medians.
    """
    walls = timings[timings["kind"] == "wall"]
    if walls.empty:
        raise ParameterError("There is nothing to summarise: no slide was timed to its end.")
    setting = {name: timings[name].iloc[0] for name in _SETTING if name in timings}
    px_per_mm2 = 1e6 / setting["mpp"] ** 2
    rows = []
    for warm, group in walls.groupby("warm"):
        slides = []
        for slide_id, passes in group.groupby("slide_id", sort=False):
            slides.append(
                {"slide_id": slide_id, "warm": warm, "n": len(passes), **_spread(passes["seconds"])}
                | {name: passes[name].iloc[0] for name in ("tissue_mm2", "windows")}
            )
        table = pd.DataFrame(slides)
        whole = {"slide_id": "all", "warm": warm, "n": int(table["n"].sum()), **_spread(table["wall_s"])}
        whole |= {"wall_s": table["wall_s"].mean(), "tissue_mm2": table["tissue_mm2"].mean()}
        rows += [*slides, whole | {"windows": table["windows"].mean()}]
    table = pd.DataFrame(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        table["s_per_window"] = table["wall_s"] / table["windows"]
        table["s_per_cm2"] = table["wall_s"] / (table["tissue_mm2"] / 100.0)
        table["s_per_mpx"] = table["wall_s"] / (table["tissue_mm2"] * px_per_mm2 / 1e6)
    table["minutes_per_slide"] = table["wall_s"] / 60.0
    table["slides_per_minute"] = 60.0 / table["wall_s"]
    return table.replace([np.inf, -np.inf], np.nan).assign(**setting)


def _spread(seconds: pd.Series) -> dict:
    low, high = np.percentile(seconds, [25, 75])
    return {
        "wall_s": seconds.median(),
        "wall_s_min": seconds.min(),
        "wall_s_max": seconds.max(),
        "wall_s_iqr": high - low,
    }


def project_timings(
    timings: pd.DataFrame,
    *,
    size_px0: tuple[int, int] = (80_000, 60_000),
    mpp0: float = 0.25,
    tissue_fraction: float = 0.4,
) -> pd.DataFrame:
    """What a slide of usual size would take: windows on its tissue, times the seconds a window took here.

    The tissue is thought of as one piece of the slide's proportions, w x h; windows of side S that advance by T touch
    it in ``(w + S) (h + S) / T ** 2`` places in the mean (the area of its Minkowski sum with a window), at most all of
    the slide. Tissue in many pieces takes more. Seconds a window are a slide's wall time over its windows, so that
    reading, blending and writing are in them; warm passes where there are any. `minutes_low` and `minutes_high` come
    from the fastest and the slowest pass.

    Parameters
    ----------
    timings : DataFrame
        Of `time_inference`.
    size_px0, mpp0, tissue_fraction
        The slide: level-0 pixels, um/px, and the share of it that is tissue. By default 80,000 x 60,000 px at 40x.

    Returns
    -------
    DataFrame
        One row: magnification, mpp, width_px0, height_px0, mpp0, tissue_fraction, tissue_mm2, windows, s_per_window,
        minutes (nan where no timed slide holds tissue), minutes_low, minutes_high, person_minutes_low,
        person_minutes_high, measured_windows, and the setting.
    """
    walls = timings[timings["kind"] == "wall"]
    if walls.empty:
        raise ParameterError("There is nothing to project from: no slide was timed to its end.")
    if not walls["windows"].any():
        log.warning("No timed slide holds tissue: there is nothing to project from.")
    if not 0 < tissue_fraction <= 1:
        raise ParameterError(f"`tissue_fraction` should lie in (0, 1], not {tissue_fraction!r}.")
    if walls["warm"].any():
        walls = walls[walls["warm"]]
    setting = {name: timings[name].iloc[0] for name in _SETTING if name in timings}
    units.downsample(setting["mpp"], mpp0)  # a scan too coarse for this magnification is an error
    tissue_mm2 = units.area_mm2(size_px0[0] * size_px0[1], mpp0) * tissue_fraction
    window_um, step_um = (setting[name] * setting["mpp"] for name in ("window_px", "stride_px"))
    sides_um = [side * mpp0 for side in size_px0]
    windows = math.prod(side * math.sqrt(tissue_fraction) + window_um for side in sides_um) / step_um**2
    windows = min(windows, math.prod(math.ceil(side / step_um) for side in sides_um))
    # A slide with many windows tells more than one with few: seconds over windows, pass by pass of the whole set.
    passes = walls.groupby("repeat")[["seconds", "windows"]].sum()
    per_window = passes["seconds"] / passes["windows"].where(passes["windows"] > 0)
    return pd.DataFrame(
        [
            {
                "width_px0": size_px0[0],
                "height_px0": size_px0[1],
                "mpp0": mpp0,
                "tissue_fraction": tissue_fraction,
                "tissue_mm2": tissue_mm2,
                "windows": round(windows),
                "s_per_window": per_window.median(),
                "minutes": windows * per_window.median() / 60.0,
                "minutes_low": windows * per_window.min() / 60.0,
                "minutes_high": windows * per_window.max() / 60.0,
                "person_minutes_low": PERSON_MINUTES_PER_SLIDE[0],
                "person_minutes_high": PERSON_MINUTES_PER_SLIDE[1],
                "measured_windows": int(walls["windows"].sum()),
                **setting,
            }
        ]
    )
