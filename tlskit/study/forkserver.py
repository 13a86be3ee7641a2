"""Kernels forked from a process that has imported the libraries: each starts with seconds of imports behind it.

Every notebook has a kernel, a process, of its own. What all of them import (torch, matplotlib and what these bring)
costs each of them seconds of a processor, so on Linux one process beside the sweep imports it and is forked for every
kernel. It imports nothing of tlskit, whose code a kernel reads anew, as the keys of the steps do: it runs this file,
not this module. It imports what a kernel before has imported, when the next one is asked for: nobody pays for what is
not used, and nothing is imported beside a notebook, whose times and threads would tell of it.

Its libraries start no thread that a fork would miss: only the pools of OpenBLAS and the allocator of Arrow have begun,
which stop and begin again by themselves (`tests/study/test_forkserver.py` counts). What a library decides at its import
is decided as in a kernel: by the same environment and the same files, or another process is begun.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

__all__ = ["Forked", "fork_kernel"]

log = logging.getLogger(__name__)

#: What may be imported beforehand, in this order. Not here: what starts threads or opens devices when it is imported
#: (openvino, glib under openslide), and what asks IPython for its shell then (matplotlib_inline). So does ipywidgets,
#: which seaborn brings: what it leaves out here is the way for widgets that a browser creates, and a sweep has none.
LIBRARIES = (
    "pandas", "matplotlib.pyplot", "scipy.stats", "scipy.optimize", "shapely", "cv2", "seaborn", "rasterio.features",
    "torch", "torchvision.transforms.v2", "segmentation_models_pytorch",
)  # fmt: skip

#: How a kernel is started without this.
_COMMAND = [sys.executable, "-m", "ipykernel_launcher"]

#: Seconds for an answer: the process may be importing, on a busy machine with a slow disk.
_ANSWER_S = 600
#: Length of an answer, a number: of a process (0 where files have changed), and later its exit code.
_ANSWER_BYTES = 12

_lock = threading.Lock()
_server: _Server | None = None
_given_up = False


class Forked:
    """A kernel that the server has forked, as `subprocess.Popen` shows its own children.

    Attributes
    ----------
    pid : int
        Its process, which leads a session and a process group.
    returncode : int or None
        As of `subprocess.Popen`; None while it runs.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, answers: socket.socket, server: _Server):
        self.pid, self.returncode = pid, None
        self._answers, self._server = answers, server  # the server is not ended while it has kernels

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                said = self._answers.recv(_ANSWER_BYTES)
                if not said:  # the server was killed; its kernels end themselves within a second, and this one now
                    with contextlib.suppress(OSError):
                        os.killpg(self.pid, signal.SIGKILL)
                self.returncode = int(said) if said else -signal.SIGKILL
                self._answers.close()
                self._server = None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(_COMMAND, timeout)
            time.sleep(0.05)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def fork_kernel(command: list[str], *, env: dict[str, str], cwd: str, passing: tuple[str, ...] = ()) -> Forked | None:
    """Start a kernel by a fork.

    Parameters
    ----------
    command, env, cwd
        Of the process that `subprocess.Popen` would start.
    passing
        Environment variables that differ from kernel to kernel, and that no library reads when it is imported.

    Returns
    -------
    Forked or None
        None where the kernel has to be started as a process of its own: off Linux, by another command, or where the
        server failed, which is logged.
    """
    global _server, _given_up
    if sys.platform != "linux" or command[:3] != _COMMAND or _given_up:
        return None
    request = json.dumps({"argv": command[2:], "env": env, "cwd": cwd}).encode() + b"\n"
    with _lock:
        seen = _seen(env, cwd, passing)
        try:
            for _ in range(2):
                if _server is None or _server.seen != seen or not _server.lives():
                    _server = _Server(seen, env, cwd)
                if forked := _server.fork(request):
                    return forked
                _server = None  # files of its libraries have changed
            raise OSError("the files of libraries are changing")
        except (OSError, ValueError) as error:
            _server, _given_up = None, True
            log.warning("Kernels are no longer forked, which is slower: %s", error)
            return None


def _seen(env: dict[str, str], cwd: str, passing: tuple[str, ...]) -> dict:
    """What a library may see when it is imported, of what may differ between two kernels."""
    passing = (*passing, "PYTEST_CURRENT_TEST")
    found = {name: value for name, value in env.items() if name not in passing and not name.startswith("JPY_")}
    relative = any(not os.path.isabs(folder) for folder in found.get("PYTHONPATH", "/").split(os.pathsep))
    here = cwd if relative or os.path.exists(os.path.join(cwd, "matplotlibrc")) else ""
    return {"environment": found, "folder": here, "cores": os.sched_getaffinity(0)}


class _Server:
    """The process that is forked; it ends with this object, with whoever holds it, and when that is killed."""

    def __init__(self, seen: dict, env: dict[str, str], cwd: str):
        self.seen, self._owner = seen, os.getpid()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                env=env, cwd=cwd, start_new_session=True,
            )  # fmt: skip
        weakref.finalize(self, _end, self._control, self._process, self._owner)

    def lives(self) -> bool:
        """Whether it can be asked; a process that was itself forked from the owner has to begin its own."""
        return self._owner == os.getpid() and self._process.poll() is None

    def fork(self, request: bytes) -> Forked | None:
        """Have a kernel forked; None where what was imported is no longer what an import would find."""
        answers, theirs = socket.socketpair()
        answers.settimeout(_ANSWER_S)
        with theirs:
            socket.send_fds(self._control, [b"."], [1, 2, theirs.fileno()])
        answers.sendall(request)
        said = answers.recv(_ANSWER_BYTES)
        if not said:
            raise OSError("no answer from the process that is forked")
        answers.setblocking(False)
        return Forked(int(said), answers, self) if int(said) else None


def _end(control: socket.socket, process: subprocess.Popen, owner: int) -> None:
    if os.getpid() == owner:
        control.close()
        process.kill()
        process.wait()


def _serve(control: socket.socket) -> dict:
    """Fork until whoever asks is gone; returns, in each of the children alone, what was asked for."""
    launcher, state = os.getppid(), {}
    kernels: dict[int, tuple[int, socket.socket]] = {}
    used, tell = os.pipe()  # kernels write into it at their end
    os.set_blocking(used, False)
    os.close(os.pidfd_open(os.getpid()))  # an older Linux has none: rather no server than one that sees no kernel end
    _import("ipykernel.kernelapp", state)
    while True:
        ready = select.select([control, *kernels], [], [], 1)[0]
        if os.getppid() != launcher:  # a fork of the launcher may still hold its end of the socket
            os._exit(0)
        for pidfd in [one for one in ready if one is not control]:
            pid, answers = kernels.pop(pidfd)
            os.close(pidfd)
            _say(answers, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            answers.close()
        if control in ready:
            _import_used(used, state)
            if request := _fork(control, kernels, state):
                os.close(used)
                return {"tell": tell, **request}


def _import_used(used: int, state: dict) -> None:
    """Import what kernels that have ended had imported."""
    try:
        names = os.read(used, 1 << 16).decode().split()
        for name in [name for name in LIBRARIES if name in names and name not in sys.modules]:
            _import(name, state)
    except BlockingIOError:
        pass  # no kernel has ended since
    except Exception as error:  # a notebook that needs it says the same; others, and those that run, go on
        print(f"Not imported for kernels beforehand: {type(error).__name__}: {error}", file=sys.stderr)


def _tell_used(tell: int) -> None:
    with contextlib.suppress(OSError):  # nobody asks any more
        os.write(tell, "".join(f"{name}\n" for name in LIBRARIES if name in sys.modules).encode())


def _fork(control: socket.socket, kernels: dict, state: dict) -> dict | None:
    """Answer whoever asks, or not, where no kernel can be forked; returns, in the child alone, what was asked for."""
    message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
    if not message:
        os._exit(0)
    pid, answers = None, None
    try:
        out, err, answers = *descriptors[:2], socket.socket(fileno=descriptors[2])
        request = json.loads(answers.makefile("rb").readline())
        if state != {path: _stamp(path) for path in state}:
            _say(answers, 0)
        elif threading.active_count() == 1:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid:
                kernels[os.pidfd_open(pid)] = (pid, answers)
                _say(answers, pid)
    except (OSError, ValueError, IndexError) as error:
        print(f"No kernel is forked: {type(error).__name__}: {error}", file=sys.stderr)
    if pid == 0:
        for one in (control, answers, *(others for _, others in kernels.values())):
            one.close()
        for pidfd in kernels:
            os.close(pidfd)
        return {"out": out, "err": err, **request}
    if answers and not pid:
        answers.close()
    for descriptor in descriptors[:2]:
        os.close(descriptor)
    return None


def _say(answers: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # whoever asked is gone
        answers.sendall(b"%*d" % (_ANSWER_BYTES, number))


def _import(name: str, state: dict) -> None:
    """Import a library as a kernel would, and note the files that it was read from."""
    import builtins

    builtins.get_ipython = _Shell  # pandas shows wide tables otherwise where it is imported in a terminal
    try:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    finally:
        del builtins.get_ipython
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    files |= {folder for folder in sys.path if folder.endswith("-packages")}
    if matplotlib := sys.modules.get("matplotlib"):
        files.add(matplotlib.matplotlib_fname())
    state.update({path: _stamp(path) for path in files - {None, __file__, *state}})
    gc.collect()
    gc.freeze()  # no search for cycles touches, and so copies, the pages that the kernels share


class _Shell:
    kernel = None


def _stamp(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size
    return None


def _become_kernel(tell: int, out: int, err: int, argv: list[str], env: dict[str, str], cwd: str) -> None:
    """What Popen and the start of Python do before a kernel's first line."""
    import atexit
    import random
    import runpy

    os.setsid()
    for given, number in ((out, 1), (err, 2)):
        os.dup2(given, number)
        os.close(given)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env | {"JPY_PARENT_PID": str(os.getppid())})
    sys.argv = ["", *argv[1:]]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
    _follow_stderr()
    atexit.register(_tell_used, tell)
    gc.enable()
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


def _follow_stderr() -> None:
    """Let handlers of libraries write where stderr goes when they write: in a kernel that is the cell's output."""
    follower = type("Stderr", (), {"__getattr__": lambda _, name: getattr(sys.stderr, name)})()
    for logger in [logging.root, *logging.Logger.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):
            if vars(handler).get("stream") is sys.__stderr__:
                handler.setStream(follower)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of this file
    gc.disable()
    # Both are read when ipykernel and matplotlib are imported: a kernel's parent is this process, and ipykernel
    # names this backend where there is none.
    os.environ["JPY_PARENT_PID"] = str(os.getpid())
    os.environ["MPLBACKEND"] = os.environ.get("MPLBACKEND") or "module://matplotlib_inline.backend_inline"
    _become_kernel(**_serve(socket.socket(fileno=int(sys.argv[1]))))
