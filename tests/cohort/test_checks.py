"""A manifest with one of each fault, walked before a run."""

import json
import shutil

import numpy as np
import pytest
import pyvips
from shapely.affinity import scale, translate
from shapely.geometry import Polygon, box

from tlskit.cohort import checks
from tlskit.outlines import reading as annotations
from tlskit.slides.tiffs import write_slide

SIZE = (1200, 1000)
TARGET = box(300, 300, 700, 600)
HEADER = "slide_id,patient_id,cancer_type,slide_path,annotation_path,mpp_override\n"


def tissue(seed):
    rng = np.random.default_rng(seed)
    image = np.full((SIZE[1], SIZE[0], 3), 245, np.uint8)
    image[150:850, 150:1050] = rng.integers((170, 80, 130), (250, 160, 210), (700, 900, 3))  # pink, as with eosin
    return image


class Cohort:
    """Slides, outlines and rows of a manifest, made as a test asks for them."""

    def __init__(self, folder):
        self.folder, self.rows = folder, []

    def slide(self, name, *, seed=None, mpp=0.5, power=20, image=None):
        path = self.folder / f"{name}.tif"
        image = tissue(len(self.rows) if seed is None else seed) if image is None else image
        write_slide(path, image, mpp=mpp, objective_power=power)
        return path

    def outlines(self, name, polygons, class_name="TLS"):
        return annotations.write_geojson(self.folder / f"{name}.geojson", polygons, class_name=class_name)

    def row(self, name, *, patient=None, slide=None, outlines=None, mpp=""):
        slide = f"{name}.tif" if slide is None else slide
        outlines = f"{name}.geojson" if outlines is None else outlines
        self.rows.append(f"{name},{patient or 'p_' + name},lung,{slide},{outlines},{mpp}\n")

    def good(self, name, polygons=None, **options):
        self.slide(name, **options)
        own = [translate(TARGET, len(self.rows))]  # no two slides have the same outlines
        self.outlines(name, own if polygons is None else list(polygons))
        self.row(name)

    def check(self, **options):
        path = self.folder / "manifest.csv"
        path.write_text(HEADER + "".join(self.rows))
        return checks.check_manifest(
            path, **{"target_class": "TLS", "tile_px": 64, "magnifications": (10, 4), **options}
        )


@pytest.fixture
def made(tmp_path):
    return Cohort(tmp_path)


def problems(table, slide_id):
    rows = table[(table["slide_id"] == slide_id) & table["severity"].isin(["error", "warning"])]
    return list(zip(rows["severity"], rows["problem"], strict=True))


def said(table, slide_id, problem):
    rows = table[(table["slide_id"] == slide_id) & (table["problem"] == problem)]
    assert len(rows) == 1, table.to_string()
    return f"{rows['what'].iloc[0]} -> {rows['remedy'].iloc[0]}"


def test_slides_without_fault_have_one_row_each_that_says_what_was_found(made):
    for i in range(3):
        made.good(f"s{i}")
    table = made.check()
    assert list(table.columns) == ["severity", "slide_id", "problem", "what", "remedy"]
    assert list(table["severity"]) == ["note", "ok", "ok", "ok"]
    assert said(table, "", "split") == "Patients by set: train 1, val 1, test 1. -> "
    assert said(table, "s1", "ok") == "1200 x 1000 px at 0.5 um/px (openslide); 1 target, 0.03 mm2. -> "
    assert "0 errors, 0 warnings, 3 slides without either." in checks.as_text(table)


def every_fault(made):
    """One slide of each kind of fault, and two without."""
    made.good("good_1")
    made.good("good_2", [])
    made.outlines("missing", [translate(TARGET, 7, 9)])
    made.row("missing", slide="stray_clck.tif")
    made.outlines("no_drive", [translate(TARGET, 8, 9)])
    made.row("no_drive", slide="/no/such/drive/x.svs")
    made.outlines("windows", [translate(TARGET, 6, 9)])
    made.row("windows", slide="D:/scans/x.svs")
    made.outlines("broken", [translate(TARGET, 5, 9)])
    (made.folder / "broken.tif").write_bytes(b"II*\0 this is no slide")
    made.row("broken")
    pyvips.Image.new_from_array(tissue(50)).tiffsave(
        str(made.folder / "no_scale.tif"), tile=True, pyramid=True, compression="jpeg"
    )
    made.outlines("no_scale", [translate(TARGET, 8, 9)])
    made.row("no_scale")
    made.good("coarse", mpp=2.0, power=5)
    made.good("contradiction", mpp=0.5, power=5)
    made.slide("tiny", image=tissue(60)[400:520, 400:500])
    made.outlines("tiny", [box(10, 10, 60, 60)])
    made.row("tiny")
    made.slide("unlabelled")
    made.row("unlabelled", outlines="none.geojson")
    made.slide("not_outlined")
    made.rows.append("not_outlined,p_not_outlined,lung,not_outlined.tif,,\n")
    made.slide("cut_off")
    (made.folder / "cut_off.geojson").write_text('{"type": "FeatureCollection", "features": [')
    made.row("cut_off")
    made.slide("misnamed")
    made.outlines("misnamed", [TARGET], class_name="TLs")
    made.row("misnamed")
    made.slide("two_names")
    made.outlines("two_names", [TARGET, box(800, 300, 900, 400)], class_name=["TLS", "tls"])
    made.row("two_names")
    made.good("wrong_level", [box(4000, 2000, 4800, 3000)])
    made.good("shrunk", [box(20, 20, 36, 30)])
    made.good("on_glass", [box(0, 0, 1100, 120)])
    made.good("stray_click", [TARGET, box(500, 700, 502, 702)])
    made.good("twice", [TARGET, TARGET])
    made.slide("bow_tie")
    ring = list(Polygon([(300, 300), (700, 600), (700, 300), (300, 600)]).exterior.coords)
    (made.folder / "bow_tie.geojson").write_text(json.dumps(
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
         "properties": {"classification": {"name": "TLS"}}}
    ))  # fmt: skip
    made.row("bow_tie")
    made.good("twin")
    shutil.copy(made.folder / "twin.tif", made.folder / "twin_copy.tif")
    made.outlines("twin_copy", [translate(TARGET, 50)])
    made.row("twin_copy")
    made.rows.append("bad/id,p_x,lung,x.tif,,abc\n")


EXPECTED = {
    "good_1": [],
    "good_2": [],
    "missing": [("error", "slide")],
    "no_drive": [("error", "slide")],
    "windows": [("error", "slide")],
    "broken": [("error", "slide")],
    "no_scale": [("error", "scale")],
    "coarse": [("error", "scale")],
    "contradiction": [("warning", "scale")],
    "tiny": [("warning", "size")],
    "unlabelled": [("error", "outlines")],
    "not_outlined": [("warning", "outlines")],
    "cut_off": [("error", "outlines")],
    "misnamed": [("error", "class")],
    "two_names": [("warning", "class")],
    "wrong_level": [("error", "place")],
    "shrunk": [("warning", "area")],
    "on_glass": [("warning", "place")],
    "stray_click": [("warning", "area")],
    "twice": [("warning", "outlines")],
    "bow_tie": [("warning", "outlines")],
    "twin": [],
    "twin_copy": [],
}


def test_one_of_each_fault_is_found_at_its_slide_with_a_remedy(made):
    every_fault(made)
    table = made.check()
    found = {slide_id: problems(table, slide_id) for slide_id in EXPECTED}
    assert found == EXPECTED
    for slide_id, text in {
        "missing": "Is it stray_click.tif?",
        "no_drive": "is the drive mounted?",
        "windows": "It is a path of Windows",
        "coarse": "scanned at 2 um/px, too coarse for 10x. -> Ask for 5x or lower",
        "contradiction": "0.5 um/px (the slide's metadata) does not suit an objective of 5x",
        "tiny": "smaller than a tile of 64 px at 10x (50 x 60 px), 4x (20 x 24 px)",
        "unlabelled": "does not exist. -> Correct `annotation_path`",
        "not_outlined": "fill `annotation_path`",
        "cut_off": "Export it from QuPath again",
        "two_names": "It also holds 'tls' (1), the same name but for its spelling",
        "wrong_level": "divided by 4: they may be drawn on a copy",
        "shrunk": "All lie in the upper left corner",
        "on_glass": "of the targets' area is bare glass",
        "stray_click": "Of 2 targets, 1 smaller than 500 um2",
        "twice": "1 pair of outlines overlap (IoU up to 1.00): 2 outlines are 1 object",
        "bow_tie": "self-intersection; area",
    }.items():
        assert text in said(table, slide_id, EXPECTED[slide_id][0][1])
    assert "Is it 'TLs'?" in " ".join(table[table["slide_id"] == "misnamed"]["remedy"])
    assert "mpp_override" in said(table, "no_scale", "scale")
    whole = table[table["slide_id"] == ""]
    assert (whole["problem"] == "manifest").sum() == 2
    assert "row 25, column slide_id: 'bad/id'" in " ".join(whole["what"])
    assert "Slides twin, twin_copy are the same scan." in " ".join(whole["what"])
    assert list(table["severity"]) == sorted(table["severity"], key=checks.SEVERITIES.index)

    text = checks.as_text(table, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[0].startswith("ERROR")


def test_a_slide_and_its_outlines_can_both_be_at_fault(made):
    made.row("both", slide="no.tif", outlines="no.geojson")
    assert problems(made.check(), "both") == [("error", "slide"), ("error", "outlines")]


def test_a_damaged_slide_is_found_by_decoding_it(made):
    path = made.slide("damaged")
    made.outlines("damaged", [TARGET])
    made.row("damaged")
    content = bytearray(path.read_bytes())
    start = len(content) // 4
    content[start : start + len(content) // 4] = bytes(len(content) // 4)
    path.write_bytes(bytes(content))
    table = made.check(magnifications=(20,))
    assert problems(table, "damaged") == [("error", "pixels")]
    assert " cannot be read" in said(table, "damaged", "pixels")


def test_slides_without_targets_are_an_error_only_when_they_must_not_be(made):
    for i in range(3):
        made.slide(f"s{i}")
        made.outlines(f"s{i}", [translate(TARGET, i)], class_name="TLS" if i else "Tumour")
        made.row(f"s{i}")
    assert problems(made.check(), "s0") == [("error", "class")]
    table = made.check(missing_target="empty")
    assert problems(table, "s0") == []
    assert said(table, "s0", "ok").endswith("no target. -> ")


def test_a_class_that_no_slide_holds_and_an_ignored_class_that_none_has_are_told(made):
    for i in range(3):
        made.good(f"s{i}", [])
    table = made.check(ignore_class="Fold")
    text = " ".join(table[table["slide_id"] == ""]["what"])
    assert "No slide holds a target." in text and "No slide holds the ignored class 'Fold'." in text


def test_too_few_patients_to_split_are_an_error_of_the_cohort(made):
    made.good("only")
    assert problems(made.check(), "") == [("error", "split")]


def test_a_set_without_targets_and_a_patient_of_two_types_are_told(made):
    for i in range(4):
        made.good(f"s{i}", [TARGET] if i == 0 else [])
    made.rows[1] = made.rows[1].replace("p_s1,lung", "p_s0,breast")
    table = made.check()
    text = " ".join(table[table["slide_id"] == ""]["what"])
    assert "no outline of the target" in text and "Patient p_s0 has the cancer types breast, lung." in text


def test_outlines_of_another_scan_and_an_outline_that_covers_all_are_told(made):
    made.slide("a")
    points = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in TARGET.exterior.coords)
    (made.folder / "a.xml").write_text(
        f'<Annotations MicronsPerPixel="0.25"><Annotation Name="TLS"><Regions><Region Type="0"><Vertices>{points}'
        "</Vertices></Region></Regions></Annotation></Annotations>"
    )
    made.row("a", outlines="a.xml")
    made.good("b", [box(100, 100, 1100, 900)])
    table = made.check()
    assert "drawn on a scan of 0.25 um/px; this one has 0.5" in said(table, "a", "outlines")
    assert "more than half of the slide" in said(table, "b", "area")


def test_outlines_of_two_slides_are_an_error_by_name_and_by_content(made):
    """A path filled down in a spreadsheet, and a file copied under another slide's name."""
    made.good("a", [TARGET])
    made.good("b", [TARGET])
    made.slide("c")
    made.row("c", outlines="a.geojson")
    made.good("d")
    table = made.check()
    assert "stands in row 2 already; outlines are of one slide" in said(table, "", "manifest")
    assert said(table, "", "leak").startswith("Slides a, b have the same outlines, point for point.")
    assert (table["severity"] == "error").sum() == 2


def test_what_is_no_target_is_told_once_a_slide_and_what_may_be_one_is_a_warning(made):
    others = ["Tumour", "TLS: mature", "TLS (GC+)", "tls", "predicted TLS 4x", "Ignore*: Fold"]
    made.slide("a")
    boxes = [box(200 + 40 * i, 700, 230 + 40 * i, 730) for i in range(len(others))]
    made.outlines("a", [TARGET, *boxes], class_name=["TLS", *others])
    made.row("a")
    for i in range(2):
        made.good(f"s{i}")
    table = made.check(ignore_class="Ignore*")
    rows = table[(table["slide_id"] == "a") & (table["problem"] == "class")]
    assert list(rows["severity"]) == ["warning"] * 5 + ["note"]
    for what, name in zip(rows["what"], ("predicted TLS 4x", "TLS: mature", "tls", "TLS (GC+)", "Ignore*: Fold",
                                         "Tumour"), strict=True):  # fmt: skip
        assert repr(name) in what and "background" in what


def test_outlines_in_another_frame_are_doubted_by_what_the_picture_shows(made):
    """Every target darker than its surroundings; outlines in um, turned, turned over: inside the slide all the same."""
    image = tissue(7)
    image[320:440, 260:420] //= 2
    width, height = SIZE
    where = box(260, 320, 420, 440)
    frames = {
        "um": scale(where, 0.5, 0.5, origin=(0, 0)),
        "from_below": box(260, height - 440, 420, height - 320),
        "turned_180": box(width - 420, height - 440, width - 260, height - 320),
        "turned_90": box(height - 440, 260, height - 320, 420),
        "turned_270": box(320, width - 420, 440, width - 260),
        "right": where,
    }
    for name, outline in frames.items():
        made.good(name, [outline], image=image.copy() + np.uint8(len(made.rows)))
    table = made.check()
    words = {"um": "in um (divided by 0.5)", "from_below": "with y counted from below", "turned_180": "180 degrees",
             "turned_90": "by 90 degrees", "turned_270": "by 270 degrees"}  # fmt: skip
    for name, text in words.items():
        assert problems(table, name) == [("warning", "place")], name
        assert text in said(table, name, "place")
    assert problems(table, "right") == []


def test_a_manifest_that_cannot_be_read_is_one_row(tmp_path):
    table = checks.check_manifest(tmp_path / "no.csv", target_class="TLS")
    assert list(table["problem"]) == ["manifest"] and list(table["severity"]) == ["error"]
    (tmp_path / "no.csv").write_text("slide_id,patient_id\n")
    table = checks.check_manifest(tmp_path / "no.csv", target_class="TLS")
    assert set(table["problem"]) == {"manifest"} and len(table) == 4


def test_a_tile_larger_than_most_slides_is_said_once_for_all_of_them(made):
    for i in range(5):
        made.good(f"s{i}")
    table = made.check(tile_px=300, magnifications=(10, 4))
    assert said(table, "", "size").startswith(
        "5 of 5 slides are smaller than a tile of 300 px: 5 at 4x. s0, s1, s2, s3, s4. -> No tile is kept"
    )
    assert list(table["severity"]) == ["warning", "note", *["ok"] * 5]


def test_paths_stand_as_in_the_manifest(made):
    made.row("both", slide="no.tif", outlines="no.geojson")
    table = made.check()
    assert said(table, "both", "slide").startswith("no.tif: there is no such slide file.")
    assert said(table, "both", "outlines").startswith("no.geojson does not exist.")


def test_slides_without_an_icc_profile_are_named_where_colours_are_to_be_corrected(made):
    for i in range(3):
        made.good(f"s{i}")
    assert "colour" not in set(made.check()["problem"])
    assert "3 of 3 slides carry no ICC profile: s0, s1, s2." in said(made.check(apply_icc=True), "", "colour")


def test_a_slide_of_ignored_areas_alone_is_no_fault(made):
    for i in range(3):
        made.slide(f"s{i}")
        made.outlines(f"s{i}", [TARGET], class_name="Fold" if i else "TLS")
        made.row(f"s{i}")
    table = made.check(ignore_class="Fold")
    assert [problems(table, f"s{i}") for i in range(3)] == [[], [], []]
    assert problems(made.check(), "s1") == [("error", "class")]
