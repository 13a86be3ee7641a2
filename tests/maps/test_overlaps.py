"""Maps of several overlaps from one pass: each is what it would have been alone."""

from pathlib import Path

import pytest
from made_context import checkpoint as context_checkpoint
from made_maps import ArraySlide, Constant, Context, checkpoint, picture, slide_row

from tlskit.errors import ParameterError, RunError
from tlskit.maps import inference, open_map, overlaps
from tlskit.networks import engines
from tlskit.slides import open_slide

EXACT = {"engine": "torch", "precision": "exact"}


def source_for(network):
    return engines.EngineSource(network, window_px=network.tile_px, device="cpu", **EXACT)


def test_one_pass_makes_the_maps_that_each_overlap_makes_alone_to_the_last_byte(tmp_path, painted):
    """Several strips with sums carried from one to the next, at strides that share few multiples."""
    network = checkpoint(Context(), magnification=4)
    paths = {overlap: tmp_path / f"{overlap}.tif" for overlap in (0.0, 0.25, 0.5, 0.75)}
    with open_slide(painted[0]) as slide:
        made = overlaps.predict_overlaps(network, slide, paths, source_for(network), slide_id="s", strip_px=512)
    windows = {}
    for overlap, path in paths.items():
        alone = tmp_path / f"alone_{overlap}.tif"
        prediction = inference.predict_slide(
            network, painted[0], alone, slide_id="s", overlap=overlap, progress=False, **EXACT
        )
        assert path.read_bytes() == alone.read_bytes()
        windows[overlap] = prediction.windows
    # 3/4 holds all the others but for what they have beyond the edge; a quarter and a half apart would take more
    assert windows[0.75] <= made < 1.1 * windows[0.75]


def test_windows_that_several_overlaps_share_are_run_once(tmp_path, painted, monkeypatch):
    network, passes = checkpoint(Constant(0.3), magnification=4), []
    whole = overlaps.predict_overlaps
    monkeypatch.setattr(overlaps, "predict_overlaps", lambda *a, **b: passes.append(whole(*a, **b)))
    table = overlaps.map_overlaps(network, [slide_row("s", painted[0])], tmp_path, **EXACT)
    windows = table.set_index("overlap")["windows"]
    assert list(table["overlap"]) == [0.0, 0.25, 0.5]
    assert windows[0.0] < windows[0.25] < windows[0.5] < 4.6 * windows[0.0]
    assert windows[0.5] < passes[0] < 1.5 * windows[0.5] < 0.9 * windows.sum()


def test_the_chosen_map_is_kept_by_the_cohorts_own_run(tmp_path, painted):
    network = checkpoint(Constant(0.3), magnification=4)
    table = overlaps.map_overlaps(network, [slide_row("s", painted[0])], tmp_path, **EXACT)
    maps = table.loc[table["overlap"] == 0.25, "map_path"].item()
    found = inference.predict_cohort(
        network, [slide_row("s", painted[0])], tmp_path / "0.25", overlap=0.25, progress=False, **EXACT
    )
    assert found["kept"].all() and found["map_path"].item() == maps


def test_a_slide_that_cannot_be_read_is_told_and_the_others_are_measured(tmp_path, painted):
    broken, failed = tmp_path / "broken.tif", []
    broken.write_bytes(b"no slide")
    rows = [slide_row("b", broken), slide_row("s", painted[0])]
    table = overlaps.map_overlaps(
        checkpoint(Constant(0.3)), rows, tmp_path, on_failure=lambda *said: failed.append(said[0]), **EXACT
    )
    assert failed == ["b"] and set(table["slide_id"]) == {"s"}


def test_a_region_that_cannot_be_read_is_invalid_in_every_map(tmp_path):
    slide, network = ArraySlide(picture(400, 300), lost_box=(100, 100, 30, 30)), checkpoint(Constant(0.3))
    paths = {overlap: tmp_path / f"{overlap}.tif" for overlap in (0.0, 0.5)}
    overlaps.predict_overlaps(network, slide, paths, source_for(network), slide_id="s", tissue=False)
    for path in paths.values():
        with open_map(path) as found:
            inside = [x <= 115 < x + w and y <= 115 < y + h for x, y, w, h in found.invalid]
            assert any(inside) and found.metadata["windows_lost"] > 0


def test_a_pass_that_is_cut_off_leaves_nothing_and_maps_that_are_there_are_kept(tmp_path, painted, monkeypatch):
    network, rows, left = checkpoint(Context(), magnification=4), [slide_row("s", painted[0])], [40]
    source = engines.EngineSource

    class Dies(source):
        def get(self, windows):
            made = super().get(windows)
            submit = made.submit

            def submitted(batch):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return submit(batch)

            made.submit = submitted
            return made

    monkeypatch.setattr(engines, "EngineSource", Dies)
    with pytest.raises(KeyboardInterrupt):
        overlaps.map_overlaps(network, rows, tmp_path, **EXACT)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()] and left[0] < 0
    monkeypatch.setattr(engines, "EngineSource", source)
    made = overlaps.map_overlaps(network, rows, tmp_path, **EXACT)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(stamps) == 3
    assert overlaps.map_overlaps(network, rows, tmp_path, **EXACT).equals(made)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == stamps


def test_where_overlaps_share_no_windows_each_is_run_by_itself(tmp_path, painted):
    """A network beside the context of another window, which depends on all windows of its map."""
    network = context_checkpoint(of="other", ratio=2, context_px=32, magnification=4)
    made = overlaps.map_overlaps(network, [slide_row("s", painted[0])], tmp_path, overlaps=(0.0, 0.5), **EXACT)
    alone = tmp_path / "alone.tif"
    inference.predict_slide(network, painted[0], alone, slide_id="s", overlap=0.5, progress=False, **EXACT)
    assert Path(made.set_index("overlap")["map_path"][0.5]).read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("paths", "more"), [({0.3: "a"}, {}), ({0.5: "a"}, {"context_ratio": 4, "context_of": "other"})]
)
def test_overlaps_that_share_no_windows_are_refused(paths, more):
    network = checkpoint(Constant(0.3), **more)
    with pytest.raises(ParameterError, match="overlaps share no|whole quarters"):
        overlaps.predict_overlaps(network, None, paths, None, slide_id="s")


def test_the_noted_overlap_holds_for_its_network_alone(tmp_path):
    network = checkpoint(Constant(0.3))
    beside = tmp_path / "checkpoint.pt"
    assert overlaps.noted_overlap(beside, network) == (None, "as in training")
    with pytest.raises(RunError, match="05_wsi_evaluation"):
        overlaps.noted_overlap(beside, network, "auto")
    overlaps.write_overlap(tmp_path / "overlap.json", 0.25, asked="auto", reason="x", checkpoint=network)
    assert overlaps.noted_overlap(beside, network)[0] == overlaps.noted_overlap(beside, network, "auto")[0] == 0.25
    assert overlaps.noted_overlap(beside, network, 0.5)[0] == 0.5
    network.sha256 = "1" * 64
    assert overlaps.noted_overlap(beside, network)[0] is None
