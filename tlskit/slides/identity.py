"""Which slide a file is: an identity by content, the same for a copy under another name and at another time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tlskit.errors import SlideError

__all__ = ["content_id"]

#: Bytes read at each of some places of a file: the first at its head, the last at its tail, the others evenly between.
_BLOCK_BYTES = 2**16
_BLOCKS = 10

#: Formats in which a slide is many files: there the one that is named says little, and OpenSlide's quickhash more.
_MANY_FILES = {".mrxs", ".dcm", ".vms", ".vmu"}


def content_id(path: str | os.PathLike) -> str:
    """Identity of a slide by what it holds: 16 hexadecimal digits, never by name, folder or time.

    A file is known by its size and the bytes at its head, its tail and eight places between them (640 KiB of any
    file are read); a slide of many files (MIRAX, DICOM, VMS) by OpenSlide's quickhash and, where its files lie in a
    folder of its own, their names and sizes; an OME-Zarr by its metadata, and the names and sizes of its chunks and
    the content of some. Bytes that change in place between the blocks, with the size kept, are not noticed.

    Raises
    ------
    SlideError
        If there is nothing under this path, or it may not be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _of_folder(path)
        if path.suffix.lower() in _MANY_FILES and (quick := _quickhash(path)):
            return _digest(quick, *_beside(path))
        return _digest(*_blocks(path))
    except SlideError:
        raise
    except OSError as error:
        raise SlideError(f"{path}: it cannot be identified, because it cannot be read ({error.strerror}).") from error


def _digest(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        part = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]


def _blocks(path: Path) -> list[str | bytes]:
    """Size and blocks of a file; the whole of a small one."""
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        if size <= _BLOCKS * _BLOCK_BYTES:
            return [str(size), file.read()]
        parts: list[str | bytes] = [str(size)]
        for i in range(_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * i // (_BLOCKS - 1))
            parts.append(file.read(_BLOCK_BYTES))
        return parts


def _quickhash(path: Path) -> str:
    """What OpenSlide makes of a slide's smallest level and metadata; empty where it makes nothing."""
    from tlskit.slides.scans import Scan

    try:
        scan = Scan(path)
    except SlideError:
        return ""
    scan.close()
    return scan.properties.get("openslide.quickhash-1", "")


def _beside(path: Path) -> list[str]:
    """Names and sizes of the files in the folder of a MIRAX slide, which is named as it is."""
    folder = path.with_suffix("")
    files = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    return [f"{p.name} {p.stat().st_size}" for p in files]


def _of_folder(path: Path) -> str:
    files = sorted((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
    metadata = [name for name, _ in files if name.rsplit("/", 1)[-1] in ("zarr.json", ".zattrs", ".zgroup", ".zarray")]
    if not metadata:
        raise SlideError(f"{path}: it is a folder, and no OME-Zarr. Name a slide's file.")
    chunks = [name for name, _ in files if name not in set(metadata)]
    some = {chunks[(len(chunks) - 1) * i // (_BLOCKS - 1)] for i in range(_BLOCKS)} if chunks else set()
    parts: list[str | bytes] = []
    for name, file in files:
        parts.append(f"{name} {file.stat().st_size}")
        if name in some:
            parts += _blocks(file)
    parts += [(path / name).read_bytes() for name in metadata]
    return _digest(*parts)
