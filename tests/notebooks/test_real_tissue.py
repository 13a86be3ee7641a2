"""The same study on real tissue: six regions of a tonsil, and a real Aperio slide."""

from pathlib import Path

import pandas as pd
import pytest

from tlskit.cohort import manifest as cohort
from tlskit.maps import inference
from tlskit.networks import models
from tlskit.slides import tissue
from tlskit.study import runs, sweep
from tlskit.tiles import tiling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]


def test_the_study_runs_on_tonsil_at_4x_2x_and_1x(real_data, tmp_path):
    preset = sweep.prepare(
        ROOT / "params" / "smoke.yaml",
        {
            "run_name": "tonsil",
            "manifest": str(real_data / "tonsil" / "manifest.csv"),
            "outputs_dir": str(tmp_path),
            "target_class": "Germinal Center",
            "window_overlap": 0.125,
            "overlap_slides": 0,  # comparing overlaps costs more than the rest, and the smoke study does it
        },
    )
    preset["sweep"] = {"magnification": [4, 2, 1]}
    status = sweep.run_sweep(preset)
    assert (status["status"] == "done").all(), status.to_string()
    run = tmp_path / "tonsil"
    assert len(runs.read_status(run)) == 3 * 6 + 2  # the cascade and the comparison
    table = pd.read_csv(run / "compare" / "tables" / "table_one.csv")
    assert {"4x", "2x", "1x"} <= set(table["arm"])
    targets = pd.read_csv(run / "4x" / "tables" / "01_tiles_per_slide.csv")
    # Counted in the GeoJSON files: 4 + 17 + 3 + 4 + 8 + 4 germinal centres.
    assert targets["n_targets"].sum() == 40
    assert (targets["mpp0"] - 2.324).abs().max() < 0.001


@pytest.mark.parametrize("magnification", [20, 10, 4, 1])
def test_a_real_aperio_slide_is_tiled_and_mapped(real_data, tmp_path, magnification):
    manifest = tmp_path / "manifest.csv"
    slide_path = real_data / "slides" / "CMU-1-Small-Region.svs"
    outline = tmp_path / "none.geojson"
    outline.write_text('{"type": "FeatureCollection", "features": []}')
    manifest.write_text(
        f"slide_id,patient_id,cancer_type,slide_path,annotation_path\ncmu,p,skin,{slide_path},{outline}\n"
    )
    slides = cohort.read_manifest(manifest)
    tile_px = 64
    tiled = tiling.tile_cohort(
        slides, magnification=magnification, tile_px=tile_px, target_class="TLS", keep_tiles="tissue", edge_tiles="pad"
    )
    assert len(tiled.tiles) > 0
    checkpoint = untrained(magnification, tile_px)
    with cohort.open_row(next(cohort.slide_rows(slides))) as slide:
        prediction = inference.predict_slide(
            checkpoint, slide, tmp_path / "map.tif", overlap=0.0, tissue=tissue.tissue_mask(slide), progress=False
        )
        assert prediction.windows > 0
        assert prediction.path.is_file()


def untrained(magnification: float, tile_px: int) -> models.Checkpoint:
    """A checkpoint of a network that has learnt nothing."""
    return models.Checkpoint(
        model=models.build_model(encoder="efficientnet-b0", encoder_weights="none"),
        encoder="efficientnet-b0",
        magnification=magnification,
        mpp=10 / magnification,
        tile_px=tile_px,
        overlap=0.5,
        normalisation="divide_255",
        threshold=0.5,
        target_class="TLS",
        resolution_by="mpp",
        split_hash="",
        history=pd.DataFrame(),
        params={},
        sha256="",
    )
