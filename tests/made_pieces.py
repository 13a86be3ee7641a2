"""A work of pieces that workers of an engine share by claims, for tests of the launcher: each is a file with a name."""

import contextlib
import os
import signal
import time
from pathlib import Path

from tlskit.errors import DiskFullError
from tlskit.files import Claims


def work(folder: str, pieces: int, report, seconds: float = 0.3) -> None:
    """Make the files that are missing."""
    report(f"worker {os.getpid()} with {os.environ['OMP_NUM_THREADS']} threads")
    claims = Claims(Path(folder) / ".claims")
    for piece in claims.share([f"p{n}" for n in range(pieces)], lambda piece: (Path(folder) / piece).exists()):
        time.sleep(seconds)
        (Path(folder) / piece).write_text(str(os.getpid()))


def work_on_a_full_disk(folder: str, pieces: int, report) -> None:
    """The first to come finds its disk full."""
    with contextlib.suppress(FileExistsError):
        (Path(folder) / "first").open("x").close()
        time.sleep(0.5)
        raise DiskFullError("there is no room left")
    work(folder, pieces, report)


def work_and_die(folder: str, pieces: int, report) -> None:
    """The first worker is killed at its second piece."""
    first = Path(folder) / "first"
    try:
        first.open("x").close()
    except FileExistsError:
        work(folder, pieces, report)
        return
    claims = Claims(Path(folder) / ".claims")
    claims.take("p1")
    os.kill(os.getpid(), signal.SIGKILL)
