"""How often the report's intervals hold the truth, and its rule chooses: in simulated cohorts of 3 to 60 patients.

``python tests/coverage_table.py`` draws the cohorts and writes ``docs/coverage.md`` (``... choice``: its second part
alone); `tests/metrics/test_uncertainty.py` and `tests/evaluation/test_decision.py` do the same with fewer.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from made_cohorts import draw, table

from tlskit.evaluation import decision
from tlskit.metrics import uncertainty
from tlskit.metrics.scores import ratios

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coverage.md"
SCORES = ("iou", "recall", "precision", "mcc")
ROWS = (
    ("even", 3), ("even", 5), ("even", 9), ("few targets", 12), ("even", 23), ("even", 60), ("unequal", 3),
    ("unequal", 5), ("unequal", 9), ("unequal", 23), ("unequal", 60), ("few targets", 23), ("few targets", 60),
)  # fmt: skip
_HEAD = """# How sure the intervals are

Of simulated cohorts, the share in which the 95 % interval holds the true value of the population (in %). Four equal
arms; hard patients are hard for all. *even*: every patient has a target, sizes differ moderately; *unequal*: a few
patients hold most of it; *few targets*: a quarter of the patients has one (of 12 patients about 3). The last columns
are of the differences between the arms: their own intervals; cohorts in which a simultaneous interval excludes 0 (a
difference is "shown" where there is none, which should be 5 % or less); and the same for one given arm. Cohorts in
which fewer than two patients have a target are given no interval, and are left out. `python tests/coverage_table.py`
draws the cohorts again and writes this page.

| patients | population | cohorts | IoU | recall | precision | MCC | difference of IoU | any shown better | one arm |
|---|---|---|---|---|---|---|---|---|---|
"""


#: Cohorts of which the rule is asked; four equal arms, of which the first is the fastest and the last the slowest.
CHOICES, CHOICE_ROWS = 480, (("even", 5), ("even", 9), ("few targets", 12), ("even", 23), ("unequal", 23), ("even", 60))
_CHOICE = """
## How often an arm is chosen

The rule of the report (`tlskit.evaluation.decision`; margin 0.05, least usable IoU 0.1) put to cohorts of four equal
arms, in % of cohorts. *Any shown better*: some arm is shown to be better than another, which should be 5 % (of 480
cohorts, give or take 2); *one arm*: the most for any one of the four. *Shown best*: an arm is chosen because it is
shown to be better than all others: it is not. *Within margin*: an arm is chosen as the fastest of those shown to be at
most 0.05 worse than every other; that is right, for they are equal. Then which was chosen, and how often none.

| patients | population | cohorts | any shown better | one arm | shown best | within margin | fastest | slowest | none |
|---|---|---|---|---|---|---|---|---|---|
"""


def choices(population: str, n_patients: int, *, cohorts: int, seed: int = 0) -> dict[str, float]:
    """Shares of cohorts of equal arms, by the columns of the page's second table."""
    rng, told = np.random.default_rng([seed, n_patients, 480]), Counter()
    minutes = pd.Series({f"arm{k}": 1.0 + k for k in range(4)})
    for _ in range(cohorts):
        counts = table(draw(population, n_patients, rng))
        apart = uncertainty.differences(counts, scores=["iou"])
        front = decision.decide(
            uncertainty.intervals(counts, scores=["iou"]), apart, minutes, margin=0.05, usable=0.1
        )  # fmt: skip
        better = set(np.where(apart["shown"] == "first", apart["first"], apart["second"])[apart["shown"] != ""])
        told.update(better | ({"any"} if better else set()))
        chosen = front.loc[front["chosen"], "arm"]
        told["none" if chosen.empty else front["reason"].iloc[0]] += 1
        told.update(f"chosen {arm}" for arm in chosen)
    shares = {
        "any shown better": told["any"], "one arm": max(told[arm] for arm in minutes.index),
        "shown best": told["shown best"], "within margin": told["fastest within margin"],
        "fastest": told["chosen arm0"], "slowest": told["chosen arm3"], "none": told["none"],
    }  # fmt: skip
    return {name: number / cohorts for name, number in shares.items()}


def truth_of(population: str) -> dict[str, float]:
    """Scores of the first arm in a very large population; those of the others are equal."""
    counts = draw(population, 500_000, np.random.default_rng(99), n_arms=1)
    return {name: float(ratios(*counts.sum(axis=(0, 1)))[name]) for name in SCORES}


def simulate(population: str, n_patients: int, *, cohorts: int, seed: int = 0) -> dict[str, float]:
    """Shares of cohorts, by name: coverage of each score and of differences, and of some arm shown better."""
    truth, rng = truth_of(population), np.random.default_rng([seed, n_patients])
    hits: dict[str, list] = {name: [] for name in (*SCORES, "difference", "shown", "shown_each")}
    for _ in range(cohorts):
        counts = table(draw(population, n_patients, rng))
        found = uncertainty.intervals(counts, scores=SCORES, by=["arm"])
        for row in found[(found["method"] == "t") & (found["arm"] == "arm0")].itertuples():
            hits[row.score].append(row.low <= truth[row.score] <= row.high)
        apart = uncertainty.differences(counts, scores=["iou"], by=["arm"])
        if (apart["method"] == "t").all():
            hits["difference"].append(apart["low"].iloc[0] <= 0 <= apart["high"].iloc[0])
            better = set(np.where(apart["shown"] == "first", apart["first"], apart["second"])[apart["shown"] != ""])
            hits["shown"].append(bool(better))
            hits["shown_each"].append("arm0" in better)
    return {name: float(np.mean(values)) for name, values in hits.items()} | {"cohorts": len(hits["difference"])}


def main(arguments: list[str]) -> int:
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    first = text.split(_CHOICE.splitlines()[1])[0].rstrip() + "\n"
    if "choice" not in arguments:
        lines = []
        for population, n_patients in ROWS:
            found = simulate(population, n_patients, cohorts=int(arguments[0]) if arguments else 2000)
            numbers = [found[name] for name in (*SCORES, "difference", "shown", "shown_each")]
            cells = [str(n_patients), population, str(found["cohorts"]), *(f"{100 * n:.1f}" for n in numbers)]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        first = _HEAD + "\n".join(lines) + "\n"
    lines = []
    for population, n_patients in CHOICE_ROWS:
        shares = choices(population, n_patients, cohorts=CHOICES).values()
        cells = [str(n_patients), population, str(CHOICES), *(f"{100 * share:.1f}" for share in shares)]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    PAGE.write_text(first + _CHOICE + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
