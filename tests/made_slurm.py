"""A real Slurm on this machine: munge, controller and one node, in a folder, for as long as a block lasts."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

#: Debian's slurm-wlm and munge.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")

_CONF = """
ClusterName=tlskit
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=60 State=UP
"""


class NoSlurm(Exception):
    """This machine has none, or does not let us start one."""


@contextlib.contextmanager
def slurm(folder: Path, *, cpus: int = 4) -> Iterator[dict[str, str]]:
    """Start Slurm; gives the environment variables by which its commands find it.

    Raises
    ------
    NoSlurm
        With the reason.
    """
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if missing:
        raise NoSlurm(f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        raise NoSlurm("slurmd starts jobs as root only")
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(folder=folder, host=host, ports=_free_ports(2), cpus=cpus).lstrip())
    said = subprocess.run(
        ["slurmctld", "-V"], capture_output=True, text=True, env=os.environ | {"PATH": _path()}
    ).stdout
    version = tuple(map(int, re.findall(r"(\d+)\.(\d+)", said)[0]))
    # No control group is made either way; the older ones have no name for that.
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={'disabled' if version >= (23, 2) else 'cgroup/v1'}\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    env = os.environ | {"SLURM_CONF": str(conf), "PATH": _path()}
    with contextlib.ExitStack() as stack:
        munge = [
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log",
        ]  # fmt: skip
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c", "-N", host]):
            with open(folder / f"{command[0]}.out", "w") as out:
                process = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=folder)
            stack.callback(_end, process)
            time.sleep(0.3)
        _wait_for_node(folder, env)
        yield {"SLURM_CONF": str(conf), "PATH": _path()}
        subprocess.run(["scancel", "--user", "root"], env=env, check=False, capture_output=True)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_for_node(folder: Path, env: dict, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        said = subprocess.run(["sinfo", "--noheader", "--format=%t"], env=env, capture_output=True, text=True)
        if said.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "".join(path.read_text(errors="replace")[-600:] for path in folder.glob("*.log"))
    raise NoSlurm(f"its node does not become idle ({said.stdout.strip()} {said.stderr.strip()}): {logs}")


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
