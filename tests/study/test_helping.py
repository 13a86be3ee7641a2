"""Workers with nothing to run help with the slides of a step that another is at: shared, the same, and safe to kill."""

import contextlib
import json
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import kill_sweep
import pandas as pd
import psutil
import pytest
import torch
from made_project import PARAMETERS, STEPS, notebook, sweep_command, workers_environment, write_project

from tlskit import cohort
from tlskit.errors import TlskitError
from tlskit.files import Claims
from tlskit.maps import inference
from tlskit.networks import models
from tlskit.study import helping, keys, progress, sharing, status
from tlskit.study.ledger import Ledger, claims_of
from tlskit.synthetic import cohort as synthetic

STEP, SLIDES = "02_patient_split", 6
FIRST = """
import shutil
from tlskit.study import runs
run = runs.open_run(
    run_name, "01_tiling", arm=arm, magnification=magnification, outputs_dir=outputs_dir, given=globals()
)
shutil.copy("checkpoint.pt", run.work / "checkpoint.pt")
run.record(n=1)
"""
# Slow, so that there is time for others; by a map's making, not by its content.
SECOND = """
import time
from tlskit import cohort, maps, networks
from tlskit.study import runs
run = runs.open_run(
    run_name, "02_patient_split", arm=arm, magnification=magnification, outputs_dir=outputs_dir, given=globals()
)
def turns(rows, how):
    for row in run.turns(rows, how):
        time.sleep(pause_s)
        yield row
predicted = maps.predict_cohort(
    networks.load_checkpoint(run.checkpoint_path), cohort.read_manifest(manifest), run.maps_dir, engine="torch",
    precision="exact", engine_note=run.engine_path, on_failure=run.failed, progress=False, turns=turns,
)
run.table(predicted.drop(columns="map_path"), "maps")
run.record(slides=len(predicted))
"""
HOW = {"engine": "torch", "precision": "exact"}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Six slides and a network that was never trained."""
    folder = tmp_path_factory.mktemp("slides")
    for n in range(SLIDES):
        synthetic.make_oracle_slide(folder / f"S{n}.tiff", size_mm=(1.2, 1.0), n_tls=1, seed=n)
    torch.manual_seed(0)
    network = models.Checkpoint(
        model=models.build_model(encoder="efficientnet-b0", encoder_weights="none"), encoder="efficientnet-b0",
        magnification=1.0, mpp=10.0, tile_px=64, overlap=0.5, normalisation="divide_255", threshold=0.5,
        target_class="TLS", resolution_by="mpp", split_hash="abc", history=pd.DataFrame({"epoch": [1]}),
    )  # fmt: skip
    models.save_checkpoint(folder / "checkpoint.pt", network)
    return folder


def write(folder, slides):
    """A project whose second step makes the maps of the slides."""
    first = PARAMETERS.replace("magnification = 4", "magnification = 1")
    second = notebook(first + "pause_s = 7.0  # seconds\n", (SECOND, []))
    write_project(folder, notebook(first, (FIRST, [])), second, notebook(first))
    (folder / "params/p.yaml").write_text("run_name: r\nsweep: {magnification: [1]}\n")
    header = "slide_id,patient_id,cancer_type,slide_path,annotation_path\n"
    rows = [f"S{n},p{n},lung,{slides / f'S{n}.tiff'},{slides / f'S{n}.geojson'}\n" for n in range(SLIDES)]
    (folder / "manifest.csv").write_text(header + "".join(rows))
    (folder / "checkpoint.pt").write_bytes((slides / "checkpoint.pt").read_bytes())
    return folder


@pytest.fixture
def project(tmp_path, slides, monkeypatch):
    """Such a project, in which the test is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    return write(tmp_path, slides)


@contextlib.contextmanager
def sweeping(project, name, *more):
    """A sweep of the two steps in the background; its output in a file beside."""
    command = sweep_command("-p", f"run_name={name}", "--arm", "1x", *more)
    number = len(list(project.glob("said*")))
    with open(project / f"said{number}", "w") as out:
        process = subprocess.Popen(command, cwd=project, env=workers_environment(project), stdout=out, stderr=out)
    process.said = lambda: (project / f"said{number}").read_text()
    try:
        yield process
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            one.kill()
        process.wait()


def wait_for(found, seconds=180):
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.1)
    return value


def helper_of(run_dir, *workers):
    """The helper that a worker has started, once it holds a slide."""
    holders = Claims(run_dir / ".claims").holders()
    held = {holder.process for piece, holder in holders.items() if f"/{STEP}/" in piece}
    children = [child for worker in workers for child in psutil.Process(worker.pid).children()]
    return next((one for one in children if one.pid in held and helping.PROGRAM in one.cmdline()), None)


@pytest.fixture(scope="module")
def serial(tmp_path_factory, slides):
    """What one process leaves, that nobody helps."""
    project = write(tmp_path_factory.mktemp("serial"), slides)
    with sweeping(project, "serial", "-p", "pause_s=0") as alone:
        assert alone.wait(timeout=300) == 0, alone.said()
    return project / "outputs/serial"


def assert_same(run, serial):
    found = run / "1x/tables/02_maps.csv"
    assert kill_sweep.differing(run, serial)[2] in ([], ["1x/tables/02_maps.csv"])
    clocks = kill_sweep.CLOCK_COLUMNS["05_maps"]
    assert kill_sweep._without(found, clocks) == kill_sweep._without(serial / "1x/tables/02_maps.csv", clocks)
    for path in serial.glob("1x/work/maps/*.tif"):
        assert (run / "1x/work/maps" / path.name).read_bytes() == path.read_bytes()
    assert not (run / "1x/work/.shared" / STEP).exists() and not list((run / "1x/work/.shared").glob("*"))
    assert not (run / ".claims").exists()


@pytest.mark.slow
def test_a_worker_without_a_step_makes_slides_of_a_running_one_and_all_is_as_one_had_made_it(project, serial):
    run = project / "outputs/r"
    with sweeping(project, "r") as one, sweeping(project, "r") as two:
        wait_for(lambda: helper_of(run, one, two))
        seen = progress.look(run)
        (at,) = [piece for piece in seen.pieces if piece.at_slides]
        assert at.step == STEP and len(at.at_slides) <= 2
        assert f"slide {at.at_slides[0][0]}, process {at.at_slides[0][1].process}" in progress.as_text(seen)
        assert one.wait(timeout=300) == two.wait(timeout=300) == 0, one.said() + two.said()
    found = status.read_step(run / "1x", STEP)
    table = pd.read_csv(run / "1x/tables/02_maps.csv")
    assert 1 <= len(found["helped"]) < SLIDES
    assert set(found["helped"]) == set(table.loc[table["kept"], "slide_id"])
    assert table.loc[table["kept"], "wall_s"].isna().all() and (table.loc[~table["kept"], "wall_s"] > 0).all()
    assert all(one["seconds"] > 0 and one["process"].count("-") == 1 for one in found["helped"].values())
    said = one.said() + two.said()
    assert said.count("made for who runs it") == len(found["helped"])
    assert f"{len(found['helped'])} slide(s) made by other workers" in said
    assert_same(run, serial)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["helper", "owner"])
def test_a_helper_and_who_is_helped_may_die(project, serial, victim):
    run = project / "outputs/r"
    with sweeping(project, "r") as one, sweeping(project, "r") as two:
        helper = wait_for(lambda: helper_of(run, one, two))
        helping_one = one if psutil.Process(helper.pid).ppid() == one.pid else two
        owner = two if helping_one is one else one
        dead = helper if victim == "helper" else psutil.Process(owner.pid)
        dead.send_signal(signal.SIGKILL)
        if victim == "owner":
            owner.wait()  # what is dead but not waited for still stands in the list of processes
        assert helping_one.wait(timeout=300) == 0, helping_one.said()
        assert owner.wait(timeout=300) == (0 if victim == "helper" else -9), owner.said()
    assert status.read_step(run / "1x", STEP)["state"] == "done"
    assert_same(run, serial)


# -- without processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def step(project):
    """A step that is being run here, whose network and engine are there: its ledger and rows."""
    run_dir = project / "outputs/r"
    (run_dir / "1x/work").mkdir(parents=True)
    (run_dir / "1x/work/checkpoint.pt").write_bytes((project / "checkpoint.pt").read_bytes())
    ledger = Ledger(run_dir, "1x", STEP)
    ledger.values["key"] = "k"
    assert claims_of(run_dir).take(f"1x/{STEP}")
    checkpoint = models.load_checkpoint(project / "checkpoint.pt")
    rows = cohort.read_manifest("manifest.csv")
    note = run_dir / "1x/work/engine.json"
    options = {"engine_note": note, "progress": False, **HOW}
    yield SimpleNamespace(dir=run_dir, ledger=ledger, rows=rows, checkpoint=checkpoint, options=options, note=note)
    claims_of(run_dir).release(f"1x/{STEP}")


def owned(step, body=lambda row: None):
    """Run the step here; `body` is called while a slide of it is claimed."""

    def turns(rows, how):
        for row in sharing.turns(step.ledger, rows, how):
            body(row)
            yield row

    return inference.predict_cohort(
        step.checkpoint, step.rows, step.dir / "1x/work/maps", turns=turns, **step.options
    )  # fmt: skip


def help_with(step, times, key="k", offer=None):
    """Let a helper look `times` times for a slide; what it answers."""
    answers = []
    words = iter([True] * times + [False])
    offer = offer or sharing.offered(step.dir, "1x", STEP, key)
    if offer is None:
        return None
    helping.make_slides(
        str(step.dir), "1x", STEP, key, "manifest.csv", offer, go=lambda: next(words), answer=answers.append
    )
    return answers


def test_helper_and_step_come_to_each_slide_and_each_is_made_once(step):
    answers = []

    def body(row):
        if row.slide_id == "S1":  # S0 has been made, and the engine been chosen by it
            answers.extend(help_with(step, 4))

    table = owned(step, body)
    # The first is there, the second is claimed.
    assert [(one["slide"], one["made"]) for one in answers] == [(f"S{n}", n > 0) for n in (0, 2, 3, 4)]
    assert list(table["slide_id"]) == [f"S{n}" for n in range(SLIDES)]
    assert list(table["kept"]) == [False, False, True, True, True, False]
    assert set(step.ledger.values["helped"]) == {"S2", "S3", "S4"}
    assert not list((step.dir / "1x/work/.shared").glob("*"))
    assert sharing.offered(step.dir, "1x", STEP, "k") is None


def test_it_does_not_choose_the_engine(step):
    said = []
    owned(step, lambda row: said.extend(help_with(step, 2)) if row.slide_id == "S0" else None)
    assert said == [{"nothing": True}] * 2 and "helped" not in step.ledger.values


def test_another_key_or_attempt_or_kind_of_machine_is_not_helped(step, monkeypatch):
    seen = []

    def body(row):
        if row.slide_id == "S1":
            offer = sharing.offered(step.dir, "1x", STEP, "k")
            seen.append(sharing.offered(step.dir, "1x", STEP, "other"))
            for changed in ({"attempt": "another"}, {"how": offer["how"] | {"subject": {"machine": "another"}}}):
                with pytest.raises(TlskitError):
                    help_with(step, 1, offer=offer | changed)
            claims_of(step.dir).release(f"1x/{STEP}")
            seen.append(sharing.offered(step.dir, "1x", STEP, "k"))

    table = owned(step, body)
    assert seen == [None, None] and not table["kept"].any()


def test_what_fails_there_is_left_to_the_step(step, monkeypatch):
    answers, real = [], inference.predict_row
    at_help = []

    def fails(checkpoint, row, *given, **options):
        if at_help and row.slide_id == "S3":
            raise MemoryError("none left")
        return real(checkpoint, row, *given, **options)

    monkeypatch.setattr(inference, "predict_row", fails)

    def body(row):
        if row.slide_id == "S1":
            at_help.append(True)
            answers.extend(help_with(step, 4))
            at_help.clear()

    table = owned(step, body)
    assert [one["made"] for one in answers] == [False, True, False, True]  # there, made, failed, made
    assert list(table["kept"]) == [False, False, True, False, True, False]
    assert set(step.ledger.values["helped"]) == {"S2", "S4"}


def test_a_choice_that_a_slide_breaks_is_the_steps_to_give_up(step, monkeypatch):
    answers = []

    def body(row):
        if row.slide_id != "S1":
            return
        before = step.note.read_text()
        real = inference.predict_row

        def broken(checkpoint, row, path, source, **options):
            made = real(checkpoint, row, path, source, **options)
            if not made["kept"]:  # as `recheck` does
                source._note.write_text("[]")
            return made

        with monkeypatch.context() as patch:
            patch.setattr(inference, "predict_row", broken)
            answers.extend(help_with(step, 2))
        assert step.note.read_text() == before and not (step.dir / "1x/work/maps/S2.tif").exists()

    table = owned(step, body)
    assert [one["made"] for one in answers] == [False, False] and not table["kept"].any()


def test_a_new_choice_of_the_step_ends_the_help(step):
    def body(row):
        if row.slide_id == "S1":
            offer = sharing.offered(step.dir, "1x", STEP, "k")
            words = iter([True, True, True])

            def go():
                if next(words) and len(told) == 1:
                    notes = json.loads(step.note.read_text())
                    step.note.write_text(json.dumps([notes[0] | {"precision": "bf16"}]))
                return True

            told = []
            with pytest.raises(TlskitError, match="chosen again"):
                helping.make_slides(
                    str(step.dir), "1x", STEP, "k", "manifest.csv", offer, go=go, answer=told.append
                )  # fmt: skip
            assert len(told) == 1

    assert len(owned(step, body)) == SLIDES


def test_how_slides_are_made_that_cannot_be_told_is_not_offered(step):
    seen = []
    rows = list(cohort.slide_rows(step.rows))
    for _ in sharing.turns(step.ledger, rows, {"tissue": object()}):
        seen.append(sharing.offered(step.dir, "1x", STEP, "k"))
    assert seen == [None] * SLIDES


def test_a_helper_ends_with_its_worker(tmp_path):
    """Killed in a way that lets it say nothing."""
    program = (
        "import subprocess, sys, time\n"
        f"one = subprocess.Popen([sys.executable, '-c', {helping.PROGRAM!r}], stdin=subprocess.PIPE)\n"
        "print(one.pid, flush=True)\ntime.sleep(600)\n"
    )
    worker = subprocess.Popen(["python", "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ)
    child = psutil.Process(int(worker.stdout.readline()))
    worker.kill()
    worker.wait()
    assert not psutil.wait_procs([child], timeout=60)[1]
