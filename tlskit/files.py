"""Where files lie, how they are written (under a temporary name first, then renamed), and who is at work on which."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import SoftFileLease, Timeout

from tlskit.errors import DiskFullError, RunError

__all__ = [
    "LEASE_S",
    "Claims",
    "Holder",
    "TEMPORARY",
    "TEXT_COLUMNS",
    "clean_temporaries",
    "disk_full",
    "is_disk_full",
    "portable",
    "project_root",
    "read_table",
    "resolve",
    "sha256_of_file",
    "temporary_beside",
    "without_machine",
    "worker_name",
    "write_text",
    "writing",
]

#: How the names of files begin that are being written, followed by whose they are. A process that is killed leaves such
#: a file behind.
TEMPORARY = ".tmp-"

#: Seconds without a sign of life after which a claim may be taken over; on the same machine a dead process is seen at
#: once. All who share a folder must agree on it.
LEASE_S = 30.0


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
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: str | Path) -> Path:
    """A name beside `path`, with its suffix, that no other writer takes: it says whose it is, and is random."""
    path = Path(path)
    return path.with_name(f"{TEMPORARY}{worker_name()}-{secrets.token_hex(5)}-{path.stem[:80]}{path.suffix}")


def clean_temporaries(folder: str | Path) -> None:
    """Remove what processes of this machine that are no more were writing when they ended.

    What belongs to another machine is left alone for a day.
    """
    for path in list(Path(folder).rglob(f"{TEMPORARY}*")):
        machine, pid, *_ = [*path.name.removeprefix(TEMPORARY).split("-"), "", ""]
        with contextlib.suppress(OSError):
            if machine == _machine() and pid.isdigit():
                dead = not psutil.pid_exists(int(pid))
            else:
                dead = time.time() - path.stat().st_mtime > 86400
            if dead:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def worker_name() -> str:
    """This process, by a hash of its machine's name and its number: what an archive may say of it."""
    return f"{_machine()}-{os.getpid()}"


def _machine() -> str:
    """This machine in a name of a file: its name is not to be read there."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


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


def portable(path: str | Path, start: str | Path) -> str:
    """A path without the machine in it, with forward slashes, as `resolve` reads it again.

    Relative to `start`; ``~/...`` where that would climb out to a user's home and name the user; only the name where it
    lies on another drive.
    """
    path, start, home = (Path(os.path.abspath(each)) for each in (path, start, Path.home()))
    if path.is_relative_to(home) and not start.is_relative_to(home):
        return f"~/{path.relative_to(home).as_posix()}"
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:  # another drive of Windows
        return Path(path).name


#: An absolute path in a text, up to its last part; not the inside of an address (``https://...``) or of a fraction.
_FOLDERS = re.compile(
    r"(?<![\w/:.\\~<])(?:/(?:[^\s/'\":;,<>|\\]+/)+|[A-Za-z]:(?:\\+|/)(?:[^\\/\n'\":;,<>|]+(?:\\+|/))*)"
)


def without_machine(text: str) -> str:
    """A text of the archive without the folders of this machine: of an absolute path its last part is left."""
    roots = sorted({str(project_root()), str(Path.cwd()), str(Path.home())}, key=len, reverse=True)
    for root in roots:
        if len(root) > 3:
            text = text.replace(f"{root}{os.sep}", "").replace(root, ".")
    return _FOLDERS.sub("", text)


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    with open(path, newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
    text = [name for name in header if name in TEXT_COLUMNS]
    missing = {name: ["", "nan", "NaN", "NA", "None"] for name in header if name not in text}
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=missing)


class Holder(NamedTuple):
    """Who has claimed a piece.

    Attributes
    ----------
    process
        Its number on its machine.
    machine
        The machine's name; empty for this one.
    silent_s
        Seconds since its last sign of life, by this machine's clock.
    alive
        False after `LEASE_S` without a sign of life, and at once for a process of this machine that is no more.
    """

    process: int
    machine: str
    silent_s: float
    alive: bool


class Claims:
    """Pieces of a work that this process has taken on, so that others who share the folder leave them alone.

    A claim is a file, made where there was none, and touched every ten seconds by a thread of its holder. It needs no
    ``flock``, which many network file systems do not keep between nodes. Whose holder has shown no sign of life for
    `LEASE_S` is taken over, after that long of watching it on the watcher's own clock. So two may work on one piece for
    a while, when a holder was only held up: what is done under a claim must be right when it is done twice (the same
    bytes, renamed into place).

    Any number of processes share a work by::

        claims = files.Claims(run_dir / ".claims")
        while left := [piece for piece in pieces if not done(piece)]:
            taken = next((piece for piece in left if claims.take(piece)), None)
            if taken is None:
                time.sleep(1)          # the rest is being done; somebody may die
                continue
            with claims.releasing(taken):
                if not done(taken):    # another may have ended it between the two looks
                    work(taken)

    They are given back when this object goes, too: keep it as long as the work lasts.

    A launcher (Dask, a batch system) therefore gives its workers no pieces of their own: it starts `study.run_sweep`
    of the same preset in each.

    Parameters
    ----------
    folder
        Where the claims lie: one file a piece, gone when it is released.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._leases: dict[str, SoftFileLease] = {}
        self._held: set[str] = set()
        self._guard = threading.Lock()

    def take(self, piece: str) -> bool:
        """Claim a piece, without waiting; False while another holds it, or a thread of this process does.

        Raises
        ------
        RunError
            If no file can be made in the folder.
        """
        with self._guard:
            if piece in self._held:
                return False
            # The watcher remembers since when it has seen no sign of life: the same one has to look each time.
            lease = self._leases.get(piece)
            if lease is None:
                lease = SoftFileLease(self._path(piece), lease_duration=LEASE_S, thread_local=False, mode=0o664)
                self._leases[piece] = lease
            try:
                self._path(piece).parent.mkdir(parents=True, exist_ok=True)
                lease.acquire(timeout=0)
            except (Timeout, FileNotFoundError):  # the folder went with the last claim in it, between the two lines
                return False
            except OSError as error:
                raise self._refused(error) from error
            self._held.add(piece)
            return True

    def holds(self, piece: str) -> bool:
        """Whether the claim is this process's, and nobody took it over meanwhile."""
        lease = self._leases.get(piece)
        return piece in self._held and lease is not None and lease.compromise is None

    def is_taken(self, piece: str) -> bool:
        """Whether anybody holds the piece, or died while holding it."""
        return self._path(piece).exists()

    def holders(self) -> dict[str, Holder]:
        """Who has claimed which piece, the dead included, for looking: nothing is changed."""
        found = {}
        for path in sorted(self.folder.rglob("*.claim")):
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
                silent_s = max(0.0, time.time() - path.stat().st_mtime)
            except (OSError, ValueError):  # it was given back meanwhile
                continue
            said = dict(line.split("=", 1) for line in lines if "=" in line)
            process = int(said["pid"]) if said.get("pid", "").isdigit() else 0
            here = said.get("host", "") == socket.gethostname()
            alive = silent_s < LEASE_S and (psutil.pid_exists(process) or not here)
            piece = path.relative_to(self.folder).with_suffix("").as_posix()
            found[piece] = Holder(process, "" if here else said.get("host", ""), silent_s, alive)
        return found

    def release(self, piece: str) -> None:
        """Give a piece back; nothing happens where it is not held."""
        with self._guard:
            if piece in self._held:
                self._held.discard(piece)
                with contextlib.suppress(OSError):
                    self._leases[piece].release()
                for folder in self._path(piece).relative_to(self.folder).parents:
                    with contextlib.suppress(OSError):  # others have claims in it
                        (self.folder / folder).rmdir()

    @contextlib.contextmanager
    def releasing(self, piece: str) -> Iterator[None]:
        """Give a piece back when the block ends, however it ends."""
        try:
            yield
        finally:
            self.release(piece)

    def share(self, pieces: Iterable[str], is_done, *, poll_s: float = 0.5) -> Iterator[str]:
        """Those of some pieces that fall to this process, each claimed while the loop's body runs.

        Pieces that others have taken are passed over, and looked at again at the end: the loop ends when all are done
        (`is_done(piece)`), whoever did them. A piece is handed out once; one that is not done after its turn has failed
        here, and is not waited for.
        """
        left, failed = list(pieces), set()
        while left:
            waiting = []
            for piece in left:
                if is_done(piece):
                    continue
                if not self.take(piece):
                    waiting.append(piece)
                    continue
                with self.releasing(piece):
                    if not is_done(piece):
                        yield piece
                        failed.add(piece)
            left = [piece for piece in waiting if piece not in failed]
            if left:
                time.sleep(poll_s)

    def _path(self, piece: str) -> Path:
        return self.folder / f"{piece}.claim"

    def _refused(self, error: OSError) -> RunError:
        if is_disk_full(error):
            return disk_full(self.folder)
        return RunError(
            f"Nothing can be written into {self.folder.parent.name} ({error.strerror or error}): the folder may be "
            "read-only, or belong to somebody else. Choose another `outputs_dir`, or have its rights changed."
        )
