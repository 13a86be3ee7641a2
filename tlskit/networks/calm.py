"""How many threads a network trains on beside other programs.

torch's threads wait for one another at every operation, and spin while they wait. Where another program holds one of
two cores, each of a step's hundreds of barriers waits until the system gives that core back: the step takes six times
as long, on one thread twice. So the number of threads follows what the others leave free. It costs something: sums of
another number of threads are rounded otherwise, so that a training is repeated to the last bit only on a number that
stays. Whoever needs that sets ``OMP_NUM_THREADS``, and nothing follows.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator

__all__ = ["following", "threads_beside"]

log = logging.getLogger(__name__)

#: Seconds over which the others are measured: shorter ones would follow every page that a browser opens.
LOOK_S = 2.0

#: Seconds of the first look, before anything is computed: one step on a busy machine may take a minute.
FIRST_LOOK_S = 0.5


@contextlib.contextmanager
def following(device_type: str = "cpu") -> Iterator[Callable[[], int]]:
    """Within, torch computes on the cores that other programs leave free; outside on as many threads as before.

    Parameters
    ----------
    device_type
        Of what is computed on: beside a GPU nothing follows.

    Yields
    ------
    callable
        To be called between operations, at any rate: it looks once in `LOOK_S`, and returns the number of threads.
    """
    import torch

    most = torch.get_num_threads()
    if device_type != "cpu" or most == 1 or "OMP_NUM_THREADS" in os.environ:
        yield torch.get_num_threads
        return
    now, seen_at, seen, look_s = most, time.monotonic(), _others_s(), 0.0
    time.sleep(FIRST_LOOK_S)

    def look() -> int:
        nonlocal now, seen_at, seen, look_s
        passed = time.monotonic() - seen_at
        if passed >= look_s:
            look_s = LOOK_S
            others = _others_s()
            wanted = threads_beside((others - seen) / passed, most, now)
            seen_at, seen = seen_at + passed, others
            if wanted != now:
                log.info("Training goes on with %d of %d threads: other programs take the rest.", wanted, most)
                torch.set_num_threads(wanted)
                now = wanted
        return now

    try:
        yield look
    finally:
        torch.set_num_threads(most)


def threads_beside(taken: float, most: int, now: int) -> int:
    """Threads to compute on where others take a number of cores.

    Parameters
    ----------
    taken
        Cores that other programs kept busy, such as 0.9.
    most
        Threads where nobody else computes.
    now
        Threads of the moment. A core is given up where more than half of it is taken, and taken up again where less
        than a quarter is, so that the number does not swing.

    Returns
    -------
    int
        1 to `most`.
    """
    fewest, highest = most - math.floor(taken + 0.75), most - math.floor(taken + 0.5)
    return max(1, min(max(now, fewest), highest))


def _others_s() -> float:
    """Seconds of processor that other programs have had so far on the cores that this one may use.

    What runs with a lower priority than this process gives way to it, and is not counted.
    """
    import psutil

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    each = psutil.cpu_times(percpu=True)
    kinds = ("user", "system", "nice") if _is_nice() else ("user", "system")
    busy = sum(getattr(each[core], kind, 0.0) for core in allowed if core < len(each) for kind in kinds)
    return busy - time.process_time()


def _is_nice() -> bool:
    return hasattr(os, "nice") and os.nice(0) > 0
