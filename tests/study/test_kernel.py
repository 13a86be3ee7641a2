"""One notebook through papermill."""

import json
import shutil

import papermill
from made_project import PARAMETERS, notebook, write_project

from tlskit.study import kernel, keys


def test_a_kernel_that_is_slow_to_start_is_waited_for(tmp_path, monkeypatch):
    """On a busy machine imports alone may take minutes; papermill's own minute would end the whole sweep."""
    asked = {}

    def execute(source, target, **options):
        asked.update(options)
        shutil.copy(source, target)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    assert kernel.execute("01_tiling", tmp_path / "01_tiling.ipynb", {}, attempt="a", title="4x") == ""
    assert asked["start_timeout"] == kernel.START_S >= 600
    assert (tmp_path / "01_tiling.ipynb").is_file() and keys.notebook_path("01_tiling").is_file()


def test_a_kernel_ends_without_a_search_for_cycles_and_loses_nothing_by_it(tmp_path, monkeypatch):
    left = """
class Ring:
    def __del__(self):
        open("searched.txt", "w").close()

ring = Ring()
ring.itself = ring
kept = open("kept.txt", "w")
written = kept.write("to its end")
"""
    write_project(tmp_path, notebook(PARAMETERS, (left, [])), *[notebook(PARAMETERS)] * 2)
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "outputs/01_tiling.ipynb"
    assert kernel.execute("01_tiling", output, {}, attempt="a", title="4x") == ""
    assert (tmp_path / "kept.txt").read_text() == "to its end"
    assert not (tmp_path / "searched.txt").exists()
    shown = [cell["outputs"] for cell in json.loads(output.read_text())["cells"]]
    assert not any(shown), shown
