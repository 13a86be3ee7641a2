"""A disk that fills up: one clear error, nothing broken under a final name, and only the rest to do afterwards."""

import errno
import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from made_disk import NoSmallDisk, enlarge, small_disk
from made_project import sweep_command, sweep_environment, write_archiving_project

from tlskit.errors import DiskFullError, SlideError
from tlskit.files import is_disk_full, write_text, writing
from tlskit.maps import map_writer, probmaps
from tlskit.study import runs


@pytest.fixture
def disk(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 2) as folder:
            yield folder
    except NoSmallDisk as error:
        pytest.skip(f"a small tmpfs cannot be mounted here: {error}")


def noise(blocks):
    return np.random.default_rng(0).integers(1, 255, (blocks, 256, 256), dtype=np.uint8)


def test_a_file_that_finds_no_room_leaves_the_old_one_as_it_was(disk):
    path = write_text(disk / "tables" / "t.csv", "old\n")
    with pytest.raises(DiskFullError, match=r"t.csv: there is no room left to write it \(\d\.\d MB are free"):
        write_text(path, "x" * 3_000_000)
    assert path.read_text() == "old\n" and [p.name for p in path.parent.iterdir()] == ["t.csv"]
    table = pd.DataFrame({"v": np.random.default_rng(0).random(400_000)})
    with pytest.raises(DiskFullError), writing(disk / "t.parquet") as temporary:  # out of a library's own writer
        table.to_parquet(temporary)
    assert not list(disk.glob("*.parquet"))


def test_a_map_that_finds_no_room_is_taken_up_where_it_was_left(disk):
    blocks, path = noise(40), disk / "m.tif"

    def write(blocks):
        with map_writer.MapWriter(path, (256 * 40, 256), mpp=1.0, block_px=256, resume=True) as writer:
            had = len(writer.notes)
            for column, block in enumerate(blocks):
                if column not in writer.notes:
                    writer.write_block(256 * column, 0, block)
                    writer.commit(column)
        return had

    with pytest.raises(OSError) as caught:
        write(blocks)
    assert is_disk_full(caught.value) and not path.exists()
    enlarge(disk, 20)
    assert 10 < write(blocks) < 40
    with probmaps.open_map(path) as found:
        assert np.array_equal(found.read(0, 0, 256 * 40, 256), np.concatenate(blocks, axis=1))
    assert [p.name for p in disk.iterdir()] == ["m.tif"]


def test_a_slide_is_not_blamed_for_a_full_disk(tmp_path):
    run = runs.open_run("r", "05_wsi_evaluation", magnification=4, outputs_dir=tmp_path)
    with pytest.raises(DiskFullError, match="run the same command again"):
        run.failed("s1", OSError(errno.ENOSPC, "No space left on device"))
    run.failed("s2", SlideError("s2.svs: there is no such slide file."))
    assert list(runs.read_status(run.dir)["slide_id"]) == ["", "s2"]


@pytest.mark.slow
def test_a_sweep_that_fills_the_disk_stops_and_later_does_only_what_is_missing(disk, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    write_archiving_project(project)
    (project / "outputs").symlink_to(disk)
    options = {"cwd": project, "env": sweep_environment(), "capture_output": True, "text": True}
    command = sweep_command("-p", "magnification=4")
    stopped = subprocess.run(command, **options)
    assert stopped.returncode == 2 and "Traceback" not in stopped.stderr
    assert "there is no room left to write it" in stopped.stderr and "goes on from there" in stopped.stderr
    whole_files(disk)
    before = runs.read_status(disk / "r").set_index("step")["status"]
    assert before["01_tiling"] == "done" and before["02_patient_split"] == "running"

    enlarge(disk, 60)
    again = subprocess.run(command, **options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before, skipped") == 1
    assert (runs.read_status(disk / "r")["status"] == "done").all()
    whole_files(disk)
    assert len(list((disk / "r").glob("*/tables/*.csv"))) == 12 + 1 + 1 and (disk / "r/4x/work/maps/s1.tif").is_file()
    assert not list(disk.rglob("*.part"))


def whole_files(folder):
    """Whatever stands under a final name can be read to its end."""
    for path in folder.rglob("*"):
        if path.suffix == ".csv":
            assert path.read_text().endswith("\n") and len(pd.read_csv(path)) > 0
        elif path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text())
        elif path.suffix == ".parquet":
            pd.read_parquet(path)
        elif path.suffix == ".tif":
            with probmaps.open_map(path) as found:
                found.read(0, 0, *found.size_px)
        assert not path.name.startswith(".tmp-")
