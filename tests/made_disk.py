"""A disk of a few MB, for tests that fill it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


class NoSmallDisk(Exception):
    """This machine does not let us mount one."""


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[Path]:
    """Mount a tmpfs of that size on `folder`, for as long as the block lasts."""
    folder.mkdir()
    size = f"size={round(megabytes * 1024)}k"
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, text=True)
    except OSError as error:
        raise NoSmallDisk(str(error)) from error
    if made.returncode:
        raise NoSmallDisk(made.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def enlarge(folder: Path, megabytes: float) -> None:
    """Make room on a small disk."""
    subprocess.run(["mount", "-o", f"remount,size={round(megabytes * 1024)}k", folder], check=True)


def let_write(folder: Path, allowed: bool) -> None:
    """Make a small disk writable, or read-only for everybody, root included."""
    subprocess.run(["mount", "-o", f"remount,{'rw' if allowed else 'ro'}", folder], check=True)
