"""The loop that people want, on files: export, train, predict, import, correct some, export again."""

import csv
import json
import shutil
import sys

import pytest
from made_qupath import NO_GROOVY, Project, has_groovy, image
from made_training import write_cohort

from tlskit import __main__, cohort
from tlskit.networks import training
from tlskit.outlines import qupath, read_annotations, read_truth
from tlskit.tiles import tile_cohort

DRAWN, FRESH = ("a0", "a1", "a2"), ("b0", "b1", "b2", "b3", "b4")
SPLIT = dict(zip(DRAWN, ("train", "train", "val"), strict=True))


@pytest.fixture
def project(tmp_path):
    """Three slides that a person has outlined, five that nobody has opened, of 320 x 192 um at 1 um/px."""
    images = []
    for seed, names in enumerate((DRAWN, FRESH[:3], FRESH[3:])):
        (tmp_path / str(seed)).mkdir()
        _, slides = write_cohort(tmp_path / str(seed), seed)
        for name, row in zip(names, slides.itertuples(), strict=False):
            path = tmp_path / f"{name}.tiff"
            shutil.move(row.slide_path, path)
            outlines = read_annotations(row.annotation_path).outlines
            rings = [list(outline.geometry.exterior.coords)[:-1] for outline in outlines]
            objects = [{"type": "annotation", "class": "TLS", "ring": ring} for ring in rings]
            held = {"uri": path.as_uri(), "width": 320, "height": 192, "mpp": 1.0}
            held |= {"saved": True, "objects": objects} if name in DRAWN else {}
            images.append(image(name, **held) | {"name": f"{name}.tiff"})
    return Project(tmp_path / "project", images)


def tiles_of(slides):
    """Tiles of the slides that have outlines, and the ids of those slides."""
    rows = slides[slides["annotation_path"] != ""]
    tiles = tile_cohort(rows, magnification=10, tile_px=64, target_class="TLS").tiles
    return tiles, sorted(tiles["slide_id"].unique())


def train(slides, out_path):
    """A network of the slides that have outlines, split by hand; the ids of those."""
    tiles, used = tiles_of(slides)
    tiles["split"] = tiles["patient_id"].map(SPLIT)
    training.train(
        tiles, slides, out_path=out_path, magnification=10, tile_px=64, overlap=0.5, target_class="TLS",
        encoder="tu-mobilenetv3_small_050", encoder_weights="none", epochs=2, steps_per_epoch=8, batch_size=4,
        learning_rate=1e-2, precision="exact", augment=True, seed=1, device="cpu", split_hash="hash",
    )  # fmt: skip
    return used


def manifest_of(project):
    path = project.folder / "tlskit" / "manifest.csv"
    with open(path, newline="") as file:
        reviewed = {row["slide_id"]: (row["reviewed"], row["annotation_path"]) for row in csv.DictReader(file)}
    print("\n".join(path.read_text().replace(str(project.folder.parent), "...").splitlines()), end="\n\n")
    return cohort.read_manifest(path), reviewed


@pytest.mark.skipif(not has_groovy(), reason=NO_GROOVY)
def test_nothing_predicted_is_truth_unless_a_person_touched_it(project, tmp_path, monkeypatch):
    version = "0.3"  # the study's own
    results = tmp_path / "results"
    export, bring_in, _ = qupath.write_scripts(tmp_path / "scripts", arm=results)
    unseen = {name: ("unseen", "") for name in FRESH}
    given = {name: ("drawn", f"{name}.geojson") for name in DRAWN}

    project.run(export, version)
    slides, reviewed = manifest_of(project)
    assert reviewed == given | unseen
    assert train(slides, tmp_path / "first.pt") == list(DRAWN)

    words = ["predict", *(str(tmp_path / f"{name}.tiff") for name in FRESH), "--checkpoint", str(tmp_path / "first.pt")]
    words += ["--out", str(results), "--threshold", "0.3", "--min-object-um2", "200", "--engine", "torch"]
    monkeypatch.setattr(sys, "argv", ["tlskit", *words])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert not ended.value.code
    empty = results / "geojson" / "b4.geojson"  # one slide in which nothing was found
    empty.write_text(json.dumps(json.loads(empty.read_text()) | {"features": []}))

    said = project.run(bring_in, version)
    assert "b4: no outline; not saved" in said
    project.run(export, version)
    slides, reviewed = manifest_of(project)
    waiting = unseen | {name: ("predicted", "") for name in FRESH[:4]}
    assert reviewed == given | waiting

    # A person opens two: one prediction is right, the others are deleted; in the other slide a target is drawn.
    first = project.images["b0"]["objects"]
    assert first and {o["class"] for o in first} == {"predicted TLS 10x"}
    project.change("b0", objects=[first[0] | {"class": "TLS"}])
    ring = [[40, 40], [70, 40], [70, 70], [40, 70]]
    project.change(
        "b1", objects=[*project.images["b1"]["objects"], {"type": "annotation", "class": "TLS", "ring": ring}]
    )

    project.run(export, version)
    slides, reviewed = manifest_of(project)
    assert reviewed == given | waiting | {name: ("corrected", f"{name}.geojson") for name in ("b0", "b1")}
    for row in cohort.slide_rows(slides[slides["annotation_path"] != ""]):
        with cohort.open_row(row) as slide:
            truth = read_truth(row, slide, "TLS")
        assert not truth.told and bool(truth.polygons)
        if row.slide_id.startswith("b"):
            assert len(truth.polygons) == 1
    assert tiles_of(slides)[1] == [*DRAWN, "b0", "b1"]

    # Once more, with the same results: what the person did stands.
    said = project.run(bring_in, version)
    project.run(export, version)
    assert manifest_of(project)[1] == reviewed
