"""Whole runs of the study, made once for all tests that look at them."""

from pathlib import Path

import pytest

from tlskit.study import sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """Folder of the preset `smoke`, swept over a synthetic cohort with real kernels."""
    from tlskit.synthetic import cohort as synthetic

    folder = tmp_path_factory.mktemp("smoke")
    manifest = synthetic.make_cohort(folder / "cohort", n_patients=6, slide_mm=(1.3, 1.5), seed=1, workers=2)
    preset = sweep.prepare(
        ROOT / "params" / "smoke.yaml", {"manifest": str(manifest), "outputs_dir": str(folder / "outputs")}
    )
    status = sweep.run_sweep(preset)
    assert (status["status"] == "done").all(), status.to_string()
    return folder / "outputs" / "smoke"


@pytest.fixture(scope="session")
def real_data():
    """Folder of real slides and outlines beside the project; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real slides are not at ../shared/data")
    return folder
