"""The cascades of a run: every coarse arm before every finer one, chosen on validation, run for real on test slides.

Maps, split and networks are those of the archived arms.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tlskit import cohort
from tlskit.errors import RunError
from tlskit.evaluation import cascade, screen_choice
from tlskit.evaluation.arm_tables import arms
from tlskit.evaluation.stored_screens import SCREENS
from tlskit.files import write_text
from tlskit.maps import make_screen, noted_overlap, open_map, predict_cohort
from tlskit.networks import load_checkpoint

__all__ = [
    "PAIR", "choose", "kept_by_size", "maps_of", "pairs", "recorded", "run_cascade",
    "slides_of", "summarise", "trade_off", "truth_of", "write_screens",
]  # fmt: skip

#: Columns that name a cascade.
PAIR = ["coarse", "fine"]


def pairs(run_dir: str | Path) -> list[tuple[pd.Series, pd.Series]]:
    """Arms of a run that differ in magnification alone (rows of `arms`), the coarser one first.

    Raises
    ------
    RunError
        If there are no two such arms.
    """
    run_dir = Path(run_dir)
    table, factors = arms(run_dir), run_dir / "arms.csv"
    others: dict[str, str] = {}
    if factors.is_file():
        known = pd.read_csv(factors, dtype=str).set_index("arm").drop(columns="magnification", errors="ignore")
        others = {arm: json.dumps(row.dropna().to_dict()) for arm, row in known.iterrows()}
    rows = [row for _, row in table.sort_values("magnification", kind="stable").iterrows()]
    found = [
        (a, b)
        for a, b in itertools.combinations(rows, 2)
        if a["magnification"] < b["magnification"] and others.get(a["arm"], "") == others.get(b["arm"], "")
    ]
    if not found:
        raise RunError(f"The run {run_dir.name} has no two arms that differ in magnification alone: no cascade.")
    return found


def recorded(arm_dir: Path, step: str) -> dict:
    """What a step of an arm has recorded.

    Raises
    ------
    RunError
        If it has not been run.
    """
    path = arm_dir / "records" / f"{step}.json"
    if not path.is_file():
        raise RunError(f"The arm {arm_dir.name} has no record of {step}: run it first.")
    return json.loads(path.read_text(encoding="utf-8"))["values"]


def truth_of(arm_dir: Path) -> dict:
    """What an arm counts as truth, as `evaluate_grid` takes it."""
    made = recorded(arm_dir, "01_tiling")
    names = ("target_class", "ignore_class", "region_class", "missing_target", "resolution_by")
    return {name: made[name] for name in names if name in made}


def slides_of(run_dir: Path, arm: str, manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """The slides of one set, by the split (or the fold) that an arm was trained by."""
    fold = recorded(run_dir / arm, "02_patient_split").get("fold", 0)
    table = cohort.attach_split(manifest, cohort.read_split(run_dir / "split.csv", fold=fold))
    return table[table["split"] == split]


def maps_of(arm_dir: Path) -> pd.DataFrame:
    """The maps of an arm, by its present network: slide_id, map_path.

    Raises
    ------
    RunError
        If there are none, or one is of another network.
    """
    wanted, rows = recorded(arm_dir, "03_training")["checkpoint_sha256"], []
    for path in sorted((arm_dir / "work" / "maps").glob("*.tif")):
        with open_map(path) as found:
            if found.metadata.get("checkpoint_sha256") != wanted:
                raise RunError(
                    f"{arm_dir.name}/work/maps/{path.name} was made by another network than the arm's checkpoint: run "
                    "05_wsi_evaluation again."
                )
            rows.append({"slide_id": str(found.metadata["slide_id"]), "map_path": str(path)})
    if not rows:
        raise RunError(f"The arm {arm_dir.name} has no probability maps: run 05_wsi_evaluation first.")
    return pd.DataFrame(rows)


def trade_off(
    run_dir: str | Path,
    manifest: pd.DataFrame,
    *,
    split: str,
    threshold: float = 0.5,
    grid_mpp: float = 4.0,
    controls: bool = True,
    settings: pd.DataFrame | None = None,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> pd.DataFrame:
    """What every setting of every cascade keeps of each slide.

    Parameters
    ----------
    run_dir
        Folder of the run.
    manifest
        Of the cohort.
    split
        ``val`` or ``test``: whose slides.
    threshold, grid_mpp, controls, on_failure
        Of `cascade.screen_counts`.
    settings
        Of `choose`: look at these alone; by default at the whole grid of settings.

    Returns
    -------
    DataFrame
        coarse, fine (arms), pair (in words), then the columns of `cascade.screen_counts`.
    """
    run_dir, tables = Path(run_dir), []
    for coarse, fine in pairs(run_dir):
        tried = {}
        if settings is not None:
            chosen = settings[(settings["coarse"] == coarse["arm"]) & (settings["fine"] == fine["arm"])].iloc[0]
            is_map = chosen["screen"] == "map"
            tried = {
                "screen_thresholds": [float(chosen["screen_threshold"])] if is_map else [],
                "grow_um": [float(chosen["grow_um"])] if is_map else [],
            }
        slides = slides_of(run_dir, fine["arm"], manifest, split)
        fine_maps = maps_of(fine["dir"]).merge(slides[["slide_id"]].astype(str))
        table = cascade.screen_counts(
            fine_maps, maps_of(coarse["dir"]), slides, threshold=threshold, grid_mpp=grid_mpp, controls=controls,
            on_failure=on_failure, **tried, **truth_of(fine["dir"]),
        )  # fmt: skip
        names = {"coarse": coarse["arm"], "fine": fine["arm"], "pair": f"{coarse['arm']} before {fine['arm']}"}
        tables.append(table.assign(**names)[[*names, *table.columns]])
    return pd.concat(tables, ignore_index=True)


def summarise(counts: pd.DataFrame, chosen: pd.DataFrame | None = None) -> pd.DataFrame:
    """`screen_choice.screen_summary` by cascade: coarse, fine, pair, its columns, and is_chosen (by `choose`)."""
    keys, parts = [*PAIR, "pair"], []
    for key, here in counts.groupby(keys, sort=False):
        table = screen_choice.screen_summary(here)
        names = dict(zip(keys, key, strict=True))
        table = table.assign(**names, is_chosen=False)[[*names, *table.columns, "is_chosen"]]
        if chosen is not None:
            row = chosen[(chosen["coarse"] == key[0]) & (chosen["fine"] == key[1])].iloc[0]
            same = (table["screen"] == row["screen"]) & (table["screen"] != "none")
            for name in ("screen_threshold", "grow_um"):
                same &= table[name] == row[name]
            table["is_chosen"] = same | ((row["screen"] == "none") & (table["screen"] == "none"))
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def kept_by_size(counts: pd.DataFrame) -> pd.DataFrame:
    """`screen_choice.kept_by_size` by cascade, of the rows of `counts` that are of a coarse map's screen."""
    parts = [
        screen_choice.kept_by_size(here).assign(pair=pair)
        for pair, here in counts[counts["screen"] == "map"].groupby("pair", sort=False)
    ]
    columns = ["pair", "size_class", "n_targets", "n_kept", "targets_kept", "low", "high"]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table[["pair", *table.columns.drop("pair")]]


def choose(counts: pd.DataFrame, *, recall_floor: float = 0.99) -> pd.DataFrame:
    """The screen of each cascade, chosen on validation slides (`screen_choice.choose_screen`), and the one that is run.

    Returns
    -------
    DataFrame
        coarse, fine, pair, the columns of `screen_choice.choose_screen`, and is_run: True for the one cascade, of those
        that spare windows, with the highest Dice on validation slides (of equals, the one that runs the smallest share
        of windows).
    """
    rows = [
        dict(zip([*PAIR, "pair"], key, strict=True)) | screen_choice.choose_screen(here, recall_floor=recall_floor)
        for key, here in counts.groupby([*PAIR, "pair"], sort=False)
    ]
    table = pd.DataFrame(rows)
    spares = table[table["windows_share"] < 1]
    best = (spares if len(spares) else table).sort_values(
        ["dice", "windows_share"], ascending=[False, True], kind="stable"
    )
    return table.assign(is_run=table.index == best.index[0])


def write_screens(run_dir: str | Path, chosen: pd.DataFrame) -> Path:
    """Keep the chosen settings, with the networks that they hold for, where `stored_screens` finds them."""
    run_dir = Path(run_dir)
    told = ["windows_share", "recall_kept", "recall_floor", "by", "reason"]
    plain = chosen[[*PAIR, "screen", "screen_threshold", "grow_um", *told]]
    rows = json.loads(plain.to_json(orient="records", double_precision=15))
    for row in rows:
        row |= {f"{side}_sha256": recorded(run_dir / row[side], "03_training")["checkpoint_sha256"] for side in PAIR}
    return write_text(run_dir / SCREENS, json.dumps(rows, indent=1) + "\n")


def run_cascade(
    run_dir: str | Path,
    manifest: pd.DataFrame,
    chosen: pd.DataFrame,
    out_dir: str | Path,
    *,
    n_slides: int = 0,
    overlap: float | str | None = None,
    **options,
) -> pd.DataFrame:
    """Run the cascade that `choose` picked for real, on test slides whose coarse maps are archived.

    Parameters
    ----------
    chosen
        Of `choose`.
    out_dir
        For its maps.
    n_slides
        So many test slides, the first by slide_id; 0: all.
    overlap
        Of the fine network's windows: as asked of `maps.noted_overlap`.
    options
        Of `maps.predict_cohort`.

    Returns
    -------
    DataFrame
        Of `maps.predict_cohort`.
    """
    run_dir, row = Path(run_dir), chosen[chosen["is_run"]].iloc[0]
    coarse = maps_of(run_dir / row["coarse"]).set_index("slide_id")["map_path"]
    slides = slides_of(run_dir, row["fine"], manifest, "test").sort_values("slide_id")
    slides = slides[slides["slide_id"].astype(str).isin(coarse.index)].head(n_slides or None)
    path = run_dir / row["fine"] / "work" / "checkpoint.pt"
    fine = load_checkpoint(path)

    def screen_for(of_slide):
        if row["screen"] != "map":
            return None
        with open_map(coarse[str(of_slide.slide_id)]) as found:
            return make_screen(found, threshold=row["screen_threshold"], grow_um=row["grow_um"])

    return predict_cohort(
        fine, slides, out_dir, screen_for=screen_for, overlap=noted_overlap(path, fine, overlap)[0],
        engine_note=path.with_name("engine.json"), **options,
    )  # fmt: skip
