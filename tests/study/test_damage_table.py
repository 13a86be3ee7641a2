"""The page of damages is true: each is done again, and what is said and kept is what the page says."""

import damage_table
import pytest
from made_disk import NoSmallDisk


def written(damage):
    (line,) = [line for line in damage_table.PAGE.read_text().splitlines() if line.startswith(f"| {damage.__doc__} |")]
    return line


@pytest.mark.parametrize("damage", damage_table.ROWS, ids=lambda damage: damage.__name__)
def test_what_the_page_says_of_a_damage_is_what_happens(damage, tmp_path):
    try:
        found = damage_table.row_of(damage, tmp_path.resolve())
    except NoSmallDisk as error:
        pytest.skip(f"a small tmpfs cannot be mounted here: {error}")
    assert found == written(damage), "python tests/damage_table.py writes the page anew"


def test_the_page_holds_these_damages_and_nothing_else():
    lines = [written(damage) for damage in damage_table.ROWS]
    assert damage_table.PAGE.read_text() == damage_table.page(lines)
