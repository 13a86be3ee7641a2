"""Where files lie, and how they are written: under a temporary name first, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tlskit.errors import DiskFullError

__all__ = [
    "TEMPORARY",
    "TEXT_COLUMNS",
    "code_state",
    "disk_full",
    "files_state",
    "is_disk_full",
    "project_root",
    "read_table",
    "resolve",
    "sha256_of_file",
    "write_text",
    "writing",
]

#: How the names of files begin that are being written. A process that is killed leaves such a file behind.
TEMPORARY = ".tmp-"


def project_root(start: str | Path | None = None) -> Path:
    """Nearest folder at or above `start` (default: the working folder) that holds ``notebooks`` and ``params``.

    Where there is none (the package is used outside its project) it is the working folder itself.
    """
    here = Path(start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def resolve(path: str | Path) -> Path:
    """Path as given in a preset: absolute, or relative to the project's root.

    A notebook runs in ``notebooks/`` under JupyterLab and elsewhere under papermill; a path in a preset must mean
    the same in both.
    """
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    The temporary name keeps the suffix, because writers choose the format by it.

    Raises
    ------
    DiskFullError
        If there is no room; what stood under `path` before is left as it was.
    """
    path = Path(path)
    try:
        with _written_beside(path) as temporary:
            yield temporary
    except OSError as error:
        if is_disk_full(error) and not isinstance(error, DiskFullError):
            raise disk_full(path) from error
        raise


@contextlib.contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner can read; an archive is shared with colleagues.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that a disk or a quota has no room left."""
    while error is not None:
        if isinstance(error, DiskFullError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full(path: str | Path) -> DiskFullError:
    """The error to raise where `path` could not be written for want of room."""
    folder = next(folder for folder in Path(path).absolute().parents if folder.is_dir())
    return DiskFullError(
        f"{path}: there is no room left to write it ({shutil.disk_usage(folder).free / 1e6:.1f} MB are free on that "
        "disk). What was finished before is kept. Make room, then run the same command again: it goes on from there."
    )


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically, with ``\\n`` line ends on every platform."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_state() -> str:
    """Hash of the package's source: what it makes is out of date once it has changed."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    texts = (f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in sources)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def files_state(paths: Iterable[str | Path]) -> str:
    """Name, size and time of each file that is there: changes when one is replaced, without reading any."""
    found = []
    for path in map(Path, paths):
        if path.is_file():
            stat = path.stat()
            found.append(f"{path.name} {stat.st_size} {stat.st_mtime_ns}")
    return "\n".join(found)


#: Columns that are text whatever stands in them: a patient may be called 007, NA or null.
TEXT_COLUMNS = ("slide_id", "patient_id", "cancer_type", "site", "tile_id", "split", "arm", "step", "threshold_by")


def read_table(path: str | Path):
    """Read an archived CSV table: ids are text (``NA`` is a name, empty is empty), other empty cells are missing.

    Parameters
    ----------
    path
        Of the CSV file.

    Returns
    -------
    pandas.DataFrame
    """
    import pandas as pd

    header = pd.read_csv(path, nrows=0).columns
    text = [name for name in header if name in TEXT_COLUMNS]
    missing = {name: ["", "nan", "NaN", "NA", "None"] for name in header if name not in text}
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=missing)
