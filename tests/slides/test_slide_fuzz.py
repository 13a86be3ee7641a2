"""A thousand damaged slides: nothing that OpenSlide reads otherwise, nothing that escapes, dies, hangs or is slow."""

import pytest
import slide_fuzzer


@pytest.mark.timeout(600)
def test_a_thousand_damaged_slides_are_rows_or_right(tmp_path):
    rows = slide_fuzzer.run(1000, seed=11, workers=2, folder=tmp_path)
    figures = slide_fuzzer.summary(rows)
    assert figures["mutants"] == 1000 and figures["opened"] > 400 and figures["compared"] > 200
    assert not figures["different"] and not figures["escaped"], figures
    assert not figures["died"] and not figures["hung"] and not figures["slow"], figures
