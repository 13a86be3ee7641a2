"""What a figure draws, read back from its axes; and whether its texts meet."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.text import Annotation, Text


def marks(ax, zorder=3):
    """x and y of the marks of a panel."""
    found = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection) and c.get_zorder() == zorder]
    points = np.concatenate(found) if found else np.empty((0, 2))
    return np.asarray(points[np.isfinite(points).all(axis=1)])


def texts(figure):
    """Every text that is seen, and its box."""
    FigureCanvasAgg(figure).draw()
    hidden = {id(label) for ax in figure.axes for label in _out_of_sight(ax)}
    seen = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            box = text.get_window_extent() if not isinstance(text, Annotation) else Text.get_window_extent(text)
            seen.append((text.get_text(), box))
    return seen


def _out_of_sight(ax):
    """Labels of ticks outside an axis' limits, or of an axis that is switched off (matplotlib keeps, but hides)."""
    frame = ax.get_window_extent()
    for axis, low, high in ((ax.xaxis, frame.x0, frame.x1), (ax.yaxis, frame.y0, frame.y1)):
        for label in axis.get_ticklabels(which="both"):
            box = label.get_window_extent()
            middle = (box.x0 + box.x1) / 2 if axis is ax.xaxis else (box.y0 + box.y1) / 2
            if not ax.axison or not low - 1 <= middle <= high + 1:
                yield label


def check_layout(figure):
    assert not plt.get_fignums(), "an open figure would be shown twice in a notebook"
    found = texts(figure)
    x0, y0, x1, y1 = np.array([box.extents for _, box in found]).T
    for n, (text, _) in enumerate(found):
        assert x0[n] >= -2 and x1[n] <= figure.bbox.x1 + 2, f"{text!r} leaves the figure"
        assert y0[n] >= -2 and y1[n] <= figure.bbox.y1 + 2, f"{text!r} leaves the figure"
    across = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    down = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    for one, other in np.argwhere(np.triu((across > 1) & (down > 1), 1)):
        raise AssertionError(f"{found[one][0]!r} and {found[other][0]!r} lie on one another")


def boxes(ax):
    """Left, width, middle and height of each bar of a panel, from the top to the bottom and from left to right."""
    ends = [
        path.get_extents().bounds for c in ax.collections if isinstance(c, PolyCollection) for path in c.get_paths()
    ]
    return sorted(((x, wide, y + high / 2, high) for x, y, wide, high in ends), key=lambda box: (box[2], box[0]))


def lines(ax):
    """x and y of every line of a panel that is drawn: of paths, trends and intervals."""
    found = [line.get_xydata().astype(float) for line in ax.lines if len(line.get_xdata())]
    for collection in ax.collections:
        if isinstance(collection, LineCollection):
            found += [np.asarray(path, float) for path in collection.get_segments() if len(path)]
    known = [xy[np.flatnonzero(ok)[0] : np.flatnonzero(ok)[-1] + 1] for xy in found
             if (ok := np.isfinite(xy).all(axis=1)).any()]  # fmt: skip
    return [xy for xy in known if np.isfinite(xy).all()]
