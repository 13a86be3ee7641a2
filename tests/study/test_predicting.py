"""`predict`: slides claimed one by one, named by what they hold, gone on with after a kill, shared by workers."""

import json
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tlskit.__main__ import app
from tlskit.files import Claims
from tlskit.maps import open_map, write_overlap
from tlskit.networks import models
from tlskit.study import predicting
from tlskit.synthetic import cohort as synthetic


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three slides and a network that was never trained."""
    folder = tmp_path_factory.mktemp("predict")
    for n in range(3):
        synthetic.make_oracle_slide(folder / f"S{n}.tiff", size_mm=(1.2, 1.0), n_tls=1, seed=n)
    (folder / "other").mkdir()
    shutil.copy(folder / "S1.tiff", folder / "other" / "S0.tiff")
    torch.manual_seed(0)
    save_network(folder / "checkpoint.pt")
    save_network(folder / "fine.pt", magnification=2.0)
    return folder


def save_network(path, *, magnification=1.0, context_ratio=0):
    network = models.Checkpoint(
        model=models.build_model(encoder="efficientnet-b0", encoder_weights="none", context_ratio=context_ratio),
        encoder="efficientnet-b0", context_ratio=context_ratio, context_px=64,
        magnification=magnification, mpp=10 / magnification, tile_px=64, overlap=0.5, normalisation="divide_255",
        threshold=0.5, target_class="TLS", resolution_by="mpp", split_hash="abc", history=pd.DataFrame({"epoch": [1]}),
    )  # fmt: skip
    models.save_checkpoint(path, network)


def predict(made, *names, out="out", **options):
    lines = []
    options = {"engine": "torch", "precision": "exact", "progress": False, "report": lines.append} | options
    found = predicting.predict([made / name for name in names], made / "checkpoint.pt", made / out, **options)
    return {one.slide_id: one.state for one in found}, lines


def test_a_slide_is_predicted_once_and_another_of_its_name_gets_a_number(made):
    assert predict(made, "S0.tiff")[0] == {"S0": "done"}
    first = (made / "out/maps/S0.tif").read_bytes()
    assert "(done before)" in predict(made, "S0.tiff")[1][-1]
    assert predict(made, "other/S0.tiff")[0] == {"S0_2": "done"}
    assert (made / "out/maps/S0.tif").read_bytes() == first
    assert predict(made, "other/S0.tiff", "S0.tiff")[0] == {"S0_2": "done", "S0": "done"}


def test_a_slide_given_twice_is_predicted_once(made, caplog):
    assert predict(made, "S1.tiff", "other/S0.tiff", out="twice")[0] == {"S1": "done"}
    assert "S0.tiff is the same slide as S1" in caplog.text


def test_a_threshold_or_a_lost_file_makes_it_again_and_a_slide_out_of_reach_keeps_its_name(made):
    predict(made, "S0.tiff", out="again")
    assert "(done before)" not in predict(made, "S0.tiff", out="again", threshold=0.3)[1][-1]
    (made / "again/geojson/S0.geojson").unlink()
    assert "(done before)" not in predict(made, "S0.tiff", out="again", threshold=0.3)[1][-1]
    (made / "S0.tiff").rename(made / "away")
    try:
        states, lines = predict(made, "S0.tiff", out="again")
        assert states == {"S0": "failed"} and "FAILED" in lines[-1]
        assert not (made / "again/geojson/S0.geojson").exists() and (made / "again/maps/S0.tif").exists()
    finally:
        (made / "away").rename(made / "S0.tiff")
    assert predict(made, "S0.tiff", out="again")[0] == {"S0": "done"}


def test_slides_that_others_hold_are_waited_for_and_not_made_twice(made):
    others = Claims(made / "shared/.claims")
    others.take("S0")
    lines = []
    thread = threading.Thread(target=lambda: lines.extend(predict(made, "S0.tiff", "S1.tiff", out="shared")[1]))
    thread.start()
    while not (made / "shared/status/S1.json").exists():
        thread.join(0.1)
    assert thread.is_alive() and not (made / "shared/status/S0.json").exists()
    others.release("S0")
    thread.join(60)
    assert [line.split(":")[0] for line in lines if line.startswith("S")] == ["S1", "S0"]


def test_what_failed_in_a_launch_is_not_tried_again_in_it(made):
    (made / "bad.svs").write_text("no slide")
    assert predict(made, "bad.svs", out="bad", launch="a")[0] == {"bad": "failed"}
    states, lines = predict(made, "bad.svs", out="bad", launch="a")
    assert states == {"bad": "failed"} and "(done before)" in lines[-1]
    assert "(done before)" not in predict(made, "bad.svs", out="bad", launch="b")[1][-1]


@pytest.mark.slow
def test_the_command_on_two_workers_leaves_what_one_process_leaves(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["predict", "S0.tiff", "S1.tiff", "S2.tiff", "--checkpoint", "checkpoint.pt", "--engine", "torch"]
    words += ["--precision", "exact", "--out"]
    assert CliRunner().invoke(app, [*words, "one"]).exit_code == 0
    result = CliRunner().invoke(app, [*words, "two", "--on", "local:2"])
    assert result.exit_code == 0, result.output
    for kind in ("maps/*.tif", "geojson/*.geojson"):
        ones = sorted((made / "one").glob(kind))
        assert len(ones) == 3
        for path in ones:
            assert path.read_bytes() == (made / "two" / path.relative_to(made / "one")).read_bytes(), path.name
    assert json.loads((made / "two/status/S2.json").read_text())["state"] == "done"
    assert not list((made / "two").glob(".tlskit-launch-*"))


#: Dies as by a power cut when it has read so many windows.
DIES = """
import os, signal, sys
from tlskit import __main__
from tlskit.slides import Slide

plain, left = Slide.windows, int(sys.argv.pop(1))

def windows(*args, **options):
    global left
    for item in plain(*args, **options):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

Slide.windows = windows
__main__.main()
"""


@pytest.mark.slow
def test_a_slide_with_a_context_killed_twice_leaves_the_identical_map(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_network("context.pt", magnification=2.0, context_ratio=4)
    words = ["predict", "S0.tiff", "--checkpoint", "context.pt", "--engine", "torch", "--precision", "exact", "--out"]
    whole = CliRunner().invoke(app, [*words, "context"])
    assert whole.exit_code == 0, whole.output
    for _ in range(2):  # blocks of the context are read as windows are
        killed = subprocess.run([sys.executable, "-c", DIES, "15", *words, "cut"], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert not (made / "cut/maps/S0.tif").exists()
    again = CliRunner().invoke(app, [*words, "cut"])
    assert again.exit_code == 0, again.output
    for name in ("maps/S0.tif", "geojson/S0.geojson"):
        assert (made / "context" / name).read_bytes() == (made / "cut" / name).read_bytes(), name


@pytest.mark.slow
def test_a_cascade_killed_in_both_stages_and_gone_on_with_by_workers_leaves_what_one_process_leaves(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    predict(made, "S0.tiff", out="coarse")
    with open_map(made / "coarse/maps/S0.tif") as found:  # the networks are untrained: what they mark is a texture
        middle = float(np.median(found.read(0, 0, *found.size_px))) / 255
    words = ["predict", "S0.tiff", "S1.tiff", "--checkpoint", "fine.pt", "--engine", "torch", "--precision", "exact"]
    words += [
        "--screen",
        "checkpoint.pt",
        "--screen-threshold",
        f"{middle + 1 / 255}",
        "--screen-grow-um",
        "0",
        "--out",
    ]
    whole = CliRunner().invoke(app, [*words, "whole"])
    assert whole.exit_code == 0, whole.output
    with open_map(made / "whole/screens/S0.tif") as coarse, open_map(made / "whole/maps/S0.tif") as fine:
        n_coarse, n_fine = coarse.metadata["windows"], fine.metadata["windows"]
        assert n_fine > 2 and fine.metadata["windows_screened"] > 0, "a screen that lets some through, and not all"

    # What its first run had finished the second one keeps, and so do the workers.
    for dies_at, has_coarse in ((n_coarse - 1, False), (n_coarse + n_fine - 1, True)):
        killed = subprocess.run([sys.executable, "-c", DIES, str(dies_at), *words, "killed"], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert (made / "killed/screens/S0.tif").exists() == has_coarse and not (made / "killed/maps/S0.tif").exists()
    kept_ns = (made / "killed/screens/S0.tif").stat().st_mtime_ns
    result = CliRunner().invoke(app, [*words, "killed", "--on", "local:2"])
    assert result.exit_code == 0, result.output
    assert (made / "killed/screens/S0.tif").stat().st_mtime_ns == kept_ns
    for kind in ("screens/*.tif", "maps/*.tif", "geojson/*.geojson"):
        ones = sorted((made / "whole").glob(kind))
        assert len(ones) == 2
        for path in ones:
            assert path.read_bytes() == (made / "killed" / path.relative_to(made / "whole")).read_bytes(), path.name
    again = CliRunner().invoke(app, [*words, "killed"])
    assert again.output.count("(done before)") == 2, "one process takes what workers made for its own"


def test_windows_overlap_as_05_noted_for_this_network_unless_asked_otherwise(made):
    network = models.load_checkpoint(made / "checkpoint.pt")
    write_overlap(made / "overlap.json", 0.25, asked="auto", reason="enough", checkpoint=network)
    try:
        _, lines = predict(made, "S0.tiff", out="noted")
        assert "windows overlap by 0.25, as notebook 05 noted" in lines
        strides = {}
        for out, options in (("noted", {}), ("asked", {"overlap": 0.0})):
            predict(made, "S0.tiff", out=out, **options)
            with open_map(made / out / "maps/S0.tif") as found:
                strides[out] = found.metadata["parameters"]["stride_px"]
        assert strides == {"noted": 48, "asked": 64}
    finally:
        (made / "overlap.json").unlink()
