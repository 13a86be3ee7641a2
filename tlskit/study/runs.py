"""The archive of a run: its folders, tables, figures and records, and the status of each step.

::

    outputs/<run>/  run.yaml  arms.csv  split.csv
      <arm>/        01_tiling.ipynb ...  status/  figures/  tables/  records/  geojson/  work/
      compare/      compare_magnifications.ipynb  status/  figures/  tables/
      controls/     controls.ipynb ..., where arms of one magnification differ in more than their seed

An *arm* is one combination of the swept parameters, named after its magnification (``20x``). What `Run.table` and
`Run.figure` return is what they saved, so that what a cell shows is what is archived; and each file is entered in the
step's status, under the key of what was run (`tlskit.study.ledger`).
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tlskit.errors import RunError, TlskitError
from tlskit.files import disk_full, is_disk_full, project_root, read_table, resolve, write_text, writing
from tlskit.study import declarations, keys, sharing, standing
from tlskit.study.ledger import Ledger
from tlskit.study.provenance import provenance
from tlskit.study.status import STATUS_COLUMNS, read_status
from tlskit.units import magnification_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STATUS_COLUMNS", "Run", "open_run", "read_status"]

log = logging.getLogger(__name__)

#: Figures of an archive: pixels for looking, vectors for a paper.
FIGURE_DPI = 150
_CAPTION = "tlskit-caption"


@dataclass(frozen=True)
class Run:
    """One step of one arm of a run. Made by `open_run`.

    Attributes
    ----------
    dir
        Folder of the run.
    arm_dir
        Folder of the arm, or ``compare``.
    arm, step
        Such as ``"4x"`` and ``"01_tiling"``.
    caption
        Printed under every figure, e.g. that the data are synthetic; may be empty.
    ledger
        Keeps the step's status; None for a page that is made beside the steps.
    """

    dir: Path
    arm_dir: Path
    arm: str
    step: str
    caption: str
    ledger: Ledger | None = field(default=None, repr=False, compare=False)

    @property
    def work(self) -> Path:
        """Folder for what is heavy and can be made again: tiles, checkpoint, probability maps."""
        self._begin_in("01_tiling")
        return self._folder("work")

    @property
    def maps_dir(self) -> Path:
        """Folder of the arm's probability maps, ``work/maps``."""
        self._begin_in("05_wsi_evaluation")
        return self._folder("work") / "maps"

    @property
    def geojson_dir(self) -> Path:
        """Folder of the arm's predicted outlines, one QuPath GeoJSON a slide."""
        self._begin_in("05_wsi_evaluation")
        return self._folder("geojson")

    @property
    def checkpoint_path(self) -> Path:
        """Where the arm's trained network lies."""
        self._begin_in("03_training")
        return self._folder("work") / "checkpoint.pt"

    @property
    def engine_path(self) -> Path:
        """Where 03 notes what runs the arm's network; 04, 05, 06 and ``tlskit predict`` take it up.

        What OpenVINO compiled lies beside it, ``compiled-*.zip``: it may be deleted at any time.
        """
        self._begin_in("03_training")
        return self._folder("work") / "engine.json"

    @property
    def overlap_path(self) -> Path:
        """Where 05 notes the overlap of the arm's windows; 06, the cascade and ``tlskit predict`` take it up."""
        self._begin_in("05_wsi_evaluation")
        return self._folder("work") / "overlap.json"

    @property
    def scratch_dir(self) -> Path:
        """Folder for what this step alone reads: a run of it that was cut off goes on with it, `record` removes it."""
        self._begin()
        return self._folder("work") / f"scratch_{self.step}"

    @property
    def split_path(self) -> Path:
        """The run's one split of patients, shared by all arms."""
        return self.dir / "split.csv"

    def table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Save a table as ``tables/<step number>_<name>.csv`` and return it."""
        self._begin()
        path = self._folder("tables") / f"{self._prefix}{name}.csv"
        self._wrote(write_text(path, table.to_csv(index=False, lineterminator="\n")))
        return table

    def figure(self, figure: Figure, name: str) -> Figure:
        """Save a figure as PNG and PDF under ``figures/<step number>_<name>`` and return it.

        The run's caption is added below the figure before it is saved; what it shows in words goes into the file. A
        cell that returns the figure shows the PNG that was saved.
        """
        import matplotlib.pyplot as plt
        from matplotlib.transforms import Bbox

        from tlskit.figures import alt_text

        self._begin()
        parts = [f"run {self.dir.name}", self.arm if self.arm_dir.name == self.arm else "", self.caption]
        border_in = figure.get_tightbbox() if any(t.get_gid() == _CAPTION for t in figure.texts) else None
        if border_in is None:
            # Just under the lowest thing that is drawn, a legend below the axes included.
            figure.draw_without_rendering()  # a closed figure has no canvas that would lay it out
            figure.set_layout_engine(None)  # "none" would leave one that asks for two more draws
            for legend in figure.legends:
                # A figure's legend hangs on the border of what is saved, and would follow it below the caption.
                box = legend.get_window_extent().transformed(figure.transFigure.inverted())
                legend.set_loc("lower left")
                legend.borderaxespad = 0
                legend.set_bbox_to_anchor((box.x0, box.y0), transform=figure.transFigure)
            border_in = figure.get_tightbbox()
            caption = figure.text(
                0.01, (border_in.y0 - 0.08) / figure.get_figheight(), "  |  ".join(p for p in parts if p), ha="left",
                va="top", fontsize=7, color="0.4", gid=_CAPTION,
            )  # fmt: skip
            of_caption = caption.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
            border_in = Bbox.union([border_in, of_caption])
        stem = self._folder("figures") / f"{self._prefix}{name}"
        # No date and no program in the metadata: the same numbers give the same bytes.
        alt = alt_text(figure) or None
        of_pdf = {"CreationDate": None, "Creator": None, "Subject": alt}
        for suffix, metadata in ((".png", {"Software": None, "Description": alt}), (".pdf", of_pdf)):
            with writing(stem.with_name(stem.name + suffix)) as path:
                # The border is known: asked for "tight", matplotlib would draw all once more for each file to find it.
                figure.savefig(path, dpi=FIGURE_DPI, bbox_inches=border_in.padded(0.1), metadata=metadata)
            self._wrote(stem.with_name(stem.name + suffix))
        figure._ipython_display_ = functools.partial(_show, stem.with_name(stem.name + ".png").read_bytes(), alt)
        # The notebook shows what the cell returns; left open, pyplot would show it a second time.
        plt.close(figure)
        return figure

    def record(self, **values: object) -> dict:
        """Add numbers and short lists to ``records/<step>.json``, with the provenance of this step; return them.

        The record ends the step: with it, the step is done.
        """
        self._begin()
        path = self._folder("records") / f"{self.step}.json"
        old = json.loads(path.read_text(encoding="utf-8")).get("values", {}) if path.is_file() else {}
        values = {name: _plain(value) for name, value in values.items()}
        record = {"step": self.step, "arm": self.arm, "caption": self.caption, "values": old | values}
        if self.ledger is not None:
            record["key"] = self.ledger.values.get("key", "")
        record["provenance"] = provenance()
        self._wrote(write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n"))
        shutil.rmtree(self.arm_dir / "work" / f"scratch_{self.step}", ignore_errors=True)
        if self.ledger is not None:
            self.ledger.end()
        return values

    def previous(self, step: str) -> dict:
        """Values that an earlier step of this arm recorded.

        Raises
        ------
        RunError
            If that step has not been run in this arm.
        """
        path = self.arm_dir / "records" / f"{step}.json"
        if not path.is_file():
            raise RunError(f"Arm {self.arm} of run {self.dir.name} has no record of {step}: run {step} first.")
        return json.loads(path.read_text(encoding="utf-8"))["values"]

    def read_table(self, name: str) -> pd.DataFrame:
        """A table that an earlier step of this arm saved, such as ``"01_tiles_per_slide"``."""
        path = self.arm_dir / "tables" / f"{name}.csv"
        if not path.is_file():
            raise RunError(f"Arm {self.arm} of run {self.dir.name} has no table {name}: run step {name[:2]} first.")
        return read_table(path)

    def save(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Save a long table as ``work/<name>.parquet`` and return it."""
        self._begin()
        with writing(self.work / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)
        self._wrote(self.work / f"{name}.parquet")
        return table

    def load(self, name: str, *, made_by: str) -> pd.DataFrame:
        """Read ``work/<name>.parquet``; `made_by` names the step to run where it is missing."""
        path = self.work / f"{name}.parquet"
        if not path.is_file():
            raise RunError(f"Arm {self.arm} of run {self.dir.name} has no {name} yet: run {made_by} first.")
        return pd.read_parquet(path)

    def turns(self, rows: Iterable, how: Mapping) -> Iterator:
        """Slides of this step, each when it is claimed here; workers with nothing to run make others of them meanwhile.

        For `maps.predict_cohort`. See `sharing.turns`.
        """
        return sharing.turns(self.ledger, rows, how)

    def failed(self, slide_id: str, error: Exception) -> None:
        """Note that one slide failed in this step, in the step's status. The run goes on without it.

        Raises
        ------
        DiskFullError
            If it failed for want of room: no other slide would fare better, and none is at fault.
        """
        if is_disk_full(error):
            raise disk_full(self.arm_dir / slide_id) from error
        reason = str(error) if isinstance(error, TlskitError) else f"{type(error).__name__}: {error}"
        log.warning("%s %s: %s left out: %s", self.arm, self.step, slide_id, reason)
        if self.ledger is not None:
            self.ledger.failed(slide_id, reason)

    def _begin(self) -> None:
        if self.ledger is not None:
            self.ledger.begin()

    def _begin_in(self, step: str) -> None:
        """Where a step is given a folder to write into, it has begun."""
        if self.step == step:
            self._begin()

    def _wrote(self, path: Path) -> None:
        if self.ledger is not None:
            self.ledger.wrote(path)

    @property
    def _prefix(self) -> str:
        number = self.step.split("_")[0]
        return f"{number}_" if number.isdigit() else ""

    def _folder(self, name: str) -> Path:
        folder = self.arm_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def open_run(
    run_name: str,
    step: str,
    *,
    magnification: float | None = None,
    arm: str = "",
    caption: str = "",
    outputs_dir: str | Path = "outputs",
    given: Mapping | None = None,
    arms: str = "all",
) -> Run:
    """Open one step of one arm of a run.

    Nothing of what an earlier run of the step left is touched before this one writes.

    Parameters
    ----------
    run_name
        Name of the run, the folder below `outputs_dir`.
    step
        Name of the notebook, such as ``"01_tiling"``.
    magnification, arm
        Name the arm's folder: `arm` where it is given, else the magnification (``4`` gives ``4x``), else
        that where arms meet, ``compare`` or as of `keys.MEETINGS`.
    caption
        Printed under every figure of this step.
    outputs_dir
        Relative to the project's root.
    given
        The notebook's ``globals()``: what is saved stands under the key of the parameters that it declares. Without it
        the key is unknown, and a sweep runs the step again.
    arms
        Where the arms meet: refuse (``all``) or leave out (``ready``) arms that are missing, failed or out of date.

    Raises
    ------
    RunError
        If a name could leave the run's folder, a step before this one failed or was not ended, or slides or outlines
        have changed since.
    ComparisonError
        Where the arms meet: if one of them is missing, failed or out of date.
    ParameterError
        If a parameter is of another kind than the notebook declares.
    """
    meeting = keys.MEETINGS.get(step, keys.COMPARE_ARM)
    arm = arm or (magnification_name(magnification) if magnification is not None else meeting)
    for what, name in (("run_name", run_name), ("arm", arm), ("step", step)):
        if not declarations.NAME.fullmatch(str(name)):
            raise RunError(
                f"`{what}` should be letters, digits, '.', '_', '-' and begin with a letter or digit: {name!r}."
            )
    run_dir = resolve(outputs_dir) / run_name
    inputs = None
    if step in keys.MEETINGS and given is not None:
        inputs = standing.keys_of_arms(run_dir, standing.choose_arms(run_dir, arms), step)
    ledger = Ledger(run_dir, arm, step, given, inputs)
    run = Run(dir=run_dir, arm_dir=run_dir / arm, arm=arm, step=step, caption=caption, ledger=ledger)
    if ledger.by == "sweep":
        ledger.begin()
    return run


def _show(png: bytes, alt: str | None) -> None:
    """Show a saved figure in a notebook as it was saved, not drawn anew; at the size that it has on paper."""
    from IPython.display import Image, display

    # Width and height stand in a PNG's header, big-endian, from its 17th byte on.
    width, height = (round(int.from_bytes(png[at : at + 4]) * 100 / FIGURE_DPI) for at in (16, 20))
    display(Image(png, format="png", width=width, height=height, alt=alt))


def _plain(value: object) -> object:
    """Numbers and arrays of numpy as JSON knows them; paths relative to the project."""
    if isinstance(value, Path):
        root = project_root()
        return value.relative_to(root).as_posix() if value.is_relative_to(root) else value.name
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and value != value:
        return None
    return value
