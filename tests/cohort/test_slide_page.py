"""The page of a cohort's slides, and slides without a manifest."""

import logging
import math

import pytest
from made_slides import picture, vips_slide
from made_tissue import section, slide_of

from tlskit.cohort import checks, from_slides, write_slide_page
from tlskit.errors import ScaleError
from tlskit.outlines import write_geojson


def test_slides_are_on_one_page_the_worst_first(tmp_path):
    from shapely.geometry import box

    slide_of(tmp_path / "good.tif", section("h&e")[0])
    slide_of(tmp_path / "brown.tif", section("dab")[0])
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no slide")
    for i, name in enumerate(("good", "brown", "broken")):
        write_geojson(tmp_path / f"{name}.geojson", [box(100 + i, 100, 160, 150)], class_name="TLS")
    lines = [f"{name},p_{name},lung,{name}.tif,{name}.geojson" for name in ("good", "brown", "broken")]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["slide_id,patient_id,cancer_type,slide_path,annotation_path", *lines]))
    table = checks.check_manifest(manifest, target_class="TLS", magnifications=(1,), tile_px=64)
    text = write_slide_page(manifest, table, tmp_path / "page.html", target_class="TLS").read_text(encoding="utf-8")
    assert text.index(">broken <") < text.index(">brown <") < text.index(">good <")
    assert text.count("<img alt=") == 2 and "no picture" in text
    assert "immunohistochemistry" in text and "8 um/px, from: openslide" in text and str(tmp_path) not in text


def test_a_given_um_per_px_counts_only_where_a_slide_says_nothing(tmp_path, caplog):
    says = vips_slide(tmp_path / "says.tif", picture(300, 260), mpp=0.25)
    silent = vips_slide(tmp_path / "silent.tif", picture(300, 260), description=False)
    with caplog.at_level(logging.WARNING):
        table = from_slides([says, silent], mpp_where_missing=0.5)
    assert math.isnan(table["mpp_override"][0]) and table["mpp_override"][1] == 0.5
    assert "0.25 um/px" in caplog.text and "0.5 was given" in caplog.text and "factor of 4" in caplog.text
    with pytest.raises(ScaleError, match="0.05 to 20"):
        from_slides([says], mpp_where_missing=0.0005)
