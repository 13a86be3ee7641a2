"""The cascades of a run: every coarse arm before every finer one, chosen on validation, run for real on test slides.

Maps, thresholds and settings are those of the archived arms.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.errors import RunError
from tlskit.evaluation import cascade
from tlskit.evaluation.arm_tables import arms, collect
from tlskit.evaluation.counting import evaluate_grid
from tlskit.files import write_text
from tlskit.maps import make_screen, open_map, predict_cohort
from tlskit.metrics import objects, uncertainty

__all__ = [
    "SCREENS",
    "cascade_minutes",
    "cascade_scores",
    "choose_screens",
    "read_screen",
    "run_cascade",
    "summarise_screens",
    "trade_off",
    "write_screens",
]

#: Where the chosen settings of a run's cascades are kept, for `tlskit predict`.
SCREENS = "cascade/work/screens.json"

PAIR = ["coarse", "fine"]


def _pairs(run_dir: Path) -> list[tuple[pd.Series, pd.Series]]:
    """Arms that differ in magnification alone, the coarser one first."""
    table, factors = arms(run_dir), run_dir / "arms.csv"
    others: dict[str, str] = {}
    if factors.is_file():
        known = pd.read_csv(factors, dtype=str).set_index("arm").drop(columns="magnification", errors="ignore")
        others = {arm: json.dumps(row.dropna().to_dict()) for arm, row in known.iterrows()}
    table["others"] = [others.get(arm, "") for arm in table["arm"]]
    rows = [row for _, row in table.iterrows()]
    pairs = [
        (a, b)
        for a, b in itertools.combinations(sorted(rows, key=lambda row: row["magnification"]), 2)
        if a["magnification"] < b["magnification"] and a["others"] == b["others"]
    ]
    if not pairs:
        raise RunError(f"The run {run_dir.name} has no two arms that differ in magnification alone: no cascade.")
    return pairs


def _recorded(arm_dir: Path, step: str) -> dict:
    path = arm_dir / "records" / f"{step}.json"
    if not path.is_file():
        raise RunError(f"The arm {arm_dir.name} has no record of {step}: run it first.")
    return json.loads(path.read_text(encoding="utf-8"))["values"]


def _truth(arm_dir: Path) -> dict:
    made = _recorded(arm_dir, "01_tiling")
    return {name: made[name] for name in ("target_class", "ignore_class", "missing_target", "resolution_by")}


def _maps(arm_dir: Path) -> pd.DataFrame:
    """The arm's maps, made by its present network: slide_id, map_path."""
    wanted, rows = _recorded(arm_dir, "03_training")["checkpoint_sha256"], []
    for path in sorted((arm_dir / "work" / "maps").glob("*.tif")):
        with open_map(path) as found:
            if found.metadata.get("checkpoint_sha256") != wanted:
                raise RunError(
                    f"{arm_dir.name}/work/maps/{path.name} was made by another network than the arm's checkpoint: run "
                    "05_wsi_evaluation again."
                )
            rows.append({"slide_id": found.metadata["slide_id"], "map_path": str(path)})
    if not rows:
        raise RunError(f"The arm {arm_dir.name} has no probability maps: run 05_wsi_evaluation first.")
    return pd.DataFrame(rows)


def trade_off(
    run_dir: str | Path,
    slides: pd.DataFrame,
    *,
    threshold: float = 0.5,
    grid_mpp: float = 4.0,
    controls: bool = False,
    settings: pd.DataFrame | None = None,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> pd.DataFrame:
    """What every setting of every pair of arms keeps of each slide.

    Parameters
    ----------
    run_dir
        Folder of the run.
    slides
        Of the manifest, with ``split``: those to look at.
    threshold, grid_mpp, controls, on_failure
        Of `cascade.screen_counts`.
    settings
        One row a pair (of `choose_screens`), to look at these alone; by default the whole grid of settings.

    Returns
    -------
    DataFrame
        coarse, fine (arms), then the columns of `cascade.screen_counts`.
    """
    tables = []
    for coarse, fine in _pairs(Path(run_dir)):
        tried = {}
        if settings is not None:
            chosen = settings[(settings["coarse"] == coarse["arm"]) & (settings["fine"] == fine["arm"])].iloc[0]
            is_map = chosen["screen"] == "map"
            tried = {
                "screen_thresholds": [float(chosen["screen_threshold"])] if is_map else [],
                "grow_um": [float(chosen["grow_um"])] if is_map else [],
            }
        table = cascade.screen_counts(
            _maps(fine["dir"]), _maps(coarse["dir"]), slides, threshold=threshold, grid_mpp=grid_mpp, controls=controls,
            on_failure=on_failure, **tried, **_truth(fine["dir"]),
        )  # fmt: skip
        tables.append(table.assign(coarse=coarse["arm"], fine=fine["arm"]))
    table = pd.concat(tables, ignore_index=True)
    return table[[*PAIR, *table.columns.drop(PAIR)]]


def summarise_screens(counts: pd.DataFrame) -> pd.DataFrame:
    """`cascade.screen_summary` by pair and split: coarse, fine, split and its columns."""
    keys = [*PAIR, "split"]
    parts = [
        cascade.screen_summary(here).assign(**dict(zip(keys, key, strict=True)))
        for key, here in counts.groupby(keys, sort=False)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[[*keys, *table.columns.drop(keys)]]


def choose_screens(counts: pd.DataFrame, *, recall_floor: float = 0.99) -> pd.DataFrame:
    """The screen of each pair, chosen on validation slides (`cascade.choose_screen`), and the pair one would run.

    Returns
    -------
    DataFrame
        coarse, fine, the columns of `cascade.choose_screen`, and ``is_run``: True for the one pair with the highest
        Dice on validation slides (of equals, the one that runs the smallest share of windows) of those that spare any.
    """
    rows = [
        dict(zip(PAIR, pair, strict=True)) | cascade.choose_screen(here, recall_floor=recall_floor)
        for pair, here in counts.groupby(PAIR, sort=False)
    ]
    table = pd.DataFrame(rows)
    spares = table[table["windows_share"] < 1]
    best = (spares if len(spares) else table).sort_values(["dice", "windows_share"], ascending=[False, True])
    return table.assign(is_run=table.index == best.index[0])


def _sha(run_dir: Path, arm: str) -> str:
    return _recorded(run_dir / arm, "03_training")["checkpoint_sha256"]


def write_screens(run_dir: str | Path, chosen: pd.DataFrame) -> Path:
    """Keep the chosen settings, with the networks that they hold for, where `read_screen` finds them."""
    run_dir = Path(run_dir)
    plain = chosen[[*PAIR, "screen", "screen_threshold", "grow_um", "recall_floor", "by", "reason"]]
    rows = json.loads(plain.to_json(orient="records"))
    for row in rows:
        row |= {f"{side}_sha256": _sha(run_dir, row[side]) for side in PAIR}
    return write_text(run_dir / SCREENS, json.dumps(rows, indent=1) + "\n")


def read_screen(run_dir: str | Path, *, coarse_sha256: str, fine_sha256: str) -> dict:
    """The setting that a run's notebook ``cascade`` chose for two networks.

    Raises
    ------
    RunError
        If it chose none for these two.
    """
    path = Path(run_dir) / SCREENS
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for row in rows:
        if (row["coarse_sha256"], row["fine_sha256"]) == (coarse_sha256, fine_sha256):
            return row
    raise RunError(
        f"{path.name} of the run {Path(run_dir).name} holds no screen for these two networks. Run the notebook "
        "cascade, or give --screen-threshold and --screen-grow-um."
    )


def run_cascade(
    run_dir: str | Path,
    slides: pd.DataFrame,
    chosen: pd.Series,
    out_dir: str | Path,
    *,
    checkpoint,
    **options,
) -> pd.DataFrame:
    """Run a chosen cascade for real, on slides whose coarse maps are archived.

    Parameters
    ----------
    chosen
        A row of `choose_screens`.
    checkpoint
        Of the fine arm.
    options
        Of `maps.predict_cohort`.

    Returns
    -------
    DataFrame
        Of `maps.predict_cohort`.
    """
    coarse = _maps(Path(run_dir) / chosen["coarse"]).set_index("slide_id")["map_path"]

    def screen_for(slide_id: str):
        if chosen["screen"] != "map":
            return None
        with open_map(coarse[str(slide_id)]) as found:
            return make_screen(found, threshold=chosen["screen_threshold"], grow_um=chosen["grow_um"])

    return predict_cohort(checkpoint, slides, out_dir, screen_for=screen_for, **options)


def cascade_scores(
    run_dir: str | Path,
    slides: pd.DataFrame,
    chosen: pd.Series,
    maps: pd.DataFrame,
    *,
    threshold: float = 0.5,
    grid_mpp: float = 4.0,
    min_object_um2: float = 1000.0,
    on_failure=None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cascade that was run beside its fine and its coarse network alone, on the same test slides.

    Returns
    -------
    DataFrame
        One row each of the cascade and the two arms: arm, dice, iou, recall, precision with ``<score>_low`` and
        ``<score>_high`` (95 % over patients), object_recall, object_f1, false_objects_per_mm2, slides_lost (slides
        with a target on which nothing of it is found), n_slides, n_patients, n_with_target, warning.
    DataFrame
        Paired differences, cascade less each arm: `uncertainty.differences`.
    """
    run_dir = Path(run_dir)
    of = {"cascade": maps, **{chosen[side]: _maps(run_dir / chosen[side]) for side in reversed(PAIR)}}
    rows, counts = [], []
    for arm, table in of.items():
        table = table[table["slide_id"].isin(slides["slide_id"].astype(str))]
        grid = evaluate_grid(
            table, slides, threshold=threshold, grid_mpp=grid_mpp, min_object_um2=min_object_um2, on_failure=on_failure,
            **_truth(run_dir / chosen["fine"]),
        )  # fmt: skip
        found = objects.object_scores(grid.objects, grid.objects_per_slide).iloc[0]
        of_slides = grid.counts
        lost = (of_slides["tp"] == 0) & (of_slides["tp"] + of_slides["fn"] > 0)
        rows.append(
            {"arm": arm, "object_recall": found["recall"], "object_f1": found["f1"]}
            | {"false_objects_per_mm2": found["false_objects_per_cm2"] / 100, "slides_lost": int(lost.sum())}
        )
        counts.append(of_slides.assign(arm=arm))
    counts = pd.concat(counts, ignore_index=True)
    scores = ["dice", "iou", "recall", "precision"]
    sure = uncertainty.intervals(counts, scores=scores, by=["arm"])
    table = pd.DataFrame(rows)
    for score in scores:
        of_score = sure[sure["score"] == score].set_index("arm").loc[table["arm"]].reset_index()
        table[score], table[f"{score}_low"], table[f"{score}_high"] = (
            of_score["estimate"],
            of_score["low"],
            of_score["high"],
        )
    for name in ("n_slides", "n_patients", "n_with_target", "warning"):
        table[name] = of_score[name]
    apart = uncertainty.differences(counts, scores=scores, by=["arm"])
    return table, apart[apart["first"] == "cascade"].reset_index(drop=True)


def cascade_minutes(run_dir: str | Path, counts: pd.DataFrame) -> pd.DataFrame:
    """Minutes that the chosen cascades take on the slides of `counts`, by the seconds a window takes in 06.

    Parameters
    ----------
    counts
        Of `trade_off` at the chosen settings.

    Returns
    -------
    DataFrame
        coarse, fine, minutes (a slide, the screen's own included), minutes_screen, minutes_full (the fine network
        alone), minutes_coarse (the coarse one alone), times_faster, n_slides. nan where an arm was not timed.
    """
    walls = collect(run_dir, "06_stages")
    walls = walls[(walls["kind"] == "wall") & (walls["windows"] > 0)]
    warm = walls[walls["warm"].astype(bool)]
    timed = warm if len(warm) else walls
    per_window = timed.groupby("arm")["seconds"].sum() / timed.groupby("arm")["windows"].sum()
    rows = []
    for pair, here in counts[counts["screen"].isin(["map", "none"])].groupby(PAIR, sort=False):
        coarse, fine = pair
        full = here[here["screen"] == "none"]
        chosen = here[here["screen"] == "map"] if (here["screen"] == "map").any() else full
        coarse_windows = _windows_of(Path(run_dir) / coarse, full["slide_id"])
        seconds = {arm: per_window.get(arm, np.nan) for arm in pair}
        n = len(full)
        screen = coarse_windows * seconds[coarse] / 60 / n
        whole = full["windows"].sum() * seconds[fine] / 60 / n
        minutes = chosen["windows"].sum() * seconds[fine] / 60 / n + screen
        rows.append(
            {"coarse": coarse, "fine": fine, "minutes": minutes, "minutes_screen": screen, "minutes_full": whole}
            | {"minutes_coarse": screen, "times_faster": whole / minutes if minutes else np.nan, "n_slides": n}
        )
    return pd.DataFrame(rows)


def _windows_of(arm_dir: Path, slide_ids) -> int:
    maps = _maps(arm_dir).set_index("slide_id")["map_path"]
    total = 0
    for slide_id in slide_ids:
        with open_map(maps[slide_id]) as found:
            total += int(found.metadata["windows"])
    return total
