"""Kernels that are forked from a process that has imported the libraries."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from made_project import PARAMETERS, notebook, write_project

from tlskit.study import forkserver, kernel
from tlskit.study.ledger import ATTEMPT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")

#: Says of the process that it runs in what a kernel finds at its start, and does what it is told.
PROBE = """
import json, os, random, sys, time
modules = set(sys.modules)
numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
tasks = lambda pid: [open(f"/proc/{pid}/task/{n}/comm").read().strip() for n in os.listdir(f"/proc/{pid}/task")]
print(json.dumps({
    "pid": os.getpid(), "session": os.getsid(0), "server": os.getppid(), "argv": sys.argv[1:], "cwd": os.getcwd(),
    "path": sys.path[0], "own": os.environ.get("OWN"),
    "modules": sorted(modules), "random": random.random(), "numpy": numpy and numpy.random.random(),
    "torch": torch and torch.rand(1).item(), "tasks": tasks(os.getpid()), "server_tasks": tasks(os.getppid()),
    "columns": "pandas" in modules and sys.modules["pandas"].get_option("display.max_columns"),
    "backend": "matplotlib" in modules and sys.modules["matplotlib"].rcParams._get("backend"),
    "cuda": bool(torch) and torch.cuda.is_initialized(),
}), file=open(sys.argv[1], "w"))
for name in sys.argv[2:]:
    if name == "wait": time.sleep(60)
    else: __import__(name)
sys.exit(3)
"""


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """Forks the probe instead of a kernel; gives the process and what the probe says."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setattr(forkserver, "_COMMAND", [sys.executable, "-m", "probe"])
    monkeypatch.setattr(forkserver, "_server", None)
    monkeypatch.setattr(forkserver, "_given_up", False)
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def fork(*words, **changed):
        told = tmp_path / f"{time.monotonic_ns()}.json"
        command = [sys.executable, "-m", "probe", str(told), *words]
        forked = forkserver.fork_kernel(command, env=env | changed, cwd=str(tmp_path), passing=("OWN",))
        if forked is None:
            return None
        deadline = time.monotonic() + 60
        while not (told.exists() and told.read_text().endswith("\n")):
            assert time.monotonic() < deadline and (forked.poll() in (None, 3))
            time.sleep(0.02)
        return forked, json.loads(told.read_text())

    yield fork
    forkserver._server = None  # ended with it


def test_a_notebook_runs_in_a_process_of_its_own_that_was_forked(tmp_path, monkeypatch):
    facts = f"""
import json, os, sys
loaded = [name for name in sys.modules if name.partition(".")[0] == "tlskit"]
json.dump([os.getpid(), os.getsid(0), os.getppid(), os.environ["{ATTEMPT}"], loaded, sys.path], open("f.json", "w"))
import matplotlib.pyplot as plt
plt.plot([1, 2])
"""
    write_project(tmp_path, notebook(PARAMETERS, (facts, [])), *[notebook(PARAMETERS)] * 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forkserver, "_server", None)
    assert kernel.execute("01_tiling", tmp_path / "outputs/01_tiling.ipynb", {}, attempt="mine", title="") == ""
    pid, session, parent, attempt, loaded, path = json.loads((tmp_path / "f.json").read_text())
    assert pid == session != os.getpid() and parent == forkserver._server._process.pid and not psutil.pid_exists(pid)
    assert attempt == "mine" and loaded == []
    assert "" in path and str(Path(forkserver.__file__).parent) not in path
    outputs = json.loads((tmp_path / "outputs/01_tiling.ipynb").read_text())["cells"][-1]["outputs"]
    assert "image/png" in outputs[-1]["data"], "the figure is shown as in any kernel"


def test_what_a_kernel_imported_the_next_ones_find_imported_and_nothing_that_a_fork_would_break(fork, tmp_path):
    first, second = fork(), fork("pandas", OWN="other")
    assert first[1]["server"] == second[1]["server"] and first[1]["own"] is None and second[1]["own"] == "other"
    assert {"pid", "session"} <= set(first[1]) and first[1]["pid"] == first[1]["session"] == first[0].pid
    assert "ipykernel.kernelapp" in first[1]["modules"]
    second[0].wait(timeout=60)
    third = fork(*forkserver.LIBRARIES)
    assert "pandas" in third[1]["modules"] and "torch" not in third[1]["modules"], "of what no kernel used, nothing"
    third[0].wait(timeout=300)
    third, fourth = fork()[1], fork()[1]
    assert set(forkserver.LIBRARIES) <= set(third["modules"])
    for name in ("random", "numpy", "torch"):
        assert third[name] != fourth[name], name
    families = {name.partition(".")[0] for name in third["modules"]}
    assert not families & {"tlskit", "openvino", "openslide", "pyvips", "matplotlib_inline"}
    assert third["columns"] == 20 and third["backend"].endswith("inline") and not third["cuda"]
    assert len(third["tasks"]) == 1
    # The allocator of Arrow has a thread, which stops for a fork, and so have pools of OpenBLAS, here of one.
    assert len([task for task in third["server_tasks"] if task != "jemalloc_bg_thd"]) == 1, third["server_tasks"]
    assert third["cwd"] == third["path"] == str(tmp_path) and third["argv"][0].endswith(".json")


def test_its_end_is_seen_however_it_comes(fork):
    ended, _ = fork()
    assert ended.wait(timeout=20) == 3 == ended.poll()
    killed, said = fork("wait")
    assert killed.poll() is None and killed.pid == said["pid"]
    os.kill(killed.pid, signal.SIGKILL)
    begun = time.monotonic()
    assert killed.wait(timeout=20) == -signal.SIGKILL and time.monotonic() - begun < 1
    orphan, said = fork("wait")
    os.kill(said["server"], signal.SIGKILL)
    assert orphan.wait(timeout=20) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while psutil.pid_exists(orphan.pid) and psutil.Process(orphan.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    assert fork()[1]["server"] != said["server"]


def test_other_libraries_or_another_environment_have_another_server(fork, tmp_path):
    running, first = fork("wait")
    library = tmp_path / "sitecustomize.py"  # read at the server's start
    library.write_text("")
    second = fork(OMP_NUM_THREADS="2")[1]
    assert second["server"] != first["server"] and running.poll() is None, "one that has a kernel is kept"
    assert fork(OMP_NUM_THREADS="2")[1]["server"] == second["server"]
    library.write_text("changed = True")
    assert fork(OMP_NUM_THREADS="2")[1]["server"] != second["server"]
    running.kill()
    assert running.wait(timeout=20) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while psutil.pid_exists(first["server"]):
        assert time.monotonic() < deadline, "a server outlives its use"


def test_kernel_and_server_end_with_whoever_was_killed(tmp_path):
    code = """
        import sys, os, time
        from tlskit.study.forkserver import fork_kernel
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", os.path.abspath("k.json")]
        print(fork_kernel(command, env=dict(os.environ), cwd=os.getcwd()).pid, flush=True)
        time.sleep(60)
    """
    command, root = [sys.executable, "-c", textwrap.dedent(code)], str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": root}
    ) as process:
        forked = psutil.Process(int(process.stdout.readline()))
        server = forked.parent()
        while not (tmp_path / "k.json").exists():
            assert forked.is_running() and process.poll() is None
            time.sleep(0.05)
        time.sleep(1)  # until it looks after its parent
        process.kill()
    assert server.pid != process.pid and not psutil.wait_procs([server, forked], timeout=5)[1]


def test_where_no_server_can_be_started_kernels_are_as_before(fork, monkeypatch, caplog):
    monkeypatch.setattr(forkserver, "__file__", "/nowhere/forkserver.py")
    assert fork() is None and fork() is None
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "Kernels are no longer forked, which is slower"
    ]
