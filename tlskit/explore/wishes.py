"""What a browser waits for, made one piece after the other in a thread: only what it wishes now, never what it wished.

The tiles of a slide and the pictures of a folder are both asked for as lists, and a list replaces the one before it:
what has left the screen is not read any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

__all__ = ["NewestWishes"]


class NewestWishes:
    """A worker on the newest list of wishes; its thread starts with the first.

    Parameters
    ----------
    serve
        Called with one wish after the other, in the thread.
    name
        Of the thread.
    """

    def __init__(self, serve: Callable[[object], None], name: str):
        self._serve, self._name = serve, name
        self._wanted: list = []
        self._waking = threading.Condition()
        self._worker: threading.Thread | None = None

    def ask(self, wishes: Iterable) -> None:
        """Wish for these, in this order, instead of what is still open of the last list."""
        with self._waking:
            self._wanted = list(wishes)
            if self._worker is None and self._wanted:
                self._worker = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._worker.start()
            self._waking.notify_all()

    def forget(self) -> None:
        """Nothing is wished for any more."""
        self.ask(())

    def close(self) -> None:
        """End the thread, after the piece that it is at."""
        with self._waking:
            self._wanted, worker, self._worker = [], self._worker, None
            self._waking.notify_all()
        if worker is not None and worker is not threading.current_thread():
            worker.join(timeout=10)

    def _work(self) -> None:
        while True:
            with self._waking:
                while not self._wanted:
                    if self._worker is not threading.current_thread():
                        return
                    self._waking.wait()
                wish = self._wanted.pop(0)
            self._serve(wish)
