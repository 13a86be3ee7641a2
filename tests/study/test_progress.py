"""`tlskit status`: what runs where, what failed and why, what is left, how long it may take."""

import json
import os
import re
import shutil
import socket
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from made_project import PARAMETERS, STEPS, notebook, run_by_hand, write_project
from typer.testing import CliRunner

from tlskit.__main__ import app
from tlskit.errors import RunError
from tlskit.files import Claims
from tlskit.networks import marks
from tlskit.study import keys, progress, status, sweep

STEP = """
from tlskit import study
run = study.open_run(run_name, "{0}", arm=arm, magnification=magnification, outputs_dir=outputs_dir, given=globals())
run.record(n=1)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two steps and the arms 4x and 1x, of which nothing was run."""
    steps = [notebook(PARAMETERS, (STEP.format(step), [])) for step in (*STEPS, "compare_magnifications")]
    write_project(tmp_path, *steps)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    sweep.hold(tmp_path / "outputs/r", prepared())
    return tmp_path


def prepared():
    return sweep.prepare("params/p.yaml")


def done(project, arm, step, seconds):
    """A notebook that a sweep has run in so many seconds."""
    run_by_hand(step, run_name="r", arm=arm, magnification=int(arm[:-1]))
    change(project, arm, step, by="sweep", seconds=seconds)


def change(project, arm, step, **values):
    found = status.read_step(project / "outputs/r" / arm, step) or {"arm": arm, "step": step}
    status.write_step(project / "outputs/r" / arm, step, found | values)


def said(run="r"):
    result = CliRunner().invoke(app, ["status", str(run)])
    assert result.exit_code == 0, result.output
    return result.output


def claim(project, piece, *, process=None, machine=None):
    """A claim as its holder writes it; returned to be given back."""
    claims = Claims(project / "outputs/r/.claims")
    assert claims.take(piece)
    path = project / f"outputs/r/.claims/{piece}.claim"
    text = path.read_text()
    text = text.replace(f"host={socket.gethostname()}", f"host={machine or socket.gethostname()}")
    path.write_text(text.replace(f"pid={os.getpid()}", f"pid={process or os.getpid()}"))
    return claims


def test_of_a_run_that_nobody_began_all_is_left(project):
    text = said()
    assert "Run r, 5 notebooks: 0 done, 0 running, 0 failed, 5 left." in text
    assert "Nobody is at it at this moment." in text and "01_tiling                   2: 4x, 1x" in text
    assert "Not counted in, as none of its kind has ended yet: 2 01_tiling, 2 02_patient_split" in text


def test_what_runs_where_and_since_when(project):
    done(project, "1x", "01_tiling", 120.0)
    claims = claim(project, "4x/01_tiling", process=4211, machine="node3")
    begun = status.read_step(project / "outputs/r/1x", "01_tiling")["provenance"]
    then = begun | {"time_utc": "2020-01-01T00:00:00+00:00"}
    change(project, "4x", "01_tiling", state="running", provenance=then)
    other = claim(project, "1x/02_patient_split")
    text = said(project / "outputs/r")
    assert "2 running" in text and "Nobody" not in text
    assert re.search(r"process 4211 on node3, sign of life \d+ s ago", text), text
    assert " h  " in next(line for line in text.splitlines() if "process 4211" in line)  # since 2020
    assert f"has just begun  process {os.getpid()} of this machine" in text
    for one in (claims, other):
        del one


def test_a_dead_workers_step_is_not_said_to_run(project):
    claims = claim(project, "4x/01_tiling", process=2**22 + 1)
    change(project, "4x", "01_tiling", state="running")
    text = said()
    assert "0 running" in text and "Nobody is at it" in text
    path = project / "outputs/r/.claims/4x/01_tiling.claim"
    path.write_text(path.read_text().replace(f"host={socket.gethostname()}", "host=node3"))
    os.utime(path, (1e9, 1e9))  # of another machine, silent for long
    assert "0 running" in said()
    del claims


def test_what_failed_and_which_slides_with_the_reason(project):
    done(project, "1x", "01_tiling", 2.0)
    change(project, "1x", "01_tiling", slides=[{"slide_id": "s1", "reason": "it cannot be read"}])
    change(project, "4x", "01_tiling", state="failed", reason="ValueError: bad luck", key="")
    text = said()
    assert "1 done, 0 running, 1 failed, 3 left" in text
    assert "4x  01_tiling                 ValueError: bad luck" in text
    assert "1x  01_tiling                 slide s1: it cannot be read" in text


def test_how_long_it_may_take_is_a_guess_by_what_has_ended(project):
    done(project, "1x", "01_tiling", 100.0)
    assert "About 100 s of work left. That is a guess, by the median of the 1 notebooks" in said()
    done(project, "1x", "02_patient_split", 7200.0)
    look = progress.look(project / "outputs/r")
    assert progress.time_left(look) == progress.TimeLeft(7300.0, 2, {"compare_magnifications": 1})
    done(project, "4x", "01_tiling", 90.0)
    assert progress.time_left(progress.look(project / "outputs/r")).notebooks == 1  # those of what is left
    shutil.rmtree(project / "outputs/r/4x")
    change(project, "1x", "02_patient_split", taken_from="2x")  # tells nothing
    left = progress.time_left(progress.look(project / "outputs/r"))
    assert left.seconds == 100.0 and left.untold["02_patient_split"] == 1
    # Of the same magnification, where one has ended: 4x has its own, 1x needs nothing more.
    change(project, "1x", "01_tiling", seconds=10.0)
    done(project, "4x", "01_tiling", 50.0)
    (project / "slide.svs").write_text("other pixels")
    # What is out of date tells how long it took.
    assert progress.time_left(progress.look(project / "outputs/r")).seconds == 60.0


def test_a_training_tells_its_epoch_and_what_its_steps_will_take(project, monkeypatch):
    monkeypatch.setattr(marks, "EVERY_S", -1.0)
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(marks, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    run_dir = project / "outputs/r"
    steps = (*STEPS, "03_training")
    monkeypatch.setattr(keys, "STEPS", steps)
    (project / "notebooks/03_training.ipynb").write_text(notebook(PARAMETERS, (STEP.format("03_training"), [])))
    for step in steps:
        run_by_hand(step, run_name="r", arm="1x", magnification=1)
    change(project, "1x", "03_training", state="running")
    claims = claim(project, "1x/03_training")
    checkpoint_path = run_dir / "1x" / "work" / "checkpoint.pt"
    with marks.marking(checkpoint_path, steps=50, done=20, epochs=5) as stepped:
        (piece,) = progress.look(run_dir).of("running")
        assert (piece.at, piece.left_s) == ("epoch 3 of 5", None), "no step of this process tells anything yet"
        for _ in range(12):
            stepped()
        mark = marks.read_mark(checkpoint_path)
        (piece,) = progress.look(run_dir).of("running")
        assert piece.at == "epoch 4 of 5" and piece.left_s == pytest.approx(mark.seconds / 12 * 18)
        assert "epoch 4 of 5, process" in said() and "a guess, by the steps of what is being trained." in said()
        assert progress.time_left(progress.look(run_dir)).seconds == pytest.approx(piece.left_s, abs=1)
    assert marks.read_mark(checkpoint_path) is None and not list(checkpoint_path.parent.glob("*training*"))
    checkpoint_path.write_bytes(b"")
    assert progress._training(run_dir, "1x", 30.0) == ("after the last epoch", 0.0)
    # What a training left that was killed before this one began says nothing of it.
    os.utime(checkpoint_path, (1, 1))
    path = checkpoint_path.with_name("checkpoint-training.json")
    path.write_text(json.dumps(asdict(mark) | {"time_utc": "2020-01-01T00:00:00+00:00"}))
    assert progress._training(run_dir, "1x", 30.0) == ("", None)
    del claims


def test_with_several_at_work_each_does_its_share(project):
    done(project, "1x", "01_tiling", 100.0)
    done(project, "1x", "02_patient_split", 60.0)
    both = [claim(project, "4x/01_tiling"), claim(project, "compare/compare_magnifications")]
    assert "About 3 min of work left, 80 s with the 2 at it now. That is a guess" in said()
    del both


def test_what_is_out_of_date_is_left_and_it_is_said_why(project):
    for arm in ("4x", "1x"):
        for step in STEPS:
            done(project, arm, step, 1.0)
    assert "4 done" in said()
    (project / "slide.svs").write_text("other pixels")
    text = said()
    assert "0 done" in text and "4x, 1x: the slide file of s1 changed" in text


def test_a_run_that_was_moved_out_of_its_project_is_looked_at_all_the_same(project, tmp_path_factory, monkeypatch):
    done(project, "4x", "01_tiling", 3.0)
    change(project, "1x", "01_tiling", state="failed", reason="no luck")
    away = tmp_path_factory.mktemp("away")
    shutil.move(project / "outputs/r", away / "r")
    monkeypatch.chdir(away)
    text = said("r")
    assert "Run r, 5 notebooks: 1 done, 0 running, 1 failed, 3 left." in text and "no luck" in text
    assert "What is done is not compared with the preset, the slides and the code" in text
    assert str(away) not in text
    (away / "r/run.yaml").unlink()
    assert "1 done" in said(away / "r")


def test_a_name_that_is_no_run_is_refused(project):
    with pytest.raises(RunError, match="there is no run of that name"):
        progress.find_run("none")
    with pytest.raises(RunError):
        progress.find_run(project)
