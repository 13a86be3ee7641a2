"""Slides copied ahead of their use, and removed after it."""

import gc
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from made_slides import picture, vips_slide

from tlskit.cohort import from_slides, open_row, slide_rows
from tlskit.errors import ParameterError, SlideError
from tlskit.slides import staging


@pytest.fixture
def slides(tmp_path):
    """Rows of three slides on slow storage."""
    (tmp_path / "slow").mkdir()
    paths = [vips_slide(tmp_path / "slow" / f"s{n}.tif", picture(600, 500, seed=n)) for n in range(3)]
    return list(slide_rows(from_slides(paths)))


@pytest.fixture
def fast(tmp_path, monkeypatch):
    monkeypatch.setenv("FAST", str(tmp_path / "fast"))
    monkeypatch.setenv(staging.VARIABLE, "$FAST")
    yield tmp_path / "fast"
    monkeypatch.delenv(staging.VARIABLE)
    staging.current()  # what was staged goes


def copies(fast: Path) -> list[str]:
    return sorted(path.name for path in fast.rglob("*.tif"))


def wait_for(found) -> None:
    deadline = time.monotonic() + 20
    while not found() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found()


def test_without_a_stage_a_slide_is_read_where_it_lies(slides, monkeypatch):
    monkeypatch.delenv(staging.VARIABLE, raising=False)
    with open_row(slides[0]) as slide:
        assert slide.path == Path(slides[0].slide_path)


def test_a_copy_is_read_and_gives_the_same_pixels(slides, fast):
    with open_row(slides[0]) as slide:
        assert slide.path.is_relative_to(fast)
        staged = slide.read(0, 0, 300, 250, mpp=0.5)
    os.environ[staging.VARIABLE] = ""
    with open_row(slides[0]) as slide:
        assert np.array_equal(staged, slide.read(0, 0, 300, 250, mpp=0.5))


def test_the_next_slide_is_copied_while_one_is_in_use(slides, fast):
    staging.announce([row.slide_path for row in slides])
    with open_row(slides[0]):
        wait_for(lambda: copies(fast) == ["s0.tif", "s1.tif"])
    # The one that another process has taken is passed over.
    staging.announce([row.slide_path for row in slides], skip=lambda path: path.name == "s1.tif")
    with open_row(slides[0]):
        wait_for(lambda: copies(fast) == ["s0.tif", "s1.tif", "s2.tif"])


def test_copies_that_nobody_uses_make_room_and_those_in_use_stay(slides, fast, monkeypatch):
    usage = namedtuple("usage", "total used free")
    room = Path(slides[0].slide_path).stat().st_size * 2.5

    def of_two_slides(folder):
        held = sum(path.stat().st_size for path in fast.rglob("*") if path.is_file())
        return usage(room, held, room - held)

    monkeypatch.setattr(staging.shutil, "disk_usage", of_two_slides)
    with open_row(slides[0]) as first:
        with open_row(slides[1]):
            with open_row(slides[2]) as third:  # no room: read where it lies
                assert third.path == Path(slides[2].slide_path)
        gc.collect()
        with open_row(slides[2]) as third:
            assert third.path.is_relative_to(fast) and first.path.is_file()
    assert copies(fast) == ["s0.tif", "s2.tif"]


def test_a_mirax_slide_takes_its_folder_along_and_others_in_parts_stay(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Dat.dat").write_bytes(b"x" * 100)
    for name in ("a.mrxs", "b.vms"):
        (tmp_path / name).write_bytes(b"y")
    stage = staging.Stage(tmp_path / "fast")
    copy = stage.local(tmp_path / "a.mrxs")
    assert copy.is_file() and (copy.with_suffix("") / "Dat.dat").read_bytes() == b"x" * 100
    assert stage.local(tmp_path / "b.vms") == tmp_path / "b.vms"
    assert stage.local(tmp_path / "none.tif") == tmp_path / "none.tif"  # opening it says what is wrong
    stage.close()
    assert not list((tmp_path / "fast").iterdir())


def test_a_slide_that_cannot_be_read_is_that_slides_error(slides, fast, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(SlideError, match="s0.tif: it could not be copied"):
        open_row(slides[0])


def test_a_folder_that_cannot_be_used_is_refused(slides, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(staging.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ParameterError, match="`--stage`: nothing can be written into"):
        open_row(slides[0])


def test_nothing_is_left_by_a_process_that_ends_or_was_killed(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tlskit.slides import staging\n"
        "Path('s.tif').write_bytes(b'x')\nstage = staging.Stage('fast')\nprint(stage.local('s.tif').is_file())\n"
        "if sys.argv[1] == 'kill': os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    def run(how):
        return subprocess.run([sys.executable, "-c", code, how], cwd=tmp_path, capture_output=True, text=True)

    assert run("end").stdout == "True\n" and not list((tmp_path / "fast").iterdir())
    assert run("kill").returncode == -9 and len(list((tmp_path / "fast").iterdir())) == 1
    assert run("end").stdout == "True\n" and not list((tmp_path / "fast").iterdir())
