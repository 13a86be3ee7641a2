"""The page's Segment with a screen: a coarser network looks first, in a real browser."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from looking import painted, serious

from tlskit.cohort import from_slides
from tlskit.evaluation import stored_screens
from tlskit.maps import probmaps
from tlskit.networks import models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def screen(project):
    """Two untrained networks, and the screen that the run's notebook cascade would have stored for them."""
    from tlskit.maps import inference

    run_dir, networks = project / "outputs" / "made", {}
    before = (run_dir / "1x/work/checkpoint.pt").read_bytes()
    for name, magnification in (("1x", 1.0), ("4x", 4.0)):
        path = run_dir / name / "work" / "checkpoint.pt"
        networks[name] = models.Checkpoint(
            model=models.build_model(encoder="tu-mobilenetv3_small_050", encoder_weights="none"),
            encoder="tu-mobilenetv3_small_050", magnification=magnification, mpp=10 / magnification, tile_px=64,
            overlap=0.5, normalisation="divide_255", threshold=0.5, target_class="TLS", resolution_by="mpp",
            split_hash="0" * 64, history=pd.DataFrame({"epoch": [1]}),
        )  # fmt: skip
        models.save_checkpoint(path, networks[name])
        networks[name] = models.load_checkpoint(path)
    rows = from_slides([run_dir.parent / "cohorts/made/slides/S1.tiff"])
    exact = {"engine": "torch", "precision": "exact", "progress": False}
    (made,) = inference.predict_cohort(networks["1x"], rows, project / "first", **exact)["map_path"]
    with probmaps.open_map(made) as found:  # what an untrained network marks is a texture: the upper part of it
        upper = float(np.quantile(found.read(0, 0, *found.size_px), 0.98)) / 255
    row = {"coarse": "1x", "fine": "4x", "screen": "map", "screen_threshold": upper, "grow_um": 0.0}
    row |= {"windows_share": 0.3, "coarse_sha256": networks["1x"].sha256, "fine_sha256": networks["4x"].sha256}
    stored = run_dir / stored_screens.SCREENS
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps([row]))
    yield row
    shutil.rmtree(run_dir / "cascade")
    (run_dir / "4x/work/checkpoint.pt").unlink()
    (run_dir / "1x/work/checkpoint.pt").write_bytes(before)


def test_a_slide_is_segmented_where_a_coarser_model_looked_first(page, app_url, project, screen):
    page.goto(app_url)
    page.get_by_role("button", name="A slide from a folder").click()
    page.get_by_role("button", name="Segment", exact=True).wait_for()
    look = page.get_by_label("Look", exact=True)
    assert not look.is_visible(), "nothing is coarser than 1x"
    page.get_by_label("Model", exact=True).select_option(label="made, 4x")
    look.wait_for()
    look.select_option(label="where 1x finds something first, 30% of the windows")
    page.get_by_role("option", name="S1.tiff").locator("img[src]").wait_for()
    page.get_by_role("option", name="S1.tiff").dblclick()
    painted(page)
    page.get_by_role("button", name="Segment", exact=True).click()
    page.get_by_text("Done: S1.tiff. Move the threshold").wait_for(timeout=900_000)
    state = painted(page, map="4x")
    (made,) = (project / "outputs/segmented/made-4x-screened-by-1x").glob("S1-*.tif")
    with probmaps.open_map(made) as found:
        facts = found.metadata["parameters"]["screen"]
        assert (
            facts["checkpoint_sha256"] == screen["coarse_sha256"] and facts["threshold"] == screen["screen_threshold"]
        )
        assert int(state["hatched"]) == len(found.unseen) > 0 and found.metadata["windows"] > 0
    assert list((project / "outputs/segmented/made-1x").glob("S1-*.tif")), "the coarser network's map is kept, too"
    assert serious(page) == []
    page.screenshot(path=project / "screened.png", full_page=True)
    # Everywhere is another map: it is not there yet.
    look.select_option(label="everywhere")
    page.get_by_role("button", name="Segment", exact=True).wait_for()
