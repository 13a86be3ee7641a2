"""The looks of arms stay apart in a print in grey, and for who does not see red and green."""

import functools
import itertools
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tlskit.explore.viewer import SlideView
from tlskit.figures import overlays, style

# Machado, Oliveira and Fernandes, A physiologically-based model for simulation of color vision deficiency, IEEE
# Transactions on Visualization and Computer Graphics 15 (2009), 1291-1298: deuteranomaly of severity 1, of linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear RGB with the primaries of sRGB (IEC 61966-2-1)
SIGHTS = {"grey": np.tile(LUMINANCE, (3, 1)), "deuteranopia": DEUTERANOPIA}


def linear(rgb):
    """Linear RGB of sRGB, both in 0-1."""
    rgb = np.asarray(rgb, float)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lightness(rgb, sight):
    """CIE L*, 0-100, of sRGB colours in 0-1 as they are seen."""
    y = np.clip(linear(rgb) @ SIGHTS[sight].T, 0, 1) @ LUMINANCE
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def lab(colour, sight):
    """CIE 1976 L*, a*, b* of a colour as it is seen (white D65)."""
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], LUMINANCE, [0.0193339, 0.1191920, 0.9503041]])
    ratio = to_xyz @ np.clip(SIGHTS[sight] @ linear(to_rgb(colour)), 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


#: Eosin's pink, stroma, lymphocytes, nuclei, glass.
TISSUE = ("#ebcde1", "#d58fb5", "#7850a0", "#4b2e83", "#f4f4f4")


def test_truth_and_prediction_are_told_apart_on_tissue_without_red_and_green():
    truth, prediction = (lab(c, "deuteranopia") for c in (overlays.TRUTH_COLOUR, overlays.PREDICTION_COLOUR))
    green, orange = (lab(colour, "deuteranopia") for colour in (style.GREEN, style.ORANGE))
    assert np.linalg.norm(truth - prediction) > 110 > 1.5 * np.linalg.norm(green - orange)
    for ground in (*TISSUE, "#202020"):
        for line in (truth, prediction):
            assert np.linalg.norm(line - lab(ground, "deuteranopia")) > 25


def test_lines_over_a_slide_in_the_browser_are_told_apart_by_everybody():
    text = SlideView._esm
    truth, drawn = (re.search(rf'const {name} = "(#\w+)"', text)[1] for name in ("TRUTH", "DRAWN"))
    yellow = "#" + "".join(f"{int(v):02x}" for v in re.search(r"const YELLOW = \[(.*?)\]", text)[1].split(","))
    # Each line lies in a rim, a dark or a light one: line or rim is seen on every ground.
    for line, rim in ((truth, "#141414"), (yellow, "#141414"), (drawn, "#ffffff")):
        for ground in (*TISSUE, "#202020"):
            seen = [np.linalg.norm(lab(c, "deuteranopia") - lab(ground, "deuteranopia")) for c in (line, rim)]
            assert max(seen) > 30
    for one, other in itertools.combinations((truth, drawn, yellow), 2):
        assert np.linalg.norm(lab(one, "deuteranopia") - lab(other, "deuteranopia")) > 40


def test_truth_and_prediction_are_told_apart_in_grey_by_dashes_over_a_dark_rim():
    figure = Figure()
    axes = figure.subplots(1, 2)
    for ax, colour in zip(axes, (overlays.TRUTH_COLOUR, overlays.PREDICTION_COLOUR), strict=True):
        overlays.draw_mask(ax, np.pad(np.ones((4, 4), bool), 2), colour)
    truth, prediction = (ax.patches[0] for ax in axes)
    assert truth.get_linestyle() != prediction.get_linestyle()
    rim = truth.get_path_effects()[0]._gc["foreground"]
    light = lightness([to_rgb(overlays.TRUTH_COLOUR), to_rgb(overlays.PREDICTION_COLOUR)], "grey")
    assert light.min() - lightness(to_rgb(rim), "grey") > 60


@functools.cache
def seen(color, own, sight):
    """A mark, or a line, as it is printed at 150 dpi; L* of its pixels. `own` is a marker or dashes."""
    figure = Figure(figsize=(0.6, 0.2), dpi=150)
    canvas = FigureCanvasAgg(figure)
    mark = isinstance(own, str) and own != "-"
    x, own = ([0.5], {"marker": own}) if mark else ([0.1, 0.9], {"linestyle": own})
    figure.add_artist(Line2D(x, [0.5] * len(x), color=color, linewidth=1.3, markersize=5, **own))
    canvas.draw()
    return lightness(np.asarray(canvas.buffer_rgba())[..., :3] / 255, sight)


def apart(one, other, kind, sight):
    """Share of the inked pixels that differ by 15 in L* or more."""
    a, b = (seen(look["color"], look[{"mark": "marker", "line": "linestyle"}[kind]], sight) for look in (one, other))
    return (np.abs(a - b) >= 15)[(a < 90) | (b < 90)].mean()


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("kind", ["mark", "line"])
def test_neighbours_among_twenty_arms_stay_apart(kind, sight):
    looks = list(style.arm_styles([f"{n}x" for n in range(1, 21)]).values())
    least = min(apart(a, b, kind, sight) for a, b in itertools.pairwise(looks))
    assert least > 0.15


@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_of_the_arms_of_one_panel_stay_apart_by_their_marks(sight):
    looks = style.arm_styles([f"{n}x" for n in range(1, 9)]).values()
    assert min(apart(a, b, "mark", sight) for a, b in itertools.combinations(looks, 2)) > 0.15


@pytest.mark.parametrize("kind", ["mark", "line"])
def test_red_and_green_of_one_lightness_and_one_mark_would_not(kind):
    shared = {"marker": "o", "linestyle": "-"}
    red, green = (shared | {"color": colour} for colour in ("#d94f4f", "#3f8f3f"))
    assert apart(red, green, kind, "grey") < 0.15
    assert apart(red, green | {"marker": "s", "linestyle": (0, (1, 1))}, kind, "grey") > 0.15


def test_white_and_black_are_seen_as_they_are():
    for sight in SIGHTS:
        assert lightness([[1, 1, 1], [0, 0, 0]], sight) == pytest.approx([100, 0], abs=0.1)
