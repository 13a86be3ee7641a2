"""A run's archive, read only: which arms it has, what each of them holds, and the tables of all arms together.

`tlskit.study.runs` writes an archive step by step; this module looks at whatever stands there, finished or not.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit import cohort
from tlskit.cohort import splitting
from tlskit.errors import MapError, RunError, TlskitError
from tlskit.evaluation import stored_screens
from tlskit.files import project_root, read_table, resolve, sha256_of_file
from tlskit.maps import open_map
from tlskit.metrics import thresholds
from tlskit.outlines import truth
from tlskit.study import runs, standing, status

__all__ = ["Archive", "Arm", "find_runs", "open_archive"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """One arm of a run.

    Attributes
    ----------
    name
        Its folder, such as ``"4x"``.
    dir
        Where it lies.
    magnification
        As it was tiled.
    values
        All values that its steps recorded, by step.
    """

    name: str
    dir: Path
    magnification: float
    values: dict = field(hash=False, compare=False)

    def map_path(self, slide_id: str) -> Path:
        """Where the slide's probability map lies, or would lie."""
        return self.dir / "work" / "maps" / f"{slide_id}.tif"

    @property
    def checkpoint_path(self) -> Path:
        """Where the arm's network lies, or would lie."""
        return self.dir / "work" / "checkpoint.pt"

    def has_map(self, slide_id: str) -> bool:
        """Whether the slide has a finished map of this arm's network; another's is never shown as this one's."""
        path = self.map_path(slide_id)
        if not path.is_file():
            return False
        mine = self.values.get("03_training", {}).get("checkpoint_sha256", "")
        try:
            with open_map(path) as found:
                made_by = found.metadata.get("checkpoint_sha256", "")
        except MapError as error:
            log.warning("%s", error)
            return False
        if mine and made_by and mine != made_by:
            log.warning(
                "%s of arm %s is of another network: it is not shown. Run the sweep again.", path.name, self.name
            )
            return False
        return True

    @property
    def thresholds(self) -> dict[str, float]:
        """``{"fixed": 0.5}``, and ``"validation"`` where one was chosen."""
        mine = self.values.get("03_training", {}).get("checkpoint_sha256", "")
        try:
            return thresholds.read_threshold(self.dir / "work" / "threshold.json", checkpoint_sha256=mine)
        except TlskitError as error:
            log.warning("%s", error)
            return thresholds.read_threshold(self.dir / "work" / "none")

    def table(self, name: str) -> pd.DataFrame | None:
        """``tables/<name>.csv``, or None where that step has not been run."""
        path = self.dir / "tables" / f"{name}.csv"
        return read_table(path) if path.is_file() else None

    @cached_property
    def histograms(self) -> dict[str, np.ndarray]:
        """Histograms of the whole slides by slide_id, as of `tlskit.metrics.thresholds.dense`."""
        table = self.table("05_histograms")
        if table is None or table.empty:
            return {}
        ids, found = thresholds.dense(table)
        return dict(zip(ids["slide_id"], found, strict=True))


@dataclass(frozen=True)
class Archive:
    """What a run has left. Made by `open_archive`.

    Attributes
    ----------
    dir
        Folder of the run.
    arms
        Coarsest magnification first.
    settings
        What the steps recorded, and the run's preset (``run.yaml``) where they are silent.
    manifest_path
        The cohort's manifest, where it was given.
    """

    dir: Path
    arms: list[Arm]
    settings: dict
    manifest_path: Path | None = None

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.dir.name

    def arm(self, name: str) -> Arm:
        """An arm by its name."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise RunError(f"Run {self.name} has no arm {name!r}; it has {', '.join(a.name for a in self.arms)}.")

    def screens(self, arm: Arm) -> list[dict]:
        """Screens before an arm, rows of `tlskit.evaluation.stored_screens.all_screens` (notebook cascade), that spare
        windows and hold for the present networks of the two arms; the least windows first."""

        @cache  # a network stands in many rows
        def network(name: str) -> str:
            path = self.dir / name / "work" / "checkpoint.pt"
            return sha256_of_file(path) if path.is_file() else ""

        rows = [
            row
            for row in stored_screens.all_screens(self.dir)
            if row["fine"] == arm.name
            and row["screen"] == "map"
            and all(network(row[side]) == row[f"{side}_sha256"] for side in ("coarse", "fine"))
        ]
        return sorted(rows, key=lambda row: row.get("windows_share") or 1.0)

    @property
    def magnifications(self) -> list[float]:
        """Of the arms, coarsest first."""
        return [arm.magnification for arm in self.arms]

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The cohort's manifest."""
        if self.manifest_path is not None:
            return cohort.read_manifest(self.manifest_path)
        named = self.settings.get("manifest")
        if not named:
            raise RunError(
                f"Run {self.name} does not say which cohort it was made of. Name it: `manifest=` of "
                "`study.open_archive`, or `manifest: ...` in its run.yaml."
            )
        # Relative to the project that the run lies in, wherever that is now; or, where the run was taken out of it, to
        # the one that is being worked in.
        tried = [(root / Path(named).expanduser()).resolve() for root in (project_root(self.dir), project_root())]
        for path in tried:
            if path.is_file():
                return cohort.read_manifest(path)
        raise RunError(
            f"The cohort of run {self.name}, {named}, is neither in the project that the run lies in nor in this one. "
            "Was the run moved without it? Name it: `manifest=` of `study.open_archive`, or in its run.yaml."
        )

    @property
    def caption(self) -> str:
        """What every figure of this cohort says below it; may be empty."""
        try:
            return cohort.caption(self.manifest)
        except TlskitError:  # the run was moved without its cohort; the steps have written it down
            records = sorted(self.dir.glob("*/records/*.json"))
            said = [json.loads(path.read_text(encoding="utf-8")).get("caption", "") for path in records]
            return next(filter(None, said), "")

    @property
    def slide_ids(self) -> list[str]:
        """Slides of the cohort, those with a map first."""
        ids = [str(i) for i in self.manifest["slide_id"]]
        return sorted(ids, key=lambda i: (not any(arm.has_map(i) for arm in self.arms), ids.index(i)))

    @cached_property
    def splits(self) -> pd.DataFrame | None:
        """The split of patients, or None before it is made."""
        path = self.dir / "split.csv"
        return splitting.read_split(path) if path.is_file() else None

    def set_of(self, slide_id: str, arm: Arm) -> str:
        """What a slide was to an arm's network: ``train``, ``val`` or ``test``; empty before the patients are split."""
        path = self.dir / "split.csv"
        if not path.is_file():
            return ""
        split = splitting.read_split(path, fold=int(arm.values.get("02_patient_split", {}).get("fold", 0)))
        found = split.loc[split["patient_id"] == str(self.row(slide_id).patient_id), "split"]
        return str(found.iloc[0]) if len(found) else ""

    @property
    def target_class(self) -> str | list[str]:
        """Class(es) of the outlines."""
        return self.settings.get("target_class", "TLS")

    @property
    def resolution_by(self) -> str:
        """``mpp`` or ``objective``."""
        return self.settings.get("resolution_by", "mpp")

    @property
    def reading(self) -> dict:
        """How the run opened its slides: arguments of `slides.open_slide`."""
        return {"resolution_by": self.resolution_by, "apply_icc": self.settings.get("apply_icc", False)}

    def row(self, slide_id: str):
        """The slide's row of the manifest."""
        for row in cohort.slide_rows(self.manifest):
            if row.slide_id == slide_id:
                return row
        raise RunError(f"The cohort of run {self.name} has no slide {slide_id!r}.")

    def open_slide(self, slide_id: str):
        """Open a slide of the cohort as the run read it."""
        return cohort.open_row(self.row(slide_id), **self.reading)

    def targets(self, slide_id: str, slide=None) -> list:
        """Outlines of the target on a slide, level-0 px; `slide` is what `open_slide` gave, where it is open anyway."""
        if slide is None:
            with self.open_slide(slide_id) as opened:
                return self.targets(slide_id, opened)
        row = self.row(slide_id)
        if not row.annotation_path:
            return []
        others = {name: self.settings.get(name, "") for name in ("ignore_class", "region_class")}
        return truth.read_truth(row, slide, self.target_class, missing="empty", **others).polygons

    def tiles(self, arm: Arm) -> pd.DataFrame:
        """The arm's tile table with the split and, where its tiles were evaluated, IoU and error at the threshold.

        ``error`` is the share of a tile's pixels that are wrong, ``(fp + fn) / all``.
        """
        path = arm.dir / "work" / "tiles.parquet"
        if not path.is_file():
            raise RunError(f"Arm {arm.name} of run {self.name} has no tiles yet: run 01_tiling first.")
        tiles = pd.read_parquet(path)
        tiles["slide_id"] = tiles["slide_id"].astype(str)
        tiles = splitting.attach_split(tiles, self.splits) if self.splits is not None else tiles.assign(split="")
        counts = arm.table("04_counts_per_tile")
        if counts is None:
            return tiles.assign(iou=np.nan, error=np.nan)
        if "threshold_by" in counts:
            first = "fixed" if (counts["threshold_by"] == "fixed").any() else counts["threshold_by"].iloc[0]
            counts = counts[counts["threshold_by"] == first]
        counts = counts.drop_duplicates("tile_id").set_index("tile_id")[["tp", "fp", "fn", "tn"]]
        of_tile = counts.reindex(tiles["tile_id"]).reset_index(drop=True)
        wrong, union = of_tile["fp"] + of_tile["fn"], of_tile["tp"] + of_tile["fp"] + of_tile["fn"]
        tiles = tiles.reset_index(drop=True)
        return tiles.assign(iou=of_tile["tp"] / union.where(union > 0), error=wrong / of_tile.sum(axis=1, skipna=False))

    def histograms(self, split: str | None = None) -> pd.DataFrame:
        """Histogram tables of all arms, one below the other, with the columns arm and magnification.

        Parameters
        ----------
        split
            Keep the slides of this set; None keeps all.
        """
        tables = [
            table.assign(arm=arm.name, magnification=arm.magnification)
            for arm in self.arms
            if (table := arm.table("05_histograms")) is not None
        ]
        if not tables:
            raise RunError(f"Run {self.name} has no histograms yet: run 05_wsi_evaluation first.")
        table = pd.concat(tables, ignore_index=True)
        if split:
            if "split" not in table and self.splits is not None:
                table = splitting.attach_split(table, self.splits)
            if "split" in table:
                table = table[table["split"] == split]
        return table

    def stages(self) -> pd.DataFrame:
        """``06_stages`` of all arms, one below the other, with the columns arm and magnification."""
        tables = [
            table.assign(arm=arm.name, magnification=arm.magnification)
            for arm in self.arms
            if (table := arm.table("06_stages")) is not None
        ]
        if not tables:
            raise RunError(f"Run {self.name} has not been timed yet: run 06_wsi_inference_timing first.")
        return pd.concat(tables, ignore_index=True)


def open_archive(
    run: str | Path | Archive | runs.Run, *, outputs_dir: str | Path = "outputs", manifest: str | Path | None = None
) -> Archive:
    """Look at a run.

    Parameters
    ----------
    run
        Its name, its folder, or what `tlskit.study.runs.open_run` returned.
    outputs_dir
        Folder of all runs, relative to the project's root; for a name.
    manifest
        The cohort's manifest, where it does not lie where the run says (a run on another disk).

    Raises
    ------
    RunError
        If there is no such run, or none of its arms has been started.
    """
    if isinstance(run, Archive):
        return run
    if isinstance(run, runs.Run):
        folder = run.dir
    else:
        folder = Path(run) if Path(run).is_absolute() else resolve(outputs_dir) / run
    if not folder.is_dir():
        names = ", ".join(path.name for path in find_runs(folder.parent)) or "none"
        raise RunError(f"There is no run {folder.name!r} in {folder.parent.name}; runs there: {names}.")
    settings = standing.read_preset_of(folder)
    arms, recorded = [], {}
    for record in sorted(folder.glob("*/records/01_tiling.json")):
        arm_dir = record.parent.parent
        values = {}
        for path in sorted(record.parent.glob("*.json")):
            values[path.stem] = json.loads(path.read_text(encoding="utf-8")).get("values", {})
        tiling = values["01_tiling"]
        if "magnification" in tiling:
            arms.append(Arm(arm_dir.name, arm_dir, float(tiling["magnification"]), values))
            for name in ("target_class", "ignore_class", "region_class", "resolution_by", "apply_icc", "tile_px"):
                if tiling.get(name) is not None:
                    recorded.setdefault(name, {})[arm_dir.name] = tiling[name]
            found = status.read_step(arm_dir, "01_tiling") or {}
            if found.get("manifest"):
                settings.setdefault("manifest", found["manifest"])
    if not arms:
        raise RunError(f"Run {folder.name} has no arm that was tiled: run 01_tiling first.")
    for name, values in recorded.items():
        # What the arms were made with counts; run.yaml may be of a sweep that came after, and was stopped.
        first = next(iter(values.values()))
        settings[name] = first
        if name != "tile_px" and any(value != first for value in values.values()):
            listed = ", ".join(f"{arm} {value!r}" for arm, value in values.items())
            log.warning("The arms of run %s differ in `%s` (%s): %r is shown.", folder.name, name, listed, first)
    settings = {name: value for name, value in settings.items() if value is not None}
    chosen = None if manifest is None else resolve(manifest)
    return Archive(folder, sorted(arms, key=lambda arm: (arm.magnification, arm.name)), settings, chosen)


def find_runs(outputs_dir: str | Path = "outputs") -> list[Path]:
    """Folders of the runs that can be looked at, the newest first."""
    folder = resolve(outputs_dir)
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = [path for path in found if any(path.glob("*/records/01_tiling.json"))]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
