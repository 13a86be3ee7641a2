"""Explorers that are a figure below some controls: tiles, thresholds, costs. Their static twins: `static_views`.

They stand by themselves because drawing needs a second of imports, which the page without code has no use for.
"""

from __future__ import annotations

from pathlib import Path

import ipywidgets

from tlskit.explore.static_views import (
    AnyRun,
    at_threshold,
    choose_tiles,
    cost_table,
    move_cursor,
    pr_curves,
    threshold_curves,
    tile_page,
    timing_figure,
)
from tlskit.explore.widgets import Explorer, guarded, png_of
from tlskit.study import Archive, open_archive

__all__ = ["threshold", "tiles", "timing"]

_WIDE = ipywidgets.Layout(width="420px")
_STYLE = {"description_width": "110px"}


class _FigureExplorer(Explorer):
    """An explorer that is a figure below some controls. Subclasses give `choose` and `draw`."""

    def __init__(self, controls: list[ipywidgets.Widget]):
        super().__init__()
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", align_self="flex-start"))
        box = ipywidgets.HBox(controls, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="2px 14px"))
        self.children = [box, self.message, self.image, self._code_box]
        for control in controls:
            control.observe(self._changed, "value")
        self._changed()

    @guarded
    def _changed(self, _=None) -> None:
        self.value, code = self.choose()
        self.show_code(code)
        self.message.say("")
        self.image.value = self.draw()


class _Tiles(_FigureExplorer):
    def __init__(self, archive: Archive, arm: str | None, n_tiles: int):
        self._archive, self._n_tiles = archive, n_tiles
        names = [a.name for a in archive.arms]
        first = arm or names[0]
        self.arm = ipywidgets.Dropdown(
            options=names, value=first, description="Magnification", layout=_WIDE, style=_STYLE
        )
        self.order = ipywidgets.Dropdown(
            options=[("share of target", "target_fraction"), ("share of wrong pixels", "error"), ("IoU", "iou")],
            description="In order of", layout=_WIDE, style=_STYLE,
        )  # fmt: skip
        self.split = ipywidgets.Dropdown(description="Set", layout=_WIDE, style=_STYLE)
        self.cancer_type = ipywidgets.Dropdown(description="Cancer type", layout=_WIDE, style=_STYLE)
        self.slide_id = ipywidgets.Dropdown(description="Slide", layout=_WIDE, style=_STYLE)
        self.target = _range("Share of target")
        self.error = _range("Wrong pixels")
        self._read()
        self.arm.observe(lambda _: self._read(), "value")
        super().__init__([self.arm, self.order, self.split, self.cancer_type, self.slide_id, self.target, self.error])

    def _read(self) -> None:
        """The choices that the arm's tile table offers."""
        self.tiles = self._archive.tiles(self._archive.arm(self.arm.value))
        for widget, column in ((self.split, "split"), (self.cancer_type, "cancer_type"), (self.slide_id, "slide_id")):
            kept = widget.value
            values = sorted(v for v in self.tiles[column].dropna().astype(str).unique() if v)
            widget.options = [("all", ""), *((v, v) for v in values)]
            widget.value = kept if kept in values else ""

    def choose(self) -> tuple[dict, str]:
        choice = {
            "split": self.split.value, "cancer_type": self.cancer_type.value, "slide_id": self.slide_id.value,
            "target_fraction": tuple(round(v, 2) for v in self.target.value),
            "error": tuple(round(v, 2) for v in self.error.value),
        }  # fmt: skip
        everything = {
            "split": "",
            "cancer_type": "",
            "slide_id": "",
            "target_fraction": (0.0, 1.0),
            "error": (0.0, 1.0),
        }
        self._call = {"arm": self.arm.value, "order": self.order.value, "n_tiles": self._n_tiles}
        self._call |= {k: v for k, v in choice.items() if v != everything[k]}
        tile_ids = list(choose_tiles(self.tiles, **choice)["tile_id"])
        words = ", ".join(f"{k}={v!r}" for k, v in self._call.items())
        return choice | {
            "arm": self.arm.value,
            "tile_ids": tile_ids,
        }, f"explore.tile_page({self._archive.name!r}, {words})"

    def draw(self) -> bytes:
        return png_of(tile_page(self._archive, **self._call), dpi=90)


def tiles(run: AnyRun, *, arm: str | None = None, n_tiles: int = 12, outputs_dir: str | Path = "outputs") -> Explorer:
    """Tiles of a run by set, cancer type, slide, share of target and share of wrong pixels.

    ``value`` holds the choice and ``tile_ids``, all tiles that it keeps. `arm` is the one to begin with, `n_tiles` how
    many are shown at a time; for the other arguments see `slide`.
    """
    return _Tiles(open_archive(run, outputs_dir=outputs_dir), arm, n_tiles)


class _Threshold(_FigureExplorer):
    def __init__(self, archive: Archive, threshold: float):
        self._archive = archive
        self._drawn: tuple | None = None
        sets = ["test", "val", "train"] if archive.splits is not None else []
        self.threshold = ipywidgets.FloatSlider(
            threshold, min=0.01, max=0.99, step=0.01, description="Threshold", layout=_WIDE, style=_STYLE
        )
        self.split = ipywidgets.Dropdown(
            options=[*((s, s) for s in sets), ("all", "")], description="Slides of", layout=_WIDE, style=_STYLE
        )
        self.score = ipywidgets.Dropdown(
            options=[("Dice", "dice"), ("IoU", "iou"), ("Precision", "precision"), ("Recall", "recall")],
            description="Score",
            layout=_WIDE,
            style=_STYLE,
        )
        self.table = ipywidgets.HTML()
        super().__init__([self.threshold, self.split, self.score])
        self.children = [*self.children[:2], self.table, *self.children[2:]]

    def choose(self) -> tuple[dict, str]:
        key = (self.split.value, self.score.value)
        t = round(self.threshold.value, 4)
        if self._drawn is None or self._drawn[0] != key:
            self._prepare(key, t)
        rows = at_threshold(self._drawn[1], t)
        columns = ["arm", "precision", "recall", "dice", "iou"]
        labels = dict(zip(columns, ["Magnification", "Precision", "Recall", "Dice", "IoU"], strict=True))
        self.table.value = (
            rows[columns]
            .rename(columns=labels)
            .to_html(
                index=False, border=0, float_format="{:.3f}".format, classes="tlskit-at", col_space=90, justify="right"
            )
        ).replace("<table", '<table style="line-height:1.4;text-align:right"')
        value = {"threshold": t, "split": key[0], "score": key[1], "scores": rows[columns].to_dict("records")}
        code = f"explore.threshold_curves({self._archive.name!r}, threshold={t:g}, split={key[0]!r}, score={key[1]!r})"
        return value, f"{code}\n\nthreshold: {t:g}  # in a preset"

    def _prepare(self, key: tuple[str, str], t: float) -> None:
        """The curves once; a tick then moves the marks over a kept background."""
        import matplotlib.pyplot as plt
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        curves = pr_curves(self._archive, split=key[0])
        figure = threshold_curves(self._archive, threshold=t, split=key[0], score=key[1])
        plt.close(figure)
        FigureCanvasAgg(figure).draw()  # lays the figure out; pyplot has taken its own canvas away
        figure.set_layout_engine("none")
        marks = figure.tlskit_marks
        for mark in marks:
            mark.set_animated(True)
        figure.canvas.draw()
        self._drawn = key, curves, figure, marks, figure.canvas.copy_from_bbox(figure.bbox)

    def draw(self) -> bytes:
        import cv2
        import numpy as np

        (_, score), curves, figure, marks, background = self._drawn
        move_cursor(marks, curves, self.value["threshold"], score)
        figure.canvas.restore_region(background)
        for mark in marks:
            mark.axes.draw_artist(mark)
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., 2::-1]
        return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def threshold(run: AnyRun, *, threshold: float = 0.5, outputs_dir: str | Path = "outputs") -> Explorer:
    """Precision, recall and a score of every magnification, with a mark that follows the threshold.

    ``value`` holds threshold, split, score and the scores of each arm there. For the arguments see `slide`.
    """
    return _Threshold(open_archive(run, outputs_dir=outputs_dir), threshold)


class _Timing(_FigureExplorer):
    def __init__(self, archive: Archive, n_slides: int):
        self._archive = archive
        self.n_slides = ipywidgets.BoundedIntText(
            n_slides, min=1, max=10_000_000, description="Slides", layout=_WIDE, style=_STYLE
        )
        super().__init__([self.n_slides])

    def choose(self) -> tuple[dict, str]:
        n = self.n_slides.value
        table = cost_table(self._archive, n_slides=n)
        return {"n_slides": n, "hours": dict(zip(table["arm"], table["hours"], strict=True))}, (
            f"explore.timing_figure({self._archive.name!r}, n_slides={n})"
        )

    def draw(self) -> bytes:
        return png_of(timing_figure(self._archive, n_slides=self.n_slides.value))


def timing(run: AnyRun, *, n_slides: int = 100, outputs_dir: str | Path = "outputs") -> Explorer:
    """What a cohort of N slides costs at each magnification, on the machine that timed the run.

    ``value`` holds n_slides and the hours of each arm. For the arguments see `slide`.
    """
    return _Timing(open_archive(run, outputs_dir=outputs_dir), n_slides)


def _range(label: str) -> ipywidgets.FloatRangeSlider:
    # Reads tiles from slides: on release, not on every tick.
    return ipywidgets.FloatRangeSlider(
        value=(0.0, 1.0),
        min=0,
        max=1,
        step=0.01,
        readout_format=".0%",
        description=label,
        continuous_update=False,
        layout=_WIDE,
        style=_STYLE,
    )
