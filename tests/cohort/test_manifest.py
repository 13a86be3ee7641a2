"""The manifest: what is read, and that every fault is told at once with row and column."""

import math
import os
import pickle
from pathlib import Path

import pandas as pd
import pytest

from tlskit.cohort import manifest as cohort
from tlskit.errors import ManifestError, TlskitError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HEADER = "slide_id,patient_id,cancer_type,slide_path,annotation_path"


@pytest.fixture
def save(tmp_path):
    def save(text, name="manifest.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return save


def faults(path):
    with pytest.raises(ManifestError) as error:
        cohort.read_manifest(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_plain_manifest_is_read_with_absolute_paths_and_text_ids(save, tmp_path):
    path = save(f"{HEADER},mpp_override,split,stain\n007,01,lung,slides/a b.svs,a.geojson,0.25,train,HE\n"
                f"s.2,2,breast,/data/b.svs,,,val,HE\n")  # fmt: skip
    table = cohort.read_manifest(path)
    optional = ["mpp_override", "split", "outline_origin", "site", "annotation_path_2"]
    assert list(table.columns) == [*HEADER.split(","), *optional, "stain"]
    first, second = cohort.slide_rows(table)
    assert first == (
        "007", "01", "lung", str(tmp_path / "slides" / "a b.svs"), str(tmp_path / "a.geojson"), 0.25, "train", "", "",
        "",
    )  # fmt: skip
    assert second.slide_path == "/data/b.svs" and second.annotation_path == "" and math.isnan(second.mpp_override)
    assert table["mpp_override"].dtype == float and list(table["stain"]) == ["HE", "HE"]


def test_rows_can_be_sent_to_other_processes_and_made_of_a_partial_table(save):
    table = cohort.read_manifest(save(f"{HEADER}\na,p,lung,a.svs,\n"))
    (row,) = cohort.slide_rows(table)
    again = pickle.loads(pickle.dumps(row))
    assert type(again) is cohort.SlideRow and again[:5] == row[:5]
    (partial,) = cohort.slide_rows(table.drop(columns=["mpp_override", "split"]))
    assert math.isnan(partial.mpp_override) and partial.split == ""


def test_optional_columns_are_there_when_the_csv_has_none(save):
    table = cohort.read_manifest(save(f"{HEADER}\na,p,lung,a.svs,a.geojson\n"))
    assert math.isnan(table["mpp_override"][0]) and table["split"][0] == ""


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (f"{HEADER}\na,p,lung,a.svs,a.geojson\n", "utf-8"),
        (f"{HEADER}\na,p,lung,a.svs,a.geojson\n", "utf-8-sig"),
        (f"{HEADER}\na,p,lung,a.svs,a.geojson\n", "utf-16"),
        (f"{HEADER}\r\na,p,lung,a.svs,a.geojson\r\n", "utf-8"),
        (f"{HEADER}\n\n a , p ,lung,a.svs,a.geojson\n,,,,\n", "utf-8"),
        (f"{HEADER};;\na;p;lung;a.svs;a.geojson;;\n".replace(",", ";"), "utf-8"),
        ("sep=;\n" + f"{HEADER}\na,p,lung,a.svs,a.geojson".replace(",", ";"), "utf-8-sig"),
        (f"{HEADER}\na,p,lung,a.svs,a.geojson\n".replace(",", "\t"), "utf-8"),
        ("Slide ID,Case_ID,Cancer-Type,WSI,GeoJSON\na,p,lung,a.svs,a.geojson\n", "utf-8"),
        ("slide,patient,tumour_type,path,annotations\na,p,lung,a.svs,a.geojson\n", "utf-8"),
        (f'{HEADER}\n"a","p","lung",".\\a.svs","a.geojson"\n', "utf-8"),
    ],
)  # fmt: skip
def test_what_spreadsheets_and_other_tools_write_is_read_alike(text, encoding, save, tmp_path):
    table = cohort.read_manifest(save(text, encoding=encoding))
    assert list(table.iloc[0][["slide_id", "patient_id", "cancer_type"]]) == ["a", "p", "lung"]
    assert table["slide_path"][0] == str(tmp_path / "a.svs")
    assert table["annotation_path"][0] == str(tmp_path / "a.geojson")


def test_a_decimal_comma_and_the_names_of_sets_are_understood(save):
    text = f"{HEADER};mpp;set\na;p;l;a.svs;;0,2529;Training\nb;q;l;b.svs;;;VALIDATION\nc;r;l;c.svs;;;test\n"
    table = cohort.read_manifest(save(text.replace(HEADER, HEADER.replace(",", ";"))))
    assert table["mpp_override"][0] == 0.2529 and list(table["split"]) == ["train", "val", "test"]


def test_every_fault_is_told_at_once_with_row_and_column(save):
    text = "\n".join(
        [
            f"{HEADER},mpp,split",
            "a,p/1,lung,a.svs,,,train",
            "A,p2,lung,b.svs,,fast,train",
            "../x,p2,lung,./a.svs,,,val",
            "b,p3,,c.svs,,,tset",
            "con.txt,p3,lung,,,400,",
            "d,p4,lung,d.svs,,,train,too,many",
        ]
    )
    said = faults(save(text))
    for expected in (
        "has 13 faults (row 1 is the header)",
        "row 2, column patient_id: 'p/1' should hold only letters",
        "row 3, column slide_id: 'A' stands in row 2 already",
        "row 3, column mpp_override: 'fast' should be um per pixel",
        "row 4, column slide_id: '../x' should hold only",
        "row 4, column slide_path: ",
        "row 4, column split: patient 'p2' stands in train (row 3) and val (row 4)",
        "row 5, column cancer_type: is empty",
        "row 5, column split: 'tset' should be train, val, test or empty; is test meant?",
        "row 6, column slide_id: 'con.txt' cannot name a file",
        "row 6, column slide_path: is empty",
        "row 6, column mpp_override: '400'",
        "row 6, column split: is filled for some slides, empty in row 6",
        "row 7, has 9 cells where the header has 7",
    ):
        assert expected.replace("has 13 faults (row 1 is the header)", "faults (row 1 is the header)") in said
    assert len(said.splitlines()) == 14
    rows = [int(line.split("row ")[1].split(",")[0]) for line in said.splitlines()[1:]]
    assert rows == sorted(rows)


def test_rows_without_fault_can_still_be_looked_at(save):
    table, found = cohort.inspect_manifest(save(f"{HEADER}\n/a,p,lung,a.svs,\nb,q,lung,b.svs,\n"))
    assert list(table["slide_id"]) == ["b"] and [(f.row, f.column) for f in found] == [(2, "slide_id")]


@pytest.mark.parametrize("slide_id", ["..", ".hidden", "a/b", "a\\b", "a\nb", "x" * 121, "NUL", "é", "a:b", "ends."])
def test_ids_that_could_leave_the_runs_folder_or_name_no_file_are_refused(slide_id, save):
    said = faults(save(f'{HEADER}\n"{slide_id}",p,lung,a.svs,\n'))
    assert "column slide_id" in said


def test_missing_columns_come_with_the_name_that_may_be_meant(save):
    said = faults(save("slide_id,pateint_id,cancer,wsi,path\na,p,l,a.svs,b.svs\n"))
    assert "column patient_id: is missing; is 'pateint_id' meant? Rename it" in said
    assert "column slide_path: could be 'wsi' and 'path'" in said
    assert "column annotation_path: is missing; the header has: slide_id, pateint_id" in said


def test_a_column_twice_and_cells_below_no_name_are_faults(save):
    said = faults(save(f"{HEADER},split,split,\na,p,lung,a.svs,,train,val,x\n"))
    assert "column split: stands twice" in said and "column 8 has content but no name" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (HEADER.encode(), "no slide in it"),
        (b"PK\x03\x04 a workbook", "Excel workbook"),
        (HEADER.encode() + b'\na,p,lung,"a.svs,\nb', "not a CSV row"),
    ],
)
def test_a_file_that_is_no_csv_is_an_error_with_a_remedy(content, said, tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    assert said in faults(path)


def test_a_missing_manifest_names_one_that_may_be_meant(save, tmp_path):
    save(HEADER)
    assert "Is it manifest.csv?" in faults(tmp_path / "manifst.csv")
    with pytest.raises(ManifestError, match="cannot be read"):
        cohort.read_manifest(tmp_path)


def test_a_relative_path_is_the_projects_first_and_the_working_folders_else(save, tmp_path, monkeypatch):
    save(f"{HEADER}\nroot,p,l,a.svs,\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params").mkdir()
    save(f"{HEADER}\nhere,p,l,a.svs,\n", "notebooks/other.csv")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert cohort.read_manifest("manifest.csv")["slide_id"][0] == "root"
    assert cohort.read_manifest("other.csv")["slide_id"][0] == "here"
    with pytest.raises(ManifestError, match="There is no manifest"):
        cohort.read_manifest("no.csv")


@pytest.mark.skipif(os.name == "nt", reason="on Windows a drive is a place")
def test_paths_of_windows_are_turned_round_or_kept_as_they_are(save, tmp_path):
    table = cohort.read_manifest(save(f"{HEADER}\na,p,l,slides\\a.svs,C:\\x\\a.geojson\n"))
    assert table["slide_path"][0] == str(tmp_path / "slides" / "a.svs")
    assert table["annotation_path"][0] == "C:\\x\\a.geojson"


def test_what_is_written_is_read_back_and_moves_with_its_folder(save, tmp_path):
    table = cohort.read_manifest(
        save(f"{HEADER},mpp,note\na,p,l,slides/a.svs,a.geojson,0.25,x\nb,q,l,/far/b.svs,,,y\n")
    )
    path = cohort.write_manifest(table, tmp_path / "out.csv")
    assert path.read_text().splitlines()[1:] == ["a,p,l,slides/a.svs,a.geojson,0.25,x", "b,q,l,/far/b.svs,,,y"]
    pd.testing.assert_frame_equal(cohort.read_manifest(path), table)


def test_a_missing_slide_is_that_slides_failure_not_the_manifests(save):
    table = cohort.read_manifest(save(f"{HEADER}\na,p,l,no_such.svs,\n"))
    with pytest.raises(TlskitError, match="no_such.svs"):
        cohort.open_row(next(cohort.slide_rows(table)))


def test_figures_of_synthetic_data_say_so(save):
    def caption(*sources):
        rows = "".join(f"s{i},p{i},l,{i}.svs,,{source}\n" for i, source in enumerate(sources))
        return cohort.caption(cohort.read_manifest(save(f"{HEADER},source\n{rows}")))

    assert "synthetic" in caption("synthetic", "synthetic") and "partly" in caption("synthetic", "hospital")
    assert caption("hospital") == "" == cohort.caption(cohort.read_manifest(save(f"{HEADER}\na,p,l,a.svs,\n")))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real slides of shared/data beside the repository")
def test_a_real_cohort_opens_and_an_override_is_honoured():
    table = cohort.read_manifest(DATA / "tonsil" / "manifest.csv")
    assert len(table) == 6
    (row, *_) = cohort.slide_rows(table)
    with cohort.open_row(row) as slide:
        assert slide.mpp0 == pytest.approx(2.324, rel=1e-3)
    with cohort.open_row(row._replace(mpp_override=0.5)) as slide:
        assert slide.mpp0 == 0.5 and slide.mpp_source == "manifest"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_what_excel_writes_in_any_country_is_read(tmp_path, encoding, comma):
    text = f"{HEADER}\na,p,lung,\u00fcber.svs,\n".replace(",", comma)
    (tmp_path / "m.csv").write_bytes(text.encode(encoding))
    table = cohort.read_manifest(tmp_path / "m.csv")
    assert list(table["slide_id"]) == ["a"] and table["slide_path"][0].endswith("\u00fcber.svs")
