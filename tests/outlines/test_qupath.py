"""The two scripts for QuPath: written whole, and sound as far as that can be seen without QuPath."""

import re

import pytest

from tlskit.outlines import qupath


def code_of(text: str) -> str:
    """A script less its comments, strings and patterns; raises where one of them has no end."""
    comment, double, single = r"/\*.*?\*/|//[^\n]*", r"\"(?:\\.|[^\"\\\n])*\"", r"'(?:\\.|[^'\\\n])*'"
    pattern = r"(?<=\()/(?:\\.|[^/\\\n])+/"
    token = re.compile("|".join([comment, double, single, pattern]), re.DOTALL)
    rest = token.sub(" ", text)
    assert not re.search(r"[\"'/]", rest), re.search(r".*[\"'/].*", rest)[0]
    return rest


@pytest.fixture
def scripts(tmp_path):
    return [path.read_text(encoding="utf-8") for path in qupath.write_scripts(tmp_path / "new" / "folder")]


def test_brackets_strings_and_comments_are_closed(scripts):
    for text in scripts:
        open_brackets = []
        for letter in code_of(text):
            if letter in "([{":
                open_brackets.append(letter)
            elif letter in ")]}":
                assert open_brackets.pop() + letter in ("()", "[]", "{}")
        assert not open_brackets
        assert "@" not in code_of(text)


def test_every_name_that_is_used_is_imported_declared_or_qupaths_own(scripts):
    known = {"File", "ArrayList", "Set", "String"}
    for text in scripts:
        code = code_of(text)
        imported = {name.split(".")[-1] for name in re.findall(r"^import ([\w.]+)$", text, re.MULTILINE)}
        used = set(re.findall(r"(?<![\w.])([A-Z]\w+)(?=[.(])", re.sub(r"^import .*$", "", code, flags=re.MULTILINE)))
        assert used <= imported | known
        assert imported - {"BufferedImage"} <= used | {"GeoJsonExportOptions"}


def test_the_export_writes_the_columns_that_a_manifest_needs(scripts):
    from tlskit.cohort import manifest as cohort

    header = re.search(r'def rows = \["([^"]+)"\]', scripts[0])[1]
    assert header == ",".join(cohort.COLUMNS)
    cells = re.search(r"rows << \[([^\n]+)\]\n", scripts[0])[1]
    meant = [r"slideId", r'metadata\["patient_id"\]', r'metadata\["cancer_type"\]', r"slidePath.*", r"annotationPath"]
    assert re.fullmatch(", ".join(meant), cells)


def test_both_scripts_name_slides_alike_and_predictions_get_a_class_of_their_own(scripts):
    naming = [re.search(r"def idOf = .*?\n}\n", text, re.DOTALL)[0] for text in scripts]
    assert naming[0] == naming[1]
    assert '"TLS" + " " + folder.getName()' in scripts[1]


def test_a_class_and_a_folder_with_special_letters_stand_as_they_are_meant(tmp_path):
    export, imported = qupath.write_scripts(tmp_path, target_class='Cost $5 "GC" \\', arm=tmp_path / "runs $x" / "20x")
    assert r'such as ["Cost \$5 \"GC\" \\"]' in export.read_text()
    text = imported.read_text()
    assert "/runs \\$x/20x" in text and text.count("@") == 0
    assert code_of(text)
