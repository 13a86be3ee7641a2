"""Inner loops compiled to machine code by numba, when they are first called."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

__all__ = ["compiled"]

log = logging.getLogger(__name__)


def compiled(signature: str) -> Callable[[Callable], Callable]:
    """A decorator: the function as machine code for the types that numba's `signature` names.

    It lets other threads run meanwhile. The code is kept beside the module, or where NUMBA_CACHE_DIR says, for this
    kind of processor; where it cannot be, each process compiles it (a second or so). numba takes half a second to
    import, so nothing happens before the first call.
    """

    def decorate(function: Callable) -> Callable:
        @functools.cache
        def machine_code() -> Callable:
            import numba

            try:
                return numba.njit(signature, nogil=True, cache=True)(function)
            except Exception as error:  # read-only folders, no room, a damaged file
                log.info("%s is compiled in each process, for its code could not be kept: %s", function.__name__, error)
                return numba.njit(signature, nogil=True)(function)

        @functools.wraps(function)
        def call(*arguments):
            return machine_code()(*arguments)

        return call

    return decorate
