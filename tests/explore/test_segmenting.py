"""The process that segments one slide: its progress, its answer, and what it says where it cannot."""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tlskit.explore.segmenting import Job
from tlskit.maps import open_map
from tlskit.networks import models
from tlskit.slides.tiffs import write_slide

ENCODER = "tu-mobilenetv3_small_050"


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    pink = np.full((640, 640, 3), (215, 150, 190), np.uint8)
    return write_slide(tmp_path_factory.mktemp("slide") / "s.tiff", pink, mpp=1.0, objective_power=10)


def save_network(path, magnification=10):
    network = models.build_model(encoder=ENCODER, encoder_weights="none")
    models.save_checkpoint(
        path,
        models.Checkpoint(
            model=network, encoder=ENCODER, magnification=magnification, mpp=10 / magnification, tile_px=128,
            overlap=0.5, normalisation="divide_255", threshold=0.5, target_class="TLS", resolution_by="mpp",
            split_hash="0" * 64, history=pd.DataFrame({"epoch": [1]}),
        ),
    )  # fmt: skip


def test_a_job_counts_its_windows_and_leaves_a_map(slide_path, tmp_path):
    save_network(tmp_path / "c.pt")
    job = Job(slide_path, tmp_path / "c.pt", tmp_path / "maps" / "m.tif")
    assert job.wait(300) == "done", job.reason
    assert job.done == job.total == 81  # 9 x 9 windows, 64 px apart, all of tissue
    with open_map(tmp_path / "maps" / "m.tif") as found:
        assert found.size_px == (640, 640)


def test_another_network_says_first_where_a_job_looks_and_its_map_is_kept(slide_path, tmp_path):
    save_network(tmp_path / "fine.pt")
    save_network(tmp_path / "coarse.pt", magnification=2.5)
    coarse, networks = tmp_path / "coarse" / "m.tif", (slide_path, tmp_path / "fine.pt")
    nowhere = Job(*networks, tmp_path / "nowhere" / "m.tif", (tmp_path / "coarse.pt", 1.0, 0.0, coarse.parent))
    assert nowhere.screening, "it begins with the coarser one"
    assert nowhere.wait(300) == "done", nowhere.reason
    assert nowhere.total == 0 and not nowhere.screening
    with open_map(tmp_path / "nowhere" / "m.tif") as found, open_map(coarse) as first:
        assert found.unseen == [(0, 0, 640, 640)] and found.metadata["windows_screened"] == 81
        assert found.metadata["parameters"]["screen"]["checkpoint_sha256"] == first.metadata["checkpoint_sha256"]
    made_ns = coarse.stat().st_mtime_ns
    all_of_it = Job(*networks, tmp_path / "all" / "m.tif", (tmp_path / "coarse.pt", 0.0, 0.0, coarse.parent))
    assert all_of_it.wait(300) == "done", all_of_it.reason
    assert all_of_it.done == all_of_it.total == 81 and coarse.stat().st_mtime_ns == made_ns


def test_a_job_that_cannot_says_why(slide_path, tmp_path):
    job = Job(slide_path, tmp_path / "none.pt", tmp_path / "m.tif")
    assert job.wait(300) == "failed"
    assert "There is no checkpoint" in job.reason and job.total == 0


@pytest.mark.skipif(os.name != "posix", reason="only there a process can be killed so")
def test_a_job_that_the_machine_kills_says_that_memory_ran_out(slide_path, tmp_path):
    job = Job(slide_path, tmp_path / "none.pt", tmp_path / "m.tif")
    job._process.kill()
    assert job.wait(60) == "failed" and "memory ran out" in job.reason


def test_a_job_is_found_again_by_a_page_that_was_loaded_anew(slide_path, tmp_path):
    network = tmp_path / "c.pt"
    save_network(network)
    out = tmp_path / "segmented" / "made-10x" / "m.tif"
    first = Job(slide_path, network, out)
    (again,) = Job.running(tmp_path / "segmented")
    assert again._process.pid == first._process.pid and again.slide_path == slide_path and again.out_path == out
    assert Job(slide_path, network, out)._process.pid == first._process.pid  # nor is it begun twice
    assert again.wait(300) == "done" and again.done == 81, again.reason
    assert out.is_file() and not [path for path in out.parent.iterdir() if path.name.startswith(".m")]
    assert Job.running(tmp_path / "segmented") == []


@pytest.mark.skipif(os.name != "posix", reason="groups of processes")
def test_a_job_that_nobody_follows_ends(tmp_path):
    note = tmp_path / ".m.job.json"
    note.touch()
    os.utime(note, (0, 0))
    code = "import sys, pathlib; from tlskit.explore import segmenting as s; s._leave_alone(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(note)], start_new_session=True, timeout=60)
    assert done.returncode == -signal.SIGTERM
