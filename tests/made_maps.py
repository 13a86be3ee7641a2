"""Slides, networks and rows that tests of maps share."""

import math
import threading
from types import SimpleNamespace

import numpy as np
import torch
from made_cohort import manifest_row
from torch import nn

from tlskit.errors import SlideError
from tlskit.outlines import reading as annotations
from tlskit.slides.tiffs import write_slide

WHITE = 255


class ArraySlide:
    """A slide in memory at its own um/px, with the reader's interface: what lies beyond is white."""

    def __init__(self, image, *, mpp=1.0, lost_box=None, dies_after=None):
        self.image, self.mpp0, self.size_px0 = image, mpp, image.shape[1::-1]
        self.lost_box, self.dies_after = lost_box, dies_after
        self.path, self.mpp_source, self.reader, self.lost = "memory.svs", "openslide", "array", []
        self.served = self.readers = 0
        self.threads = set()

    def size_px(self, mpp):
        assert mpp == self.mpp0
        return self.size_px0

    def level_for(self, mpp):
        return 0

    def windows(self, xy_px, size_px, *, mpp, on_lost, threads=2, on_stage=None):
        if on_stage is None:  # looked at before the map is made, to choose the engine by
            served, threads, self.served, self.threads = self.served, self.threads, -(10**9), set()
            try:
                yield from self.windows(xy_px, size_px, mpp=mpp, on_lost=on_lost, on_stage=lambda *_: None)
            finally:
                self.served, self.threads = served, threads
            return
        self.readers = threads
        on_stage("read", 0.0, 1e-9)
        self.threads.add(threading.current_thread().name)
        margin = size_px * 2
        padded = np.pad(self.image, ((margin, margin), (margin, margin), (0, 0)), constant_values=WHITE)
        for index, (x, y) in enumerate(xy_px):
            self.served += 1
            if self.dies_after is not None and self.served > self.dies_after:
                raise SlideError("the file ends here")
            if self.lost_box is not None:
                left, top, width, height = self.lost_box
                if x < left + width and left < x + size_px and y < top + height and top < y + size_px:
                    self.lost.append({"x_px": left, "y_px": top, "width_px": width, "height_px": height})
                    yield index, None
                    continue
            yield index, padded[y + margin : y + margin + size_px, x + margin : x + margin + size_px]


class Constant(nn.Module):
    def __init__(self, probability):
        super().__init__()
        self.logit = math.log(probability / (1 - probability))

    def forward(self, x):
        return torch.full_like(x[:, :1], self.logit)


class Pixelwise(nn.Module):
    """The probability is the red channel: the map must be the slide's red channel."""

    def forward(self, x):
        return torch.logit(x[:, :1].clamp(1e-6, 1 - 1e-6))


class Context(nn.Module):
    """A small network whose output depends on the place in the window, as a real one's does at its rim."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.ReLU(), nn.Conv2d(8, 1, 7, padding=3))

    def forward(self, x):
        return 8 * self.layers(x)


def checkpoint(model, *, tile_px=64, magnification=10, overlap=0.5, **more):
    return SimpleNamespace(
        model=model, magnification=magnification, mpp=10 / magnification, tile_px=tile_px, overlap=overlap,
        normalisation="divide_255", sha256="0" * 64, resolution_by="mpp", **more,
    )  # fmt: skip


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def painted_slide(folder):
    """A section with four TLS, each in a colour of its own, as a slide at 0.5 um/px, and their outlines."""
    from shapely import Point
    from shapely.affinity import rotate, scale

    width, height = 4000, 3600
    truth = [
        rotate(scale(Point(x, y).buffer(1.0, quad_segs=64), a, b), angle)
        for x, y, a, b, angle in (
            (900, 800, 420, 260, 20), (2900, 900, 330, 500, 0), (1200, 2600, 250, 200, 70), (2800, 2700, 520, 480, 0)
        )
    ]  # fmt: skip
    image = np.full((height, width, 3), 243, np.uint8)
    image[150:3450, 150:3850] = (225, 160, 200)
    for number, polygon in enumerate(truth):
        inside = annotations.rasterise([polygon], x_px=0, y_px=0, width_px=width, height_px=height, mpp=0.5, mpp0=0.5)
        image[inside] = (65, 40 + 10 * number, 120 + 12 * number)
    return write_slide(folder / "painted.tif", image, mpp=0.5, objective_power=20, quality=95), truth


def slide_row(slide_id, path):
    return SimpleNamespace(**manifest_row(slide_id, path))
