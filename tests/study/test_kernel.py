"""One notebook through papermill."""

import shutil

import papermill

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
