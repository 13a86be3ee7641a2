"""The printed table, and what its own rates imply."""

import csv
from pathlib import Path

import pytest

from tlskit.metrics import published

PAPER = Path(__file__).resolve().parents[3] / "shared" / "paper"


def test_pooled_scores_implied_by_the_printed_rates():
    audit = published.audit_published_table()
    wsi = audit[audit["level"] == "wsi"].set_index("magnification")
    expected_iou = {1: 0.384, 4: 0.468, 10: 0.193, 20: 0.035}
    for magnification, iou in expected_iou.items():
        assert wsi.loc[magnification, "iou_implied"] == pytest.approx(iou, abs=5e-4)
        # 1 / iou = 1 / precision + 1 / recall - 1, and Dice = 2 iou / (1 + iou)
        printed = published.table_one().query("level == 'wsi'").set_index("magnification").loc[magnification]
        by_hand = 1 / (1 / printed["precision"] + 1 / printed["recall"] - 1)
        assert wsi.loc[magnification, "iou_implied"] == pytest.approx(by_hand)
        assert wsi.loc[magnification, "dice_implied"] == pytest.approx(2 * by_hand / (1 + by_hand))


def test_mcc_as_printed_is_the_implied_one_in_all_rows_and_dice_and_iou_in_none():
    audit = published.audit_published_table()
    assert (audit["mcc_implied"] - audit["mcc_printed"]).abs().max() <= 0.0011
    assert audit["mcc_agrees"].all()
    assert not audit["dice_agrees"].any()
    assert not audit["iou_agrees"].any()


def test_rates_of_counts_give_the_scores_of_the_counts_back():
    from tlskit.metrics.scores import ratios

    scores = ratios(30, 10, 20, 940)
    again = published.from_rates(scores["precision"], scores["recall"], scores["specificity"])
    for name, value in scores.items():
        assert again[name] == pytest.approx(float(value))
    assert again["prevalence"] == pytest.approx(0.05)


def test_minutes_per_slide_are_those_of_the_text():
    facts = published.facts().set_index("magnification")
    assert facts.loc[20, "minutes_per_slide"] == pytest.approx(23.25, abs=0.02)
    assert 1 / facts.loc[1, "minutes_per_slide"] == pytest.approx(22.6, abs=0.3)


@pytest.mark.skipif(not PAPER.is_dir(), reason=f"the paper's tables are not at ../{PAPER.parent.name}/{PAPER.name}")
def test_the_data_in_the_package_are_the_printed_ones():
    for name, table in (("table1.csv", published.table_one()), ("facts.csv", published.facts())):
        with open(PAPER / name, newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(table)
        for row, ours in zip(rows, table.to_dict("records"), strict=True):
            for column, value in row.items():
                column = {"wsi_inference_seconds_23_slides": "seconds"}.get(column, column)
                assert ours[column] == (value if column == "level" else float(value))
