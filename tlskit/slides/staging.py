"""Slides on slow storage, copied to a local folder ahead of their use and removed after it.

Asked for by ``tlskit sweep --stage FOLDER`` (or the environment variable ``TLSKIT_STAGE``), since it is a matter of the
machine and not of the study: no result depends on it. Each process has a folder of its own there; copies are dropped,
the longest unused first, when room is needed, and all of them when the process ends. What a process that was killed
left is removed by the next one on that machine.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tlskit.errors import ParameterError, SlideError
from tlskit.files import is_disk_full

__all__ = ["VARIABLE", "Stage", "announce", "current", "reading", "using"]

log = logging.getLogger(__name__)

#: Names the local folder; empty or unset: slides are read where they lie. ``$TMPDIR`` and the like in it are expanded
#: on the machine that reads.
VARIABLE = "TLSKIT_STAGE"
#: Formats of which the named file is only a part: they are read where they lie, but for MIRAX, whose folder is known.
_IN_PARTS = (".vms", ".vmu", ".dcm", ".ini")
#: Of the disk's free room so much is left alone.
_LEFT_FREE = 0.1
_PREFIX = "tlskit-stage-"


class Stage:
    """Local copies of slides. There is one a process: `current`.

    Parameters
    ----------
    folder
        A local, fast folder. Below it a folder of this process is made.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder) / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self.folder.mkdir(parents=True, mode=0o700)
        _sweep_out(self.folder.parent)
        self._copies: dict[Path, Path] = {}  # by the slide's path, the longest unused first
        self._users: dict[Path, int] = {}
        self._making: dict[Path, threading.Event] = {}
        self._order: list[Path] = []
        self._skip: Callable[[Path], bool] = lambda path: False
        self._guard = threading.RLock()
        atexit.register(self.close)

    def announce(self, paths: Sequence[str | Path], skip: Callable[[Path], bool] | None = None) -> None:
        """Say in which order slides will be opened, so that the next is copied while one is in use.

        `skip` says of a slide that it will not be opened here after all: another process has taken it.
        """
        with self._guard:
            self._order, self._skip = [Path(path) for path in paths], skip or (lambda path: False)

    def local(self, path: str | Path) -> Path:
        """Path of the slide's copy, made where there is none; the slide's own path where it cannot be copied."""
        path = Path(path)
        copy = self._copy(path)
        threading.Thread(target=self._fetch_next, args=(path,), daemon=True).start()
        return copy

    def hold(self, path: str | Path, user: object) -> None:
        """Keep the slide's copy as long as `user` lives."""
        path = Path(path)
        with self._guard:
            self._users[path] = self._users.get(path, 0) + 1
        weakref.finalize(user, self._let_go, path)

    @contextlib.contextmanager
    def holding(self, path: str | Path) -> Iterator[None]:
        """Keep the slide's copy while the block lasts."""
        path = Path(path)
        with self._guard:
            self._users[path] = self._users.get(path, 0) + 1
        try:
            yield
        finally:
            self._let_go(path)

    def close(self) -> None:
        """Remove all copies."""
        atexit.unregister(self.close)
        shutil.rmtree(self.folder, ignore_errors=True)
        with self._guard:
            self._copies.clear()

    def _let_go(self, path: Path) -> None:
        with self._guard:
            self._users[path] -= 1

    def _fetch_next(self, after: Path) -> None:
        with self._guard:
            left = self._order[self._order.index(after) + 1 :] if after in self._order else []
            following = next((path for path in left if not self._skip(path)), None)
        if following is not None:
            self._copy(following)

    def _copy(self, path: Path) -> Path:
        with self._guard:
            if path in self._copies:
                self._copies[path] = self._copies.pop(path)  # now the last used
                return self._copies[path]
            if not path.is_file() or path.suffix.lower() in _IN_PARTS:
                return path
            done = self._making.get(path)
            mine = done is None
            if mine:
                done = self._making[path] = threading.Event()
        if not mine:
            done.wait()
            return self._copies.get(path, path)
        try:
            copy = self._made(path)
            if copy != path:
                with self._guard:
                    self._copies[path] = copy
            return copy
        finally:
            with self._guard:
                del self._making[path]
            done.set()

    def _made(self, path: Path) -> Path:
        parts = [path, *([path.with_suffix("")] if path.suffix.lower() == ".mrxs" else [])]
        if not self._make_room(sum(map(_size, parts))):
            log.info("%s is read where it lies: there is no room for a copy in %s", path.name, self.folder.parent)
            return path
        place = self.folder / secrets.token_hex(4)
        try:
            place.mkdir()
            for part in parts:
                copy = shutil.copytree if part.is_dir() else shutil.copyfile
                copy(part, place / part.name)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            if is_disk_full(error):
                return path
            raise SlideError(f"{path}: it could not be copied to {self.folder.parent} ({error}).") from error
        return place / path.name

    def _make_room(self, n_bytes: int) -> bool:
        """Drop copies that are not in use until there is room."""
        while True:
            usage = shutil.disk_usage(self.folder)
            if usage.free - n_bytes > _LEFT_FREE * usage.total:
                return True
            with self._guard:
                idle = next((path for path in self._copies if not self._users.get(path)), None)
                if idle is None:
                    return False
                shutil.rmtree(self._copies.pop(idle).parent, ignore_errors=True)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _sweep_out(folder: Path) -> None:
    """Remove what processes of this machine left that are no more."""
    import psutil

    for left in folder.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


_current: tuple[str, int, Stage] | None = None
_guard = threading.Lock()


def current() -> Stage | None:
    """This process's stage; None where none is asked for."""
    global _current
    asked = os.path.expandvars(os.environ.get(VARIABLE, "")).strip()
    with _guard:
        if _current is not None and _current[:2] != (asked, os.getpid()):
            if _current[1] == os.getpid():  # after a fork it is the parent's
                _current[2].close()
            _current = None
        if _current is None and asked:
            try:
                _current = (asked, os.getpid(), Stage(Path(asked).expanduser()))
            except OSError as error:
                raise ParameterError(f"`--stage`: nothing can be written into {asked} ({error.strerror}).") from error
        return _current[2] if _current else None


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[str | Path]:
    """Where to read a slide while the block lasts: its copy where a stage is asked for, else the path as it is."""
    stage = current()
    if stage is None:
        yield path
        return
    with stage.holding(path):
        yield stage.local(path)


def using(path: str | Path, user: object) -> None:
    """Keep the copy of the slide at `path` as long as `user` lives."""
    stage = current()
    if stage is not None:
        stage.hold(path, user)


def announce(paths: Sequence[str | Path], skip: Callable[[Path], bool] | None = None) -> None:
    """Say in which order slides will be opened; see `Stage.announce`."""
    stage = current()
    if stage is not None:
        with contextlib.suppress(OSError):
            stage.announce(paths, skip)
