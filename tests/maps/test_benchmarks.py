"""The benchmarks of inference on small sizes: what is run once in a long while is broken without a word in between."""

import pytest

from tests.benchmarks import bench_context, bench_inference, harness, made
from tlskit.maps import slide_inference


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "WORK", tmp_path)
    monkeypatch.setattr(made, "WORK", tmp_path)
    return made.halving(2_048)


def test_a_network_that_costs_nothing_runs_over_a_slide(slide, monkeypatch):
    # As on a large slide: there an engine is looked at again.
    monkeypatch.setattr(slide_inference, "count_to_check", lambda planned, path: 1)
    run = bench_inference.null_run(slide, made.MPP0)
    assert run["windows"] > 1 and run["wall_s"] > 0 and run["map_px"] == (2_048, 2_048)
    assert bench_context.null_run(slide)["windows"] > 1


def test_parts_are_kept_though_a_later_one_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "OUTPUTS", tmp_path)

    def fails(repeats):
        raise RuntimeError("no slide")

    with pytest.raises(RuntimeError, match="no slide"):
        harness.report_parts("b", [lambda repeats: ({"rate": 2.0}, {"wall": [1.0] * repeats}), fails], 3)
    assert '"rate": 2.0' in (tmp_path / "b.json").read_text() and capsys.readouterr().out == "rate: 2\n"
