"""Slides that OpenSlide does not read: OME-TIFF through tifffile, OME-Zarr through zarr.

QuPath, TIAToolbox and TRIDENT write and read them.
Slower than OpenSlide and exact to these libraries. Both give what `tlskit.slides.scans.Scan` gives, so that nothing
else knows of them. A file that is not 8-bit colour of one plane is refused in a sentence.
"""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import numpy as np

from tlskit.errors import SlideError
from tlskit.slides.opening import cause
from tlskit.slides.scans import LARGEST_TILE_PX, LONGEST_PX, whole_downsample

__all__ = ["OmeScan", "OmeTiff", "OmeZarr", "is_ome_tiff", "is_zarr", "um_of"]

_UM = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micrometer": 1.0, "micrometre": 1.0, "micron": 1.0, "nm": 1e-3, "nanometer": 1e-3,
    "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6,
}  # fmt: skip


def um_of(value, unit: str | None) -> float | None:
    """A length of the OME model in um, or None where it is none or has no unit of length (``pixel``)."""
    try:
        um = float(value) * _UM[unit]
    except (TypeError, ValueError, KeyError):
        return None
    return um if math.isfinite(um) and um > 0 else None


class OmeScan:
    """What both readers share. Attributes as of `tlskit.slides.scans.Scan`, and:

    Attributes
    ----------
    mpp_xy : (float, float) or None
        um per level-0 pixel by the OME metadata.
    """

    name = "ome"

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.properties: dict[str, str] = {}
        self.mpp_xy: tuple[float, float] | None = None
        self._tiles_px: list[tuple[int, int]] = []
        self._forget()
        try:
            self.level_sizes_px = tuple(self._look())
            if not self.level_sizes_px or min(map(min, (*self.level_sizes_px, *self._tiles_px))) < 1:
                raise ValueError("a level or a tile has no pixels")
        except SlideError:
            raise
        except Exception as error:  # whatever a reader throws is this slide's fault
            raise SlideError(f"{self.path}: {cause(self.path, error).replace('OpenSlide', self.name)}") from error
        finally:
            self.close()
        size0 = self.level_sizes_px[0]
        self.level_downsamples = tuple(
            whole_downsample(size0, size, (size0[0] / size[0] + size0[1] / size[1]) / 2) for size in self.level_sizes_px
        )
        self.refused: dict[int, str] = {}
        for i, (size, tile) in enumerate(zip(self.level_sizes_px, self._tiles_px, strict=True)):
            if max(size) > LONGEST_PX or tile[0] * tile[1] > LARGEST_TILE_PX:
                self.refused[i] = f"level {i} is {size[0]} x {size[1]} px in pieces of {tile[0]} x {tile[1]} px"
        if 0 in self.refused:
            raise SlideError(f"{self.path}: {self.refused[0]}: too large to read in parts. Convert it to a tiled file.")

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of a level, (height, width, 3) uint8 RGB, white beyond its edges.

        Raises
        ------
        SlideError
            If a part of it cannot be read.
        """
        out = np.full((height, width, 3), 255, np.uint8)
        (tile_w, tile_h), size = self._tiles_px[level], self.level_sizes_px[level]
        x0, y0, x1, y1 = max(0, x), max(0, y), min(x + width, size[0]), min(y + height, size[1])
        try:
            for row in range(y0 // tile_h, -(-y1 // tile_h)):
                for column in range(x0 // tile_w, -(-x1 // tile_w)):
                    tile, left, top = self._tile(level, column, row), column * tile_w, row * tile_h
                    a, b, c, d = max(x0, left), max(y0, top), min(x1, left + tile_w), min(y1, top + tile_h)
                    out[b - y : d - y, a - x : c - x] = tile[b - top : d - top, a - left : c - left]
        except Exception as error:
            raise SlideError(
                f"{self.path}: cannot read {width} x {height} px at ({x}, {y}) of level {level} ({error}). The file is "
                "damaged there or out of reach: copy it again from its source."
            ) from error
        return out

    def read_exact(self, level: int, x: int, y: int, width: int, height: int, *, farthest_px: int = 0) -> np.ndarray:
        """The same as `read_level`: every position is exact."""
        return self.read_level(level, x, y, width, height)

    def exact(self, level: int, positions: np.ndarray) -> np.ndarray:
        """Which positions can be read as they are stored: all."""
        return np.ones(np.shape(positions), bool)

    def native_tile_px(self, level: int) -> tuple[int, int] | None:
        """Size of the pieces in which a level is stored."""
        return self._tiles_px[level]

    def icc_profile(self) -> bytes | None:
        """None: these formats keep none, or keep it where these readers do not look."""
        return None

    def close(self) -> None:
        """Let go of the file; reading again reopens it."""
        self._opened = None

    def _look(self):
        """Read the metadata into the attributes; the sizes of the levels."""
        raise NotImplementedError

    def _tile(self, level: int, column: int, row: int) -> np.ndarray:
        """A stored piece, (height, width, 3) uint8, perhaps cut at the level's edges."""
        raise NotImplementedError

    def _refuse(self, what: str) -> SlideError:
        return SlideError(
            f"{self.path}: {what}, where tlskit reads one plane of 8-bit colour (H&E, bright field). Leave it out, or "
            "export the bright-field scan."
        )

    def _forget(self) -> None:
        self._pid, self._opened, self._lock = os.getpid(), None, threading.RLock()

    def _fresh(self) -> None:
        if self._pid != os.getpid():  # a fork shares the parent's file positions
            self._forget()

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "_lock", "_pid")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget()


def is_ome_tiff(path: Path) -> bool:
    """Whether a TIFF carries OME metadata."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.is_ome)
    except Exception:  # no TIFF, or one too damaged to be known as OME
        return False


class OmeTiff(OmeScan):
    """An OME-TIFF: levels in SubIFDs, scale in its XML."""

    name = "ome-tiff"

    def _look(self):
        series = self._series()
        self._read_xml(self._opened.ome_metadata)
        shape = dict(zip(series.axes, series.shape, strict=True))
        planes = {axis: n for axis, n in shape.items() if axis not in "YXSC" and n > 1}
        if planes:
            raise self._refuse(f"it is a stack ({', '.join(f'{n} along {axis}' for axis, n in planes.items())})")
        if series.dtype != np.uint8:
            raise self._refuse(f"it has {series.dtype.itemsize * 8} bits a channel")
        if not (
            shape.get("S", 1) in (3, 4) and shape.get("C", 1) == 1 or shape.get("S", 1) == 1 and self._is_rgb(shape)
        ):
            channels = max(shape.get("C", 1), shape.get("S", 1))
            raise self._refuse(
                f"it has {channels} channel{'s' * (channels > 1)}{self._named()}, not red, green and blue"
            )
        for level in series.levels:
            page = level.keyframe
            tall = page.tilelength if page.is_tiled else page.rowsperstrip
            wide = page.tilewidth if page.is_tiled else page.imagewidth
            needed = -(-page.imagewidth // wide) * -(-page.imagelength // tall) * len(self._planes(page))
            if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
                raise ValueError(f"a level lists {len(page.dataoffsets)} tiles where its size asks for {needed}")
            self._tiles_px.append((int(wide), int(min(tall, page.imagelength))))
            yield int(page.imagewidth), int(page.imagelength)

    def _is_rgb(self, shape: dict) -> bool:
        names = [name.strip().lower()[:1] for name in self._channels]
        return shape.get("C", 1) == 3 and (names == ["r", "g", "b"] or not any(names))

    def _named(self) -> str:
        named = [name for name in self._channels if name]
        return f" ({', '.join(named[:6])})" if named else ""

    def _read_xml(self, text: str) -> None:
        from defusedxml import ElementTree

        root = ElementTree.fromstring(text)
        pixels = root.find(".//{*}Pixels")
        self._channels = [channel.get("Name", "") for channel in pixels.findall("{*}Channel")]
        x, y = (um_of(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "XY")
        self.mpp_xy = (x, y) if x and y else None
        objective = root.find(".//{*}Objective")
        power = objective.get("NominalMagnification") if objective is not None else None
        self.properties = {"openslide.vendor": "ome-tiff"} | ({"openslide.objective-power": power} if power else {})

    def _series(self):
        import tifffile

        self._fresh()
        if self._opened is None:
            self._opened = tifffile.TiffFile(self.path)
        # The scan is the largest picture; a label and a macro may stand beside it.
        return max(self._opened.series, key=lambda s: s.keyframe.imagewidth * s.keyframe.imagelength)

    def _tile(self, level: int, column: int, row: int) -> np.ndarray:
        with self._lock:
            found = self._series().levels[level]
            pages = [page for page in found.pages if page is not None]
            separate = [
                self._piece(page, column, row, plane) for page in pages[:3] for plane in self._planes(page.keyframe)
            ]
        return separate[0][..., :3] if len(separate) == 1 else np.concatenate(separate[:3], axis=-1)

    @staticmethod
    def _planes(page) -> range:
        return range(page.samplesperpixel if int(page.planarconfig) == 2 else 1)

    def _piece(self, page, column: int, row: int, plane: int) -> np.ndarray:
        keyframe = page.keyframe
        wide, tall = (
            (keyframe.tilewidth, keyframe.tilelength)
            if keyframe.is_tiled
            else (keyframe.imagewidth, keyframe.rowsperstrip)
        )
        columns, rows = -(-keyframe.imagewidth // wide), -(-keyframe.imagelength // tall)
        index = plane * columns * rows + row * columns + column
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not count:
            return np.full(
                (tall, wide, 1 if self._planes(keyframe) != range(1) else keyframe.samplesperpixel), 255, np.uint8
            )
        file = self._opened.filehandle
        file.seek(offset)
        data = file.read(count)
        if len(data) != count:
            raise ValueError(f"a tile should lie at byte {offset:,}, past the end of the file")
        pixels = keyframe.decode(data, index, jpegtables=keyframe.jpegtables)[0]
        return pixels.reshape(pixels.shape[-3:])

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and self._pid == os.getpid():
            opened.close()


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


class OmeZarr(OmeScan):
    """An OME-Zarr (OME-NGFF 0.1 to 0.5): a folder of arrays, one a level."""

    name = "ome-zarr"

    def _look(self):
        group, prefix = self._group(), ""
        attributes = dict(group.attrs)
        attributes = attributes.get("ome", attributes)
        if "multiscales" not in attributes and "0" in group:  # bioformats2raw: a group for each picture
            prefix = "0/"
            attributes = dict(group["0"].attrs)
            attributes = attributes.get("ome", attributes)
        if not attributes.get("multiscales"):
            raise self._refuse("it is a Zarr without the multiscales of OME-Zarr")
        scales = attributes["multiscales"][0]
        axes = scales.get("axes", [{"name": name} for name in "tczyx"])
        self._axes = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
        self._paths = [prefix + dataset["path"] for dataset in scales["datasets"]]
        self.properties = {"openslide.vendor": "ome-zarr"}
        self._read_scale(scales, axes)
        for path in self._paths:
            array = group[path]
            shape = dict(zip(self._axes, array.shape, strict=True))
            pieces = dict(zip(self._axes, getattr(array, "shards", None) or array.chunks, strict=True))
            self._check(array, shape)
            self._tiles_px.append((int(pieces["x"]), int(pieces["y"])))
            yield int(shape["x"]), int(shape["y"])

    def _check(self, array, shape: dict) -> None:
        planes = {axis: n for axis, n in shape.items() if axis not in "yxc" and n > 1}
        if planes:
            raise self._refuse(f"it is a stack ({', '.join(f'{n} along {axis}' for axis, n in planes.items())})")
        if array.dtype != np.uint8:
            raise self._refuse(f"it has {array.dtype.itemsize * 8} bits a channel")
        if shape.get("c", 1) not in (3, 4):
            raise self._refuse(f"it has {shape.get('c', 1)} channels, not red, green and blue")

    def _read_scale(self, scales: dict, axes: list) -> None:
        steps = scales["datasets"][0].get("coordinateTransformations", [])
        scale = next((step["scale"] for step in steps if step.get("type") == "scale"), None)
        units = [axis.get("unit") if isinstance(axis, dict) else None for axis in axes]
        if scale is None:
            return
        whole = [step["scale"] for step in scales.get("coordinateTransformations", []) if step.get("type") == "scale"]
        for outer in whole:
            scale = [a * b for a, b in zip(scale, outer, strict=True)]
        found = {name: um_of(v, unit) for name, v, unit in zip(self._axes, scale, units, strict=True)}
        self.mpp_xy = (found["x"], found["y"]) if found.get("x") and found.get("y") else None

    def _group(self):
        import zarr

        self._fresh()
        with self._lock:
            if self._opened is None:
                self._opened = {"": zarr.open_group(str(self.path), mode="r")}
            return self._opened[""]

    def _tile(self, level: int, column: int, row: int) -> np.ndarray:
        path = self._paths[level]
        group = self._group()
        opened = self._opened or {}
        array = opened.get(path)
        if array is None:
            array = opened[path] = group[path]
        wide, tall = self._tiles_px[level]
        starts = {"x": column * wide, "y": row * tall}
        if array.fill_value in (0, None):
            self._refuse_absent(array, path, {"x": column, "y": row})
        where = tuple(
            slice(starts[axis], starts[axis] + {"x": wide, "y": tall}[axis]) if axis in starts
            else slice(0, 3) if axis == "c" else 0
            for axis in self._axes
        )  # fmt: skip
        kept = [axis for axis in self._axes if axis in "yxc"]
        return np.transpose(array[where], [kept.index(axis) for axis in "yxc"])

    def _refuse_absent(self, array, path: str, at: dict) -> None:
        """A chunk that is not there would be read as black, without a word."""
        shape = dict(zip(self._axes, array.shape, strict=True))
        pieces = dict(zip(self._axes, getattr(array, "shards", None) or array.chunks, strict=True))
        for channel in range(-(-min(3, shape["c"]) // pieces["c"])):
            key = array.metadata.encode_chunk_key(tuple({"c": channel, **at}.get(axis, 0) for axis in self._axes))
            if not (self.path / path / key).exists():
                raise ValueError(f"its chunk {path}/{key} is not there")
