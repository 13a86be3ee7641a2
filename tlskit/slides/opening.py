"""Why a file is no slide, or no longer one: different causes in different sentences."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from tlskit.errors import SlideError

__all__ = ["cause", "look_before_opening", "refusal"]

#: How files begin that stand under a slide's name and are none.
_IMPOSTORS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the slide itself: fetch it with `git lfs pull`"),
    (b"<!DOCTYPE html", "a web page, so the download failed: download it again"),
    (b"<html", "a web page, so the download failed: download it again"),
    (b"PK\x03\x04", "a zip archive: unpack it and name the slide inside"),
    (b"\x1f\x8b", "a gzip archive: unpack it and name the slide inside"),
    (b"\x89PNG", "a PNG picture, no whole-slide image: convert it to a pyramidal TIFF that states its um/px"),
    (b"\xff\xd8\xff", "a JPEG picture, no whole-slide image: convert it to a pyramidal TIFF that states its um/px"),
    (b"%PDF", "a PDF, no whole-slide image"),
)

_TOO_MANY = (errno.EMFILE, errno.ENFILE)


def look_before_opening(path: Path) -> None:
    """Refuse what no reader need be asked about: nothing there, a folder, no permission, no content.

    Raises
    ------
    SlideError
        With the cause and its remedy.
    """
    try:
        if path.is_dir():
            raise SlideError(f"{path}: it is a folder. {_folder_remedy(path)}")
        if not path.is_file():
            if path.is_symlink():
                raise SlideError(f"{path}: it is a link to a file that is not there. Mend the link, or copy the slide.")
            raise SlideError(f"{path}: there is no such slide file. Correct its `slide_path` in the manifest.")
        with open(path, "rb") as file:
            if not file.read(1):
                raise SlideError(f"{path}: the file is empty (0 bytes). Copy it again from its source.")
    except SlideError:
        raise
    except OSError as error:
        raise SlideError(f"{path}: {cause(path, error)}") from error


def _folder_remedy(path: Path) -> str:
    if any(p.suffix.lower() == ".dcm" for p in path.iterdir()):
        return "Of a DICOM slide name one .dcm file in it: the files of one series are one slide."
    return "Name a slide's file; for MIRAX the .mrxs beside the folder."


def cause(path: Path, error: BaseException) -> str:
    """Why the file under this path cannot be opened now, and what to do, as the end of a sentence.

    A reader's own word is taken last: with no file handle left, OpenSlide says that the format is unknown.
    """
    number = getattr(error, "errno", None)
    if number is None:
        try:
            with open(path, "rb") as file:
                head = file.read(64)
        except OSError as its:
            number = its.errno
        else:
            return _of_content(path, head, error)
    if number in (errno.EACCES, errno.EPERM):
        return "it may not be read (permission denied). Ask for the right to read it and its folder."
    if number in _TOO_MANY:
        return "too many open files. Raise the limit (`ulimit -n 4096`), or open fewer slides at a time."
    if number == errno.ENOENT:
        return "there is no such slide file any more. Bring it back, or correct its `slide_path` in the manifest."
    reason = os.strerror(number) if number else error
    return f"it cannot be read ({reason}). Is the drive that it lies on still there?"


def _of_content(path: Path, head: bytes, error: BaseException) -> str:
    for start, what in _IMPOSTORS:
        if head.lower().startswith(start.lower()):
            return f"it is {what}."
    missing = _first_directory_beyond_end(path, head)
    if missing:
        return f"it is truncated: {missing}. Copy it again from its source."
    return (
        f"OpenSlide cannot open this file ({_said(error)}). It is damaged, not a slide, or of a format that "
        "OpenSlide does not know: copy it again, or convert it to a pyramidal TIFF."
    )


def _said(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__


def _first_directory_beyond_end(path: Path, head: bytes) -> str:
    """Where the first directory of a TIFF should lie, if that is past the file's end; else empty."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return ""
    version = struct.unpack(f"{order}H", head[2:4])[0]
    if version == 42:
        offset = struct.unpack(f"{order}I", head[4:8])[0]
    elif version == 43:
        offset = struct.unpack(f"{order}Q", head[8:16])[0]
    else:
        return ""
    size = path.stat().st_size
    return f"its directory should lie at byte {offset:,} and it ends at byte {size:,}" if offset >= size else ""


def refusal(path: Path, error: BaseException) -> SlideError:
    """The error to raise where a reader, whatever it is, failed to open `path`."""
    return SlideError(f"{path}: {cause(path, error)}")
