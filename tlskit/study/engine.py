"""What ``--on`` names: processes of this machine, a Dask scheduler that runs already, or jobs of a batch system.

An engine only starts workers. Which of them does what is decided by claims in the archive (`tlskit.files.Claims`).
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tlskit.errors import ParameterError, RunError

if TYPE_CHECKING:
    from distributed import Client, Security

__all__ = ["SCHEDULERS", "Engine", "Jobs", "job_script", "parse", "started"]

#: Batch systems by the name that the YAML gives them, and dask-jobqueue's class for each.
SCHEDULERS = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster", "oar": "OARCluster", "moab": "MoabCluster",
}  # fmt: skip
#: Keys of the YAML that are ours; all others are keyword arguments of dask-jobqueue's class.
_OWN = ("scheduler", "jobs", "encrypted")
#: Keyword arguments of dask-jobqueue that the launcher decides.
_DECIDED = ("n_workers", "job_cls", "loop", "asynchronous", "scheduler_cls", "security", "protocol", "config_name")
#: So long a scheduler that runs already may take to answer, in seconds.
ANSWER_S = 20
#: Where jobs print, where the YAML does not say.
LOG_DIRECTORY = "outputs/cluster-logs"
_INSTALL = "`--on` needs Dask: pip install 'tlskit[cluster]'."


@dataclass(frozen=True)
class Engine:
    """Where workers run.

    Attributes
    ----------
    kind
        ``local``, ``address`` or a key of `SCHEDULERS`.
    workers
        How many are started; 0 where they run already.
    threads
        CPU threads that each may use; 0 where the worker's machine decides.
    address
        Of a scheduler that runs already.
    options
        Keyword arguments of dask-jobqueue's class.
    encrypted
        Whether workers and scheduler talk over TLS, each knowing the other by a key made for this launch.
    """

    kind: str
    workers: int = 0
    threads: int = 0
    address: str = ""
    options: dict | None = None
    encrypted: bool = True


class Jobs:
    """What is known of the jobs of a batch system beside what their workers say.

    Attributes
    ----------
    refused
        A line for each job that the batch system did not take.
    """

    def __init__(self):
        self.refused: list[str] = []
        self._folder: Path | None = None
        self._seen: dict[str, float] = {}

    def mark_in(self, folder: Path) -> str:
        """The line of a shell by which a job says that it has begun: a file in a folder that all machines see."""
        self._folder = folder
        return f"mktemp {shlex.quote(str(folder))}/begun-XXXXXXXX > /dev/null"

    def begun_s(self) -> list[float]:
        """Seconds since each job that has begun was first seen to have, by this machine's clock."""
        now = time.monotonic()
        for path in self._folder.glob("begun-*") if self._folder else ():
            self._seen.setdefault(path.name, now)
        return [now - then for then in self._seen.values()]


def parse(on: str) -> Engine:
    """Understand what follows ``--on``, before anything is started.

    Parameters
    ----------
    on
        ``local:N``, ``tcp://host:port`` (or ``tls://``), or the path of a YAML file.

    Raises
    ------
    ParameterError
        With what was expected; for a YAML, with the nearest key.
    """
    if match := re.fullmatch(r"local:(\d+)", on):
        workers = int(match[1])
        if workers < 1:
            raise ParameterError("`--on local:N` needs at least one worker, such as local:2.")
        threads = os.environ.get("OMP_NUM_THREADS", "")
        return Engine("local", workers, threads=int(threads) if threads.isdigit() else max(1, _cores() // workers))
    if re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", on):
        return Engine("address", address=on)
    if Path(on).suffix in (".yaml", ".yml"):
        return _read(Path(on))
    raise ParameterError(
        "`--on` should be local:N (processes of this machine), tcp://host:port (a Dask scheduler that runs), or a YAML "
        f"file for a batch system, not {on!r}."
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: Path) -> Engine:
    if not path.is_file():
        raise ParameterError(f"`--on`: there is no file {path}.")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict) or given.get("scheduler") not in SCHEDULERS:
        raise ParameterError(f"{path.name} should say `scheduler:` {', '.join(SCHEDULERS)}.")
    known = _keywords(given["scheduler"])
    faults = []
    for name in given:
        if name in _DECIDED:
            faults.append(f"`{name}` is decided by tlskit; leave it out")
        elif name not in (*_OWN, *known):
            near = difflib.get_close_matches(str(name), [*_OWN, *known], n=1, cutoff=0.5)
            faults.append(f"there is no `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
    for name in ("jobs", "cores"):
        value = given.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            faults.append(f"`{name}` should be a whole number of at least 1, not {value!r}")
    for name in ("memory", "walltime"):
        if name in known and not isinstance(given.get(name), str):
            like = '"08:00:00", in quotes' if name == "walltime" else "32GB"
            faults.append(f"`{name}` should be a text such as {like}, not {given.get(name)!r}")
    if given.get("processes", 1) != 1:
        faults.append("`processes` should be 1: a worker runs one notebook at a time, with all its cores")
    if faults:
        raise ParameterError(f"{path.name} was refused:\n" + "\n".join(f"  - {fault}" for fault in faults))
    options = {name: value for name, value in given.items() if name not in _OWN}
    return Engine(
        given["scheduler"], given["jobs"], given["cores"], options=options, encrypted=bool(given.get("encrypted", True))
    )


def _keywords(scheduler: str) -> list[str]:
    """Names of the keyword arguments that dask-jobqueue's class and its jobs take."""
    cls = _class(scheduler)
    names = {}
    for one in (*cls.__mro__, *cls.job_cls.__mro__):
        if one.__module__.startswith("dask_jobqueue"):
            names |= dict.fromkeys(inspect.signature(one.__init__).parameters)
    return sorted(set(names) - {"self", "name", "args", "kwargs", "job_kwargs", "base_class_kwargs", *_DECIDED})


def _class(scheduler: str):
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ImportError as error:
        raise RunError(_INSTALL) from error
    finally:
        # dask-jobqueue makes Ctrl-C end the process without a word, as soon as it is imported.
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGINT, before)
    return getattr(dask_jobqueue, SCHEDULERS[scheduler])


@contextlib.contextmanager
def started(engine: Engine, shared_dir: Path, jobs: Jobs | None = None) -> Iterator[Client]:
    """A Dask client of the engine; its workers, started here, end with the block.

    Parameters
    ----------
    engine
        As `parse` gives it.
    shared_dir
        A folder that the workers' machines see, too: keys and the logs of jobs are put there.
    jobs
        Gets to know which jobs the batch system refuses, and which have begun.

    Raises
    ------
    RunError
        If Dask is not installed, the scheduler is not reached, or a job is refused.
    """
    # What Dask says of connections is nobody's business; what matters is reported. Workers started here inherit it.
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    try:
        import dask
        import distributed
    except ImportError as error:
        raise RunError(_INSTALL) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    settings = {
        "distributed.scheduler.allowed-failures": 20,  # a worker that is killed is no fault of its task
        "distributed.comm.timeouts.connect": "60s",
        "distributed.comm.timeouts.tcp": "120s",
        "distributed.worker.memory.target": False,  # the kernels are processes of their own
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.admin.log-format": "%(message)s",
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        if engine.kind == "address":
            try:
                client = distributed.Client(engine.address, timeout=ANSWER_S, set_as_default=False)
            except (OSError, TimeoutError) as error:
                raise RunError(f"There is no Dask scheduler at {engine.address} ({error}).") from error
            yield stack.enter_context(client)
            return
        shared_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tlskit-launch-", dir=shared_dir))  # readable by its owner alone
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        security = _keys(folder) if engine.encrypted else None
        if engine.kind == "local":
            cluster = _local(engine, security, stack.enter_context(_scratch()))
        else:
            cluster = _jobs(engine, security, folder, jobs or Jobs())
        stack.enter_context(cluster)
        yield stack.enter_context(distributed.Client(cluster, set_as_default=False))


def _local(engine: Engine, security: Security | None, folder: str):
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=engine.workers, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=None,
            host="127.0.0.1", local_directory=folder, silence_logs=50, security=security,
            protocol="tls://" if security else "tcp://",
        )  # fmt: skip
    except RuntimeError as error:  # it was killed while it was started
        raise RunError("A worker of this machine could not be started. Run the same command again.") from error


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="tlskit-dask-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a worker that is just ending may still write into it


def _jobs(engine: Engine, security: Security | None, folder: Path, jobs: Jobs):
    options, cls = _options(engine, security), _class(engine.kind)
    options["job_script_prologue"] = [jobs.mark_in(folder), *options.get("job_script_prologue", [])]
    try:
        cluster = cls(**options, n_workers=0, job_cls=_telling(cls.job_cls, jobs.refused))
        cluster.scale(jobs=engine.workers)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise RunError(f"{engine.kind}: the jobs cannot be made: {' '.join(str(error).split())}") from error
    return cluster


def _telling(job_cls: type, refused: list[str]) -> type:
    """dask-jobqueue's job, which says so where the batch system refuses it: that is lost in a log otherwise."""
    from distributed.deploy.spec import ProcessInterface

    class Job(job_cls):
        async def start(self):
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                said = str(error).split("stderr:")[-1].strip() or str(error)
                refused.append(" ".join(said.split()))
                await ProcessInterface.start(self)  # it is not asked for again

    return Job


def _options(engine: Engine, security: Security | None) -> dict:
    options = {"log_directory": LOG_DIRECTORY, "job_name": "tlskit"} | engine.options
    # One task at a time; the cores that were asked for are its kernel's.
    extra = [*options.get("worker_extra_args", []), "--nthreads", "1", "--no-dashboard"]
    scheduler_options = {"dashboard_address": None} | options.get("scheduler_options", {})
    return options | {
        "processes": 1, "worker_extra_args": extra, "scheduler_options": scheduler_options, "security": security,
        "protocol": "tls://" if security else "tcp://",
    }  # fmt: skip


def job_script(engine: Engine) -> str:
    """The script that would be handed to the batch system, for reading."""
    options = _options(engine, None)
    of_job = {name: value for name, value in options.items() if name not in ("scheduler_options", "security")}
    return _class(engine.kind).job_cls(scheduler="<scheduler>", name="<name>", **of_job).job_script()


def _keys(folder: Path) -> Security:
    """Keys for one launch: without them everybody who reaches the scheduler's port could run code as this user."""
    if shutil.which("openssl") is None:
        raise RunError(
            "`openssl` is not on the PATH; with it scheduler and workers get keys, so that nobody else can use them. "
            "Install it; or, where nobody else reaches this network, say `encrypted: false` in the YAML."
        )
    from distributed import Security

    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    try:
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "60", "-subj", "/CN=tlskit",
                "-keyout", key, "-out", certificate,
            ],
            check=True, capture_output=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise RunError(f"openssl could not make a key: {error.stderr.decode(errors='replace').strip()}") from error
    return Security(
        tls_ca_file=certificate, require_encryption=True,
        tls_client_cert=certificate, tls_client_key=key,
        tls_scheduler_cert=certificate, tls_scheduler_key=key,
        tls_worker_cert=certificate, tls_worker_key=key,
    )  # fmt: skip
