"""Many workers on one run, or on the slides of one `predict`: started by an engine, told apart by claims.

Each worker is given the same call, `run_sweep` of the preset (or `predict` of all slides), as often as there is work:
what it does is decided by what it can claim in the archive. So a worker may die at any moment, its task may be given to
another, and two launches of the same command share the work. There is no adaptive scaling: the workers that were asked
for are kept until nothing is left to do.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tlskit import __version__
from tlskit.errors import RunError, TlskitError
from tlskit.files import project_root, resolve
from tlskit.slides import staging
from tlskit.sources import code_state
from tlskit.study import engine

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["LOST_S", "Outcome", "share"]

#: So long may all workers be away, once there have been some, before the launch is given up: a batch system that ended
#: them does not start them again.
LOST_S = 60.0
#: So often it is said that no worker has come yet.
WAITING_S = 600.0
#: So long may a job have begun before it is said that its worker does not reach the launcher; after so long, when all
#: jobs have, the launch is given up: a worker ends itself after a minute without one.
UNREACHED_S, GIVEN_UP_S = 120.0, 300.0
#: Environment variables that workers get from whoever launched them: where slides are staged.
_HANDED_ON = (staging.VARIABLE,)
_GPUS = "CUDA_VISIBLE_DEVICES"
#: Topic of the lines that workers send to whoever launched them.
_TOPIC = "tlskit"

#: A worker runs one task at a time, however many threads it was started with: a notebook takes all its cores.
_turn = threading.Lock()


class Outcome(NamedTuple):
    """How a launch ended: what each task that failed said, and whether the workers went before the work was done."""

    failures: list[str]
    lost: bool


def share(
    call: Callable[..., None],
    arguments: dict,
    *,
    on: str,
    program: str = "",
    shared_dir: str | Path = "outputs",
    report: Callable[[str], None] = print,
    lost_s: float = LOST_S,
) -> Outcome:
    """Give the same call to every worker of an engine, those that come late included, until nothing is left to do.

    Parameters
    ----------
    call
        A function of a module that the workers can import: ``call(**arguments, report=...)``. It takes what it does by
        claims, and ends when nothing is left, whoever did it.
    arguments
        Plain values.
    on
        As of `engine.parse`.
    program
        Text of a program: a worker where what it imports from tlskit is other code is refused. By default the call's.
    shared_dir
        A folder that all workers see.
    report
        Called with each line of a worker, once where several say the same, and with what becomes of the workers.
    lost_s
        See `LOST_S`.

    Raises
    ------
    ParameterError, RunError
        If `on` cannot be understood, or its engine cannot be started.
    """
    wanted = engine.parse(on)
    program = program or f"from {call.__module__} import {call.__name__}\n{call.__name__}()"
    jobs = engine.Jobs()
    with engine.started(wanted, resolve(shared_dir), jobs) as client:
        said: set[str] = set()

        def pass_on(event) -> None:
            if event[1] not in said:  # each worker says of every job that is blocked that it is
                said.add(event[1])
                report(event[1])

        client.subscribe_topic(_TOPIC, pass_on)
        handed = {
            "call": call, "arguments": arguments, "root": str(project_root()), "program": program,
            "code": _code(program), "threads": wanted.threads, "is_local": wanted.kind == "local",
            "environment": {name: os.environ[name] for name in _HANDED_ON if name in os.environ},
        }  # fmt: skip
        return _watch(client, handed, wanted, report, lost_s, jobs)


def _watch(
    client, handed: dict, wanted: engine.Engine, report: Callable[[str], None], lost_s: float, jobs: engine.Jobs
) -> Outcome:
    """Give each worker its task as it comes; wait until all have ended, or all workers are gone."""
    tasks: dict[str, Future] = {}
    failures: list[str] = []
    refused, unreached = jobs.refused, 0
    handed_out, ended, last_seen, last_said = 0, False, None, time.monotonic() - WAITING_S
    while True:
        now, answer = time.monotonic(), _workers(client)
        here = set(tasks) if answer is None else answer  # a scheduler that is late with its answer has lost nobody
        new = [address for address in here if address not in tasks]
        for address in new if not ended else ():
            tasks[address] = client.submit(
                _one, **handed, pure=False, workers=[address], allow_other_workers=False,
                key=f"tlskit-{secrets.token_hex(8)}",
            )  # fmt: skip
        if new and not ended:
            handed_out += len(new)
            report(f"Workers: {len(here)}{f' of {wanted.workers}' if wanted.workers else ''}.")
        if wanted.workers and len(refused) >= wanted.workers and not tasks:
            raise RunError(f"{wanted.kind} refused the jobs: {refused[0]}")
        for reason in [reason for reason in dict.fromkeys(refused) if reason not in failures]:
            failures.append(reason)
            report(f"{wanted.kind} refused {refused.count(reason)} of {wanted.workers} jobs: {reason}")
        for address in set(tasks) - here:
            if not tasks.pop(address).done():
                report("A worker has gone. What it was doing is taken over by another.")
        for future in [task for task in tasks.values() if task.done()]:
            if future.status == "finished":
                ended = True  # a call ends when nothing is left
            elif (reason := _reason(future)) not in failures:
                failures.append(reason)
                report(f"A worker has stopped: {reason}")
        if all(task.done() for task in tasks.values()) and (
            ended or tasks and handed_out >= wanted.workers - len(refused)
        ):
            return Outcome(failures, lost=False)
        if answer:
            last_seen = now
        elif client.status not in ("running", "connecting") or (last_seen is not None and now - last_seen > lost_s):
            return Outcome(failures, lost=True)
        elif last_seen is None and (late := [age for age in jobs.begun_s() if age > UNREACHED_S]):
            reason = _unreached(wanted, len(late))
            if len(late) >= wanted.workers - len(refused) and max(late) > GIVEN_UP_S:
                raise RunError(reason)
            if len(late) > unreached:
                report(reason)
            unreached = len(late)
        elif last_seen is None and now - last_said > WAITING_S:
            report(f"No worker is here yet: waiting for {wanted.address or wanted.kind}.")
            last_said = now
        time.sleep(0.2)


def _unreached(wanted: engine.Engine, jobs: int) -> str:
    network = (wanted.options or {}).get("interface")
    said = f"`interface: {network}` in the YAML" if network else "`interface` in the YAML, which names none,"
    return (
        f"{jobs} of {wanted.workers} jobs have begun, but no worker has reached the launcher. It waits for them on the "
        f"network of {said}: is that one by which the jobs' machines reach this one? What the jobs printed, in "
        f"{(wanted.options or {}).get('log_directory', engine.LOG_DIRECTORY)}, says why they ended."
    )


def _workers(client) -> set[str] | None:
    """Addresses of the workers that are there; None where the scheduler does not answer."""
    try:
        return set(client.scheduler_info()["workers"])
    except (OSError, TimeoutError, RuntimeError):
        return None


def _reason(future) -> str:
    error = future.exception()
    return " ".join((str(error) if isinstance(error, TlskitError) else f"{type(error).__name__}: {error}").split())


def _code(program: str) -> dict:
    """What decides a result: a worker with other code would file what it makes under keys that nobody looks for."""
    return {"tlskit": __version__} | code_state(program)


def gpu_of(worker: int, visible: str | None, count: int) -> str | None:
    """What a worker of this machine is to see of its GPUs: one, in turn, so that each has its own while they last.

    Parameters
    ----------
    worker
        Its number, from 0.
    visible
        ``CUDA_VISIBLE_DEVICES`` of whoever launched it, which may leave some GPUs to others; None where it is not set.
    count
        GPUs of the machine.

    Returns
    -------
    str or None
        ``CUDA_VISIBLE_DEVICES`` of the worker.
    """
    names = [str(number) for number in range(count)] if visible is None else visible.split(",")
    return names[worker % len(names)] if len(names) > 1 else visible


def _one(
    call: Callable, arguments: dict, root: str, program: str, code: dict, threads: int, is_local: bool,
    environment: dict,
) -> None:  # fmt: skip
    """The task of a worker, run there."""
    from distributed import get_worker

    if _code(program) != code:
        raise RunError("A worker has another version of tlskit than the launcher: install the same on both.")
    if not Path(root).is_dir():
        raise RunError("A worker does not see the study's folder: it has to lie on a disk that all machines share.")
    worker = get_worker()
    with _turn:
        os.chdir(root)
        os.environ.update(environment)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # Dask sets them to 1
            os.environ[name] = str(threads or len(os.sched_getaffinity(0)))
        there = len(list(Path("/dev").glob("nvidia[0-9]*"))) if is_local else 0
        seen = gpu_of(worker.name, os.environ.get(_GPUS), there) if there else None
        if seen is not None:  # before CUDA is begun in this process, or in the kernels that it starts
            os.environ[_GPUS] = seen
        call(**arguments, report=lambda line: worker.log_event(_TOPIC, line))
