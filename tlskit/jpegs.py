"""JPEG tiles of a TIFF slide, decoded without OpenSlide where that gives the same pixels."""

from __future__ import annotations

__all__ = ["JpegLevel", "open_jpeg_tiles"]


class JpegLevel:
    """A level decoded tile by tile."""


def open_jpeg_tiles(scan):
    """Index of a slide's JPEG tiles, or None where the fast path does not apply."""
    return None
