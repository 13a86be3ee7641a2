"""Which library reads a file: OpenSlide, or tifffile and zarr for the OME formats that it does not read."""

from __future__ import annotations

import os
from pathlib import Path

from tlskit.errors import SlideError
from tlskit.slides.ome import OmeScan, OmeTiff, OmeZarr, is_ome_tiff, is_zarr
from tlskit.slides.scans import Scan

__all__ = ["open_scan"]


def open_scan(path: str | os.PathLike) -> Scan | OmeScan:
    """Open a file with the reader for it.

    OpenSlide reads an OME-TIFF as a generic TIFF: level 0 alone, or one plane of three.

    Raises
    ------
    SlideError
        If no reader opens it; whatever a reader throws.
    """
    path = Path(path)
    if is_zarr(path):
        return OmeZarr(path)
    if path.name.lower().endswith((".ome.tif", ".ome.tiff", ".ome.btf", ".ome.tf8")) and is_ome_tiff(path):
        return OmeTiff(path)
    try:
        scan = Scan(path)
    except SlideError:
        if path.suffix.lower() in (".tif", ".tiff", ".btf") and path.is_file() and is_ome_tiff(path):
            return OmeTiff(path)
        raise
    if scan.properties.get("openslide.vendor") == "generic-tiff" and is_ome_tiff(path):
        scan.close()
        return OmeTiff(path)
    return scan
