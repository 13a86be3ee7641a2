"""The presets of the controls, as `plan` would run them: what equal arms share is made once."""

from pathlib import Path

import pandas as pd
import pytest

from tlskit.study import keys, planning, sweep

ROOT = Path(__file__).resolve().parents[2]


def test_a_plan_of_many_arms_reads_the_code_of_a_step_once(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    read, of_a_step = [], keys.program
    monkeypatch.setattr(keys, "program", lambda step: read.append(step) or of_a_step(step))
    jobs = planning.plan(sweep.prepare(ROOT / "params" / "controls.yaml", {"outputs_dir": str(tmp_path)}))
    assert len(jobs) > 200 and sorted(read) == sorted({job.step for job in jobs})
    job = jobs[-1]
    assert job.key == keys.key_of(job.ingredients | of_a_step(job.step))


@pytest.mark.parametrize("name", ["controls", "controls_demo"])
def test_arms_that_differ_after_step_02_alone_tile_once(name, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    jobs = planning.plan(sweep.prepare(ROOT / "params" / f"{name}.yaml", {"outputs_dir": str(tmp_path)}))
    steps = pd.DataFrame([{"arm": j.arm, "step": j.step, "taken": bool(j.same_as)} | j.parameters for j in jobs])
    cut = steps[steps["step"] == "01_tiling"]
    kinds = cut.groupby(["magnification", "tile_px", "context_ratio"])["taken"]
    assert len(cut) > 3 * kinds.ngroups and (kinds.size() - kinds.sum() == 1).all()
    assert set(cut["keep_tiles"]) == {"tissue"}  # or arms with and without negatives would cut other tiles
    split = steps[steps["step"] == "02_patient_split"]
    assert (~split["taken"]).sum() == kinds.ngroups
    assert not steps.loc[steps["step"] == "03_training", "taken"].any()  # each arm is another network
