"""One notebook through papermill: in a kernel of its own, without a word about this machine in the executed copy."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import tempfile
from pathlib import Path

from tlskit.errors import DiskFullError
from tlskit.files import disk_full, is_disk_full, project_root, temporary_beside, without_machine, write_text
from tlskit.study import keys
from tlskit.study.forkserver import fork_kernel
from tlskit.study.ledger import ATTEMPT

__all__ = ["execute"]

#: Seconds that a kernel may take to start: on a busy machine with a slow disk its imports alone take minutes.
START_S = 600

#: What a kernel is told first: at its end it hands its memory back without looking for cycles in it. With torch and
#: matplotlib loaded that search takes seconds of each notebook, and frees what the system takes back anyway.
LEAN_END = '__import__("atexit").register(__import__("gc").freeze);'

#: Longest path of a socket that every Unix takes.
_LONGEST_SOCKET = 90


def execute(step: str, output: Path, parameters: dict, *, attempt: str, title: str) -> str:
    """Run a notebook and leave its executed copy, ``<step>.ipynb``, or ``<step>.failed.ipynb``.

    Parameters
    ----------
    step
        Name of the notebook.
    output
        Where its copy is to lie.
    parameters
        Injected.
    attempt
        Random name of this run of the step, for the status that the notebook writes.
    title
        Of the progress bar, which is shown to a terminal alone.

    Returns
    -------
    str
        The reason of its failure; empty where it came to its end.

    Raises
    ------
    DiskFullError
        If there is no room left.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    output.parent.mkdir(parents=True, exist_ok=True)
    failed = output.with_name(f"{step}.failed.ipynb")
    # A name of this run's own: another process may believe that it holds this step, too.
    partial = temporary_beside(output)
    for before in (output, failed):
        before.unlink(missing_ok=True)
    try:
        with _environment(attempt):
            papermill.execute_notebook(
                str(keys.notebook_path(step)),
                str(partial),
                parameters=parameters,
                cwd=str(project_root()),
                kernel_name="python3",
                start_timeout=START_S,
                progress_bar={"desc": title, "leave": False, "disable": None},
                # The kernel tells every user that its local connection is not encrypted, and that it was stopped.
                extra_arguments=["--IPKernelApp.log_level=50", f"--IPKernelApp.exec_lines={LEAN_END}"],
                **_over_sockets(),
            )
        _leave(partial, output)
        return ""
    except PapermillExecutionError as error:
        # The failed copy is kept for reading: papermill puts the error at its top.
        _leave(partial, failed)
        if error.ename == DiskFullError.__name__:
            raise DiskFullError(error.evalue) from None
        if f"[Errno {errno.ENOSPC}]" in error.evalue:  # out of a library that writes by itself
            raise disk_full(output) from None
        return without_machine(" ".join(f"{error.ename}: {error.evalue}".split())) + f" (see {failed.name})"
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(output) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _environment(attempt: str):
    before = os.environ.get(ATTEMPT)
    os.environ[ATTEMPT] = attempt
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ATTEMPT, None)
        else:
            os.environ[ATTEMPT] = before


def _over_sockets() -> dict:
    """Options by which kernel and client talk over sockets in a folder, not over ports that others may take or see."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.provisioning import KernelProvisionerBase, LocalProvisioner
    from traitlets import Instance, default, validate

    folder = Path(tempfile.gettempdir())
    if os.name == "nt" or len(str(folder)) > _LONGEST_SOCKET - 40:
        return {}

    class SocketKernelManager(AsyncKernelManager):
        transport = "ipc"
        provisioner = Instance(KernelProvisionerBase, allow_none=True)

        @default("connection_file")
        def _own_file(self) -> str:
            return str(folder / f"tlskit-{secrets.token_hex(8)}.json")

        @validate("provisioner")
        def _forking(self, proposal):
            given = proposal["value"]
            if type(given) is not LocalProvisioner:  # another launcher of kernels, which somebody has set up
                return given
            return ForkingProvisioner(kernel_id=given.kernel_id, kernel_spec=given.kernel_spec, parent=given.parent)

    class ForkingProvisioner(LocalProvisioner):
        async def launch_kernel(self, cmd, **options):
            self.cwd = options.get("cwd") or os.getcwd()
            asked = {"env": options["env"], "cwd": str(self.cwd), "passing": (ATTEMPT,)}
            process = fork_kernel(cmd, **asked) if set(options) <= {"env", "cwd"} else None
            if process is None:
                return await super().launch_kernel(cmd, **options)
            self.process, self.pid, self.pgid = process, process.pid, process.pid
            return self.connection_info

    return {"kernel_manager_class": SocketKernelManager}


def _leave(partial: Path, output: Path) -> None:
    """Give the executed copy its name, without the folders that papermill and warnings write into it."""
    notebook = json.loads(partial.read_text(encoding="utf-8"))
    papermills = notebook["metadata"].get("papermill", {})
    for name in ("input_path", "output_path"):
        if papermills.get(name):
            papermills[name] = Path(papermills[name]).name if name == "input_path" else output.name
    papermills["environment_variables"] = {}
    for cell in notebook["cells"]:
        for shown in cell.get("outputs", []):
            for where, name in ((shown, "text"), (shown, "evalue"), (shown, "traceback")):
                if name in where:
                    where[name] = _cleaned(where[name])
            data = shown.get("data", {})
            for kind in [kind for kind in data if kind.startswith("text/")]:
                data[kind] = _cleaned(data[kind])
        if "papermill-error-cell-tag" in cell.get("metadata", {}).get("tags", []):
            cell["source"] = _cleaned(cell["source"])
    write_text(output, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def _cleaned(text):
    return [without_machine(part) for part in text] if isinstance(text, list) else without_machine(text)
