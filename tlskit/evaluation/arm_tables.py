"""The archive of a run's arms: which there are, their tables one below the other, and whether they may be compared.

No slide, map or model is opened. Whole-slide comparisons are refused where the arms do not stand on the same patients,
slides and targets, or were counted by other rules (`check_arms`).

Arms that differ only in `seed` or `fold` (``4x_seed=1``, ``4x_seed=2``) are trainings of one arm: their tables are
brought together under its name (``4x``), with the columns seed and fold to tell them apart.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from pathlib import Path

import pandas as pd

from tlskit.errors import ComparisonError, ParameterError, RunError
from tlskit.files import read_table

__all__ = [
    "ARM",
    "REPEATS",
    "arms",
    "check_arms",
    "collect",
    "of_split",
    "parted",
    "only_slides_of",
    "slides_of",
    "test_counts",
    "test_histograms",
    "unlike_settings",
]

log = logging.getLogger(__name__)

#: Columns that name an arm.
ARM = ["arm", "magnification"]

#: Factors that tell trainings of one arm apart.
REPEATS = ("seed", "fold", "split_seed")

#: What the steps record that must be the same in all arms, or no score means the same in two of them.
_SHARED = (
    "split_hash", "target_class", "ignore_class", "region_class", "resolution_by", "threshold", "grid_mpp",
    "min_object_um2", "missing_target", "scored_by",
)  # fmt: skip

#: Table of each set's slides that a comparison stands on: validation slides are counted on the common grid alone.
_STANDS_ON = {"test": "05_counts_per_slide", "val": "05_grid_counts"}

#: What may differ between arms, and is said where it does.
_SAID = ("tile_px", "overlap", "keep_tiles", "edge_tiles", "epochs", "steps", "encoder", "normalisation", "apply_icc")


def arms(run_dir: str | Path) -> pd.DataFrame:
    """The arms of a run, coarsest first.

    An arm is a folder of the run that holds ``tables``, other than ``compare``, ``cascade`` and ``controls``; where the
    run has an ``arms.csv``, one that stands there. Arms that ``compare/left_out.csv`` names (out of date, failed) are
    left out.

    Returns
    -------
    DataFrame
        arm (the folder's name), magnification (as recorded, else by the folder's name), variant (the name without what
        tells trainings apart), seed, fold, split_seed (nan where they are not swept), dir.
    """
    run_dir = Path(run_dir)
    rows = []
    known = _column(run_dir / "arms.csv")
    left_out = _column(run_dir / "compare" / "left_out.csv") or []
    for folder in sorted(run_dir.iterdir()) if run_dir.is_dir() else []:
        wanted = folder.name in known if known is not None else folder.name not in ("compare", "cascade", "controls")
        if wanted and folder.name not in left_out and (folder / "tables").is_dir():
            magnification = _recorded(folder).get("magnification")
            named = re.match(r"([0-9.]+)x", folder.name)
            if magnification is None and named:
                magnification = float(named.group(1))
            variant, repeats = parted(folder.name)
            rows.append(
                {"arm": folder.name, "magnification": magnification, "variant": variant} | repeats | {"dir": folder}
            )
    if not rows:
        raise RunError(f"The run {run_dir.name} has no arm with tables yet: run the numbered notebooks first.")
    table = pd.DataFrame(rows).astype({"magnification": float} | dict.fromkeys(REPEATS, float))
    return table.sort_values(ARM[::-1], kind="stable", ignore_index=True)


def parted(name: str) -> tuple[str, dict[str, float]]:
    """``4x_seed=1`` -> ``4x`` and the seed; without such parts the name as it is, and nan."""
    pattern = rf"_({'|'.join(sorted(REPEATS, key=len, reverse=True))})=([^_]+)"
    found = dict(re.findall(pattern, name))
    return re.sub(pattern, "", name), {part: float(found.get(part, "nan")) for part in REPEATS}


def _column(path: Path) -> list[str] | None:
    """Names of the arms in a table of the run; None where there is no such table."""
    return list(pd.read_csv(path, dtype=str)["arm"]) if path.is_file() else None


def collect(run_dir: str | Path, table: str) -> pd.DataFrame:
    """One table of all arms, one below the other, with the columns arm and magnification in front.

    Trainings of one arm stand under its name; those of `REPEATS` that are swept follow as columns.

    Parameters
    ----------
    run_dir
        Folder of the run.
    table
        Such as ``"05_scores"``, for ``<arm>/tables/05_scores.csv``. Arms that lack it are left out, and logged.

    Raises
    ------
    RunError
        If no arm has it.
    """
    files = []
    for arm in arms(run_dir).itertuples():
        written = _stamp(arm.dir / "tables" / f"{table}.csv")
        if written is None or written[2] <= 1:
            log.warning("The arm %s has no table %s: left out.", arm.arm, table)
            written = None
        files.append((arm.arm, arm.magnification, written))
    if all(written is None for *_, written in files):
        raise RunError(f"No arm of the run {Path(run_dir).name} has the table {table}: run step {table[:2]} first.")
    return _collected(str(run_dir), table, tuple(files)).copy()


@functools.lru_cache(maxsize=16)
def _collected(run_dir: str, table: str, files: tuple[tuple[str, float, tuple | None], ...]) -> pd.DataFrame:
    """The table of these arms (folder, magnification, stamp of the file): a comparison asks for each many times."""
    names = {arm: parted(arm) for arm, *_ in files}
    swept = [name for name in REPEATS if any(pd.notna(repeats[name]) for _, repeats in names.values())]
    found = []
    for arm, magnification, written in files:
        if written is not None:
            variant, repeats = names[arm]
            rows = read_table(Path(run_dir) / arm / "tables" / f"{table}.csv")
            front = {"arm": variant, "magnification": magnification} | {name: repeats[name] for name in swept}
            front = pd.DataFrame(front, index=rows.index)
            found.append(pd.concat([front, rows.drop(columns=list(front), errors="ignore")], axis=1))
    return pd.concat(found, ignore_index=True)


def check_arms(run_dir: str | Path, *, slides: str = "same", split: str = "test") -> pd.DataFrame:
    """What each arm stands on; refuses arms that cannot be compared.

    Parameters
    ----------
    run_dir
        Folder of the run.
    slides
        ``same``: all arms must have evaluated the same slides. ``common``: comparisons are made on the slides that all
        arms have; the others are counted in ``slides_left_out``.
    split
        Set of patients: ``test`` or ``val``.

    Returns
    -------
    DataFrame
        arm, magnification, n_slides, n_patients, n_patients_with_target, n_slides_with_target, n_targets, target_mm2,
        tissue_mm2 (of the slides compared), slides_left_out, n_trainings.

    Raises
    ------
    ComparisonError
        If arms differ in split, target class, rules of counting, slides or outlines, or a patient is tested in two
        folds; the message names each fault.
    """
    if slides not in ("same", "common"):
        raise ParameterError(f"`slides` should be same or common, not {slides!r}.")
    faults, every = [], arms(run_dir)
    recorded = {arm.arm: _recorded(arm.dir) for arm in every.itertuples()}
    groups = [*every.groupby(["fold", "split_seed"], dropna=False)["arm"].apply(list)]
    for name in _SHARED:
        # Every fold has a split of its own.
        for members in groups if name == "split_hash" else [list(recorded)]:
            values = {arm: recorded[arm][name] for arm in members if name in recorded[arm]}
            if len({json.dumps(v, sort_keys=True) for v in values.values()}) > 1:
                listed = ", ".join(f"{arm} {str(v)[:12] if name == 'split_hash' else v}" for arm, v in values.items())
                faults.append(f"{name} differs: {listed}")
    counts = of_split(collect(run_dir, _STANDS_ON[split]), split)
    counts = _each_slide_once(counts)
    faults += _in_several_folds(counts)
    here = slides_of(counts)
    common, whole = set.intersection(*here.values()), set.union(*here.values())
    for arm, there in here.items():
        if slides == "same" and whole - there:
            missing = ", ".join(sorted(whole - there)[:5])
            faults.append(
                f"{arm} lacks {len(whole - there)} slide(s) that another arm has ({missing}): see status.csv for why, "
                f"or compare on the {len(common)} slides that all arms share (`compare_slides: common` in the preset, "
                "`tlskit compare --slides common`)"
            )
    if slides == "common" and not common:
        faults.append("no slide was evaluated in all arms")
    shared = counts[counts["slide_id"].isin(common)]
    for column, tolerance in (("patient_id", None), ("n_targets", 0.0), ("target_mm2", 1e-6)):
        if column in shared:
            faults += _differing(shared, column, tolerance)
    if faults:
        raise ComparisonError(
            f"The arms of the run {Path(run_dir).name} cannot be compared:\n" + "\n".join(f"  - {f}" for f in faults)
        )
    first = shared.drop_duplicates(["arm", "slide_id"])
    first = first.assign(with_target=first["tp"] + first["fn"] > 0)
    rows = []
    for (arm, magnification), group in first.groupby(ARM, sort=False):
        target = group[group["with_target"]]
        row = {"arm": arm, "magnification": magnification, "n_slides": group["slide_id"].nunique()}
        row |= {"n_patients": group["patient_id"].nunique(), "n_patients_with_target": target["patient_id"].nunique()}
        row["n_slides_with_target"] = len(target)
        row |= {c: group[c].sum() for c in ("n_targets", "target_mm2", "tissue_mm2") if c in group}
        left_out = set.union(*(there for name, there in here.items() if parted(name)[0] == arm)) - common
        rows.append(row | {"slides_left_out": len(left_out), "n_trainings": int((every["variant"] == arm).sum())})
    return pd.DataFrame(rows)


def unlike_settings(run_dir: str | Path) -> dict[str, dict[str, object]]:
    """Recorded settings in which arms differ beside their magnification: name to the value of each arm.

    They do not forbid a comparison, and it must say them: a difference of scores may be theirs.
    """
    recorded = {arm.arm: _recorded(arm.dir) for arm in arms(run_dir).itertuples()}
    unlike = {}
    for name in _SAID:
        values = {arm: known[name] for arm, known in recorded.items() if name in known}
        if len({json.dumps(v, sort_keys=True) for v in values.values()}) > 1:
            unlike[name] = values
    return unlike


def test_counts(run_dir: str | Path, name: str, threshold_by: str, slides: str, split: str = "test") -> pd.DataFrame:
    """A table of one set at one rule of threshold; of whole slides, those that the arms may be compared on.

    Trainings of one arm have thresholds of their own under the rule ``validation``: the column threshold is their mean.
    """
    if split not in _STANDS_ON:
        raise ParameterError(f"`split` should be test or val, not {split!r}.")
    if split == "val" and name != _STANDS_ON["val"]:
        raise RunError(f"Validation slides are counted on the common grid alone, not in {name}: ask for `on='grid'`.")
    table = of_split(collect(run_dir, name), split)
    rules = table["threshold_by"].unique()
    if name.startswith("04") and threshold_by not in rules and len(rules) == 1:
        # A threshold is chosen on whole slides, after the tiles were counted; the column threshold says which it was.
        threshold_by = rules[0]
    table = table[table["threshold_by"] == threshold_by]
    # Tiles are counted where they hold a target: where no test slide has one there are none.
    if table.empty and (len(rules) or not name.startswith("04")):
        has = f"it has {', '.join(rules)}" if len(rules) else f"it has no {split} slide"
        raise RunError(f"The table {name} has no counts at the threshold {threshold_by!r}; {has}.")
    if any(column in table for column in REPEATS):
        table = table.assign(threshold=table.groupby("arm")["threshold"].transform("mean"))
    check_arms(run_dir, slides=slides, split=split)
    here = slides_of(table)
    # Tiles are another matter: which slides have a tile with a target depends on the size of a tile.
    if slides == "common":
        of_slides = of_split(collect(run_dir, _STANDS_ON[split]), split)
        common = set.intersection(*slides_of(of_slides).values())
        table = table[table["slide_id"].isin(common)]
    elif not name.startswith("04") and len(set(map(frozenset, here.values()))) > 1:
        raise ComparisonError(f"The arms of {name} stand on different slides: run step {name[:2]} again in all arms.")
    return table.reset_index(drop=True)


def test_histograms(run_dir: str | Path, slides: str) -> pd.DataFrame:
    """Histograms of the test slides that the arms may be compared on."""
    table = of_split(collect(run_dir, "05_histograms"))
    check_arms(run_dir, slides=slides)
    common = set.intersection(*slides_of(table).values())
    return table[table["slide_id"].isin(common)]


def only_slides_of(table: pd.DataFrame, of_slides: pd.DataFrame, threshold_by: str) -> pd.DataFrame:
    """Rows of the slides of another table, arm by arm."""
    keys = of_slides[["arm", "slide_id"]].drop_duplicates()
    return table[table["threshold_by"] == threshold_by].merge(keys, on=["arm", "slide_id"])


def slides_of(table: pd.DataFrame) -> dict[str, set]:
    """The slides of each training of each arm, those of its folds together."""
    by = ["arm", *(c for c in ("seed", "split_seed") if c in table)]
    found = {}
    for key, group in table.groupby(by, sort=False):
        name = str(key[0]) + "".join(f"_{part}={value:g}" for part, value in zip(by[1:], key[1:], strict=True))
        found[name] = set(group["slide_id"])
    return found


def of_split(table: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Rows of one set of patients; all where the table does not know of sets."""
    if "split" not in table or table["split"].isin(["", None]).all():
        return table
    chosen = table[table["split"] == split]
    if chosen.empty:
        name = {"test": "test", "val": "validation"}.get(split, split)
        raise RunError(f"None of the evaluated slides is of the {name} set: evaluate the {name} slides first.")
    return chosen


def _recorded(arm_dir: Path) -> dict:
    """Parameters that the arm's steps were run with, and values that they recorded; later steps over earlier ones."""
    values: dict = {}
    for kind, part in (("status", ("ingredients", "parameters")), ("records", ("values",))):
        for path in sorted((arm_dir / kind).glob("*.json")):
            values |= _part_of(str(path), part, _stamp(path))
    return values


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written anew: inode, time in ns, size in bytes; None where there is no file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=8192)
def _part_of(path: str, part: tuple[str, ...], written: tuple | None) -> dict:
    """A part of a JSON file, read once for each time that it was `written`."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    for name in part:
        found = found.get(name, {})
    return found


def _each_slide_once(counts: pd.DataFrame) -> pd.DataFrame:
    return counts.drop_duplicates(["arm", *(c for c in REPEATS if c in counts), "slide_id"])


def _in_several_folds(counts: pd.DataFrame) -> list[str]:
    """Patients tested in more than one fold of a training: their counts would be pooled twice."""
    if "fold" not in counts:
        return []
    by = ["arm", *(c for c in ("seed", "split_seed") if c in counts), "patient_id"]
    folds = counts.groupby(by, dropna=False, sort=False)["fold"].unique()
    return [
        f"the patient {key[-1]} is tested in several folds of {key[0]} ({', '.join(f'{f:g}' for f in sorted(found))})"
        for key, found in folds[folds.str.len() > 1].items()
    ][:5]


def _differing(counts: pd.DataFrame, column: str, tolerance: float | None) -> list[str]:
    """Slides of which the arms, or the trainings of one arm, say different things."""
    faults = []
    for slide_id, group in counts.groupby("slide_id", sort=False):
        values = group[column]
        if tolerance is None:
            odd = values.nunique(dropna=False) > 1
        else:
            odd = values.max() - values.min() > tolerance * max(1.0, values.max())
        if odd:
            listed = ", ".join(f"{row.arm} {getattr(row, column)}" for row in group.itertuples())
            faults.append(f"{column} of slide {slide_id} differs: {listed}")
    return faults[:5]
