"""Number and area of the objects at a threshold, and both as files that say what they stand on."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path

import ipywidgets
import numpy as np

from tlskit.errors import RunError
from tlskit.evaluation import Findings
from tlskit.explore.score_tables import origin_of
from tlskit.explore.slide_explorer import SlideDesk
from tlskit.explore.widgets import Download, Message, guarded
from tlskit.outlines import prediction_class, write_geojson

__all__ = ["MEASURE_MPP", "Measures", "area_table"]

#: um/px at which areas and outlines are measured, as the study's common grid.
MEASURE_MPP = 4.0


class Measures(ipywidgets.VBox):
    """Number and area of the objects at the present threshold, and both as files."""

    def __init__(self, desk: SlideDesk, message: Message):
        self.desk, self.message = desk, message
        self.measure = ipywidgets.Button(description="Measure", tooltip="number and area at this threshold")
        self.geojson = Download("Download outlines for QuPath (GeoJSON)", self.make_geojson, message)
        self.csv = Download("Download areas (CSV)", self.make_csv, message)
        self.result = ipywidgets.HTML()
        self.measure.on_click(self._measure)
        row = ipywidgets.Layout(flex_flow="row wrap", grid_gap="8px", align_items="center")
        super().__init__([ipywidgets.HBox([self.measure, self.geojson, self.csv, self.result], layout=row)])
        desk.observe(lambda _: self.refresh(), "value")
        self.refresh()

    def refresh(self) -> None:
        """Follow the desk: nothing to measure without a map, or with an old one; what stands there of another goes."""
        sheet, name = self.desk.sheet, self.desk.map_name
        nothing = sheet is None or not name or name in sheet.old
        self.geojson.disabled = self.csv.disabled = self.measure.disabled = nothing
        if self._key() != getattr(self, "_shown", None):
            self.result.value = ""

    def _key(self) -> tuple:
        # The sheet and not its name: another slide may have the same one.
        return id(self.desk.sheet), self.desk.map_name, self.desk.threshold.value

    def outlines(self) -> list:
        """Objects at the present threshold, post-processed, as polygons in level-0 px."""
        sheet = self.desk.sheet
        if sheet is None or not self.desk.map_name:
            raise RunError("There is nothing to measure yet: segment the slide first.")
        if self.desk.map_name in sheet.old:
            raise RunError("The map is of an earlier network and is not measured: segment the slide again.")
        found = Findings(
            sheet.maps[self.desk.map_name], (), mpp0=sheet.slide.mpp0, goal_mpp=MEASURE_MPP, **sheet.processing
        )
        self._measured_mpp = found.mpp
        return found.outlines(self.desk.threshold.value)

    @guarded
    def _measure(self, _) -> None:
        table = area_table(self.outlines(), mpp0=self.desk.sheet.slide.mpp0)
        total = table["area_um2"].sum() / 1e6
        self._shown = self._key()
        map_shown = self.desk.sheet.maps[self.desk.map_name]
        self.result.value = html.escape(
            f"{self.desk.sheet.slide_id}: {len(table)} objects, {total:.3f} mm2 in all, at threshold "
            f"{self.desk.threshold.value:.2f}, measured at {self._measured_mpp:g} um/px; map {self.desk.map_name}: "
            f"{origin_of(map_shown)}"
        )

    def make_geojson(self) -> tuple[str, str, bytes]:
        """Name, media type and bytes of the outlines."""
        polygons = self.outlines()
        sheet = self.desk.sheet
        areas = area_table(polygons, mpp0=sheet.slide.mpp0)["area_um2"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self._stem()}.geojson"
            write_geojson(
                path, polygons, class_name=prediction_class(sheet.class_name, self.desk.map_name),
                origin_px0=sheet.slide.bounds_px0[:2], about=self._about(),
                measurements=[{"Area um^2": float(area)} for area in areas],
            )  # fmt: skip
            return path.name, "application/geo+json", path.read_bytes()

    def make_csv(self) -> tuple[str, str, bytes]:
        """Name, media type and bytes of the table of areas."""
        table = area_table(self.outlines(), mpp0=self.desk.sheet.slide.mpp0)
        about = self._about()
        columns = {
            "slide_id": about["slide_id"], "map": self.desk.map_name, "threshold": about["threshold"],
            "map_um_per_px": about["map_mpp"], "measured_um_per_px": about["measured_mpp"],
            "checkpoint_sha256": about["checkpoint_sha256"],
        }  # fmt: skip
        for place, (name, value) in enumerate(columns.items()):
            table.insert(place, name, value)
        return f"{self._stem()}_areas.csv", "text/csv", table.to_csv(index=False, lineterminator="\n").encode()

    def _about(self) -> dict:
        """What the outlines stand on; after `outlines`."""
        sheet = self.desk.sheet
        probmap = sheet.maps[self.desk.map_name]
        return {
            "slide_id": sheet.slide_id, "mpp0": sheet.slide.mpp0, "size_px0": sheet.slide.size_px0,
            "bounds_px0": sheet.slide.bounds_px0, "checkpoint_sha256": probmap.metadata.get("checkpoint_sha256", ""),
            "magnification": probmap.metadata.get("magnification"), "map_mpp": probmap.mpp,
            "measured_mpp": self._measured_mpp, "threshold": round(self.desk.threshold.value, 4),
        } | dict(sheet.processing)  # fmt: skip

    def _stem(self) -> str:
        probmap = self.desk.sheet.maps[self.desk.map_name]
        network = probmap.metadata.get("checkpoint_sha256", "")[:8] or "unknown"
        return (
            f"{Path(self.desk.sheet.slide_id).stem}_{self.desk.map_name}_threshold-{self.desk.threshold.value:.2f}"
            f"_{probmap.mpp:g}um-per-px_network-{network}"
        )


def area_table(polygons: list, *, mpp0: float):
    """Areas of outlines in level-0 px: object_id, area_um2, diameter_um (of the circle of that area), x_px0, y_px0."""
    import pandas as pd

    from tlskit.metrics import diameter_um

    areas = np.array([p.area for p in polygons], np.float64) * mpp0**2
    return pd.DataFrame(
        {
            "object_id": np.arange(len(polygons)),
            "area_um2": areas.round(2),
            "diameter_um": diameter_um(areas).round(2),
            "x_px0": [round(p.centroid.x, 1) for p in polygons],
            "y_px0": [round(p.centroid.y, 1) for p in polygons],
        }
    )
