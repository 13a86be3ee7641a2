"""The command line: what a person mistypes, or a disk refuses, ends in a sentence and an exit code."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from made_project import PARAMETERS, notebook, sweep_command, sweep_environment, write_project

from tlskit import __main__


@pytest.fixture
def project(tmp_path, monkeypatch):
    wait = "import time\nopen('started', 'w').close()\ntime.sleep(60)"
    write_project(
        tmp_path,
        notebook(PARAMETERS + "learning_rate = 0.001  # of Adam\n", (wait, [])),
        notebook(PARAMETERS),
        notebook(PARAMETERS),
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """Exit code of a command, and what it said."""
    monkeypatch.setattr(sys, "argv", ["tlskit", *words])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            __main__.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return caught.value.code, " ".join((said.out + said.err).split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "params/p.yaml", "-p", "x=[1"], "'[1' is no value as a preset would hold it"),
        (["plan", "params/p.yaml", "-p", "sweep=4"], "`sweep` is written in the preset"),
        (["plan", "params/p.yaml", "-p", "magnification"], "should be name=value"),
        (["compare", "outputs/r", "--draws", "0"], "--draws"),
        (["compare", "outputs/r", "--threshold-by", "foo"], "--threshold-by"),
        (["compare", "outputs/r", "--slides", "foo"], "--slides"),
        (["app", "--port", "-5"], "--port"),
        (["app", "--port", "70000"], "--port"),
        (["check", "manifest.csv", "--resolution-by", "foo"], "--resolution-by"),
        (["predict", "slide.svs", "--checkpoint", "c.pt", "--out", "o", "--batch-size", "0"], "--batch-size"),
        (["predict", "slide.svs", "--checkpoint", "c.pt", "--out", "o", "--engine", "fast"], "--engine"),
        (["export-qupath-scripts", "slide.svs/x"], "slide.svs/x: Not a directory"),
        (["synth", "slide.svs", "--patients", "3"], "slide.svs"),
    ],
)
def test_a_slip_is_told_in_a_sentence(project, monkeypatch, capsys, words, message):
    code, said = run(monkeypatch, capsys, *words)
    assert code == 2 and message in said, said


def test_a_read_only_folder_is_told(project, monkeypatch, capsys):
    if os.geteuid() == 0:
        # Root writes everywhere; what its kernel would answer to others.
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied", "there")

        monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    project.chmod(0o555)
    try:
        code, said = run(monkeypatch, capsys, "export-qupath-scripts", "there")
    finally:
        project.chmod(0o755)
    assert code == 2 and "there: Permission denied." in said


def test_a_number_after_p_may_have_an_exponent(project, monkeypatch, capsys):
    from tlskit.study import keys

    monkeypatch.setattr(keys, "STEPS", ("01_tiling", "02_patient_split"))
    code, said = run(monkeypatch, capsys, "plan", "params/p.yaml", "-p", "learning_rate=1e-3")
    assert code == 0 and "to run" in said, said


@pytest.mark.parametrize("command", [["plan"], ["sweep"], ["check"]])
def test_outside_a_study_the_way_to_one_is_said(tmp_path, monkeypatch, capsys, command):
    (tmp_path / "p.yaml").write_text("run_name: r\n")
    monkeypatch.chdir(tmp_path)
    code, said = run(monkeypatch, capsys, *command, "p.yaml")
    assert code == 2 and "tlskit init my-study" in said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_that_is_stopped_says_so_and_leaves_nothing_running(project, number, code):
    process = subprocess.Popen(
        sweep_command(), cwd=project, env=sweep_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (project / "started").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, said = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in said, said
    assert f"stopped ({number.name}). What was finished is kept" in said
    assert not psutil.wait_procs(children, timeout=10)[1], "a kernel outlives the sweep"
    assert not list((project / "outputs").rglob("*partial*")), "something half-written is left"
