"""How often the intervals of an interaction hold the truth, ``docs/interactions.md``: cohorts with a known interaction.

Patients and trainings are both drawn: a hard patient is hard in all arms, an arm has luck of its own in every patient,
and each training has luck of its own, in all patients and in each. ``python tests/interaction_table.py`` draws the
cohorts and writes the page; `tests/evaluation/test_effects.py` does the same with fewer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tlskit.evaluation import effects
from tlskit.metrics.scores import COUNTS, ratios

PAGE = Path(__file__).resolve().parents[1] / "docs" / "interactions.md"

#: Arms of the 2 x 2, as `factors.arm_factors` has them: negatives in a batch, and what a tile covers.
ARMS = pd.DataFrame(
    {
        "arm": ["a", "b", "c", "d"],
        "magnification": 20.0,
        "control": ["plain", "4 negatives a batch", "field 160 um", "4 negatives a batch, field 160 um"],
        "negatives_per_batch": [0, 4, 0, 4],
        "tile_px": [128, 128, 320, 320],
        "field_um": [64.0, 64.0, 160.0, 160.0],
    }
)
#: What each arm adds to the logit of the recall, and to the logarithm of the false area: an interaction in both.
RECALL = np.array([0.0, 0.3, 0.2, 1.1])
FALSE = np.array([0.0, -0.6, -0.3, -1.4])

#: Trainings of each arm, where the two of the wide field were trained once.
MIXED = (3, 3, 1, 1)
#: Settings of the page: patients, trainings, and the spread of a training's own luck.
ROWS = (
    (5, 3, 0.2), (9, 1, 0.0), (9, 3, 0.0), (9, 3, 0.2), (9, 3, 0.5), (23, 2, 0.2), (23, 3, 0.0), (23, 3, 0.2),
    (23, 3, 0.5), (23, 5, 0.2), (60, 3, 0.2), (60, 5, 0.2), (12, MIXED, 0.2), (12, MIXED, 0.5), (23, MIXED, 0.2),
)  # fmt: skip
_HEAD = """# How sure the interactions are

Of simulated cohorts with a known interaction of negatives and field, the share (in %) in which the 95 % interval of
`tlskit.evaluation.effects.two_by_two` holds it. Patients and trainings (seeds) are both random: *luck* is the standard
deviation of a training's own luck on the logit scale; *3, 3, 1, 1* are trainings of the four arms: those trained once
are lent the spread of the others. The last columns: coverage of a simple effect, the mean
half-width of the interaction's interval, and how often the interval excludes 0 (the true interaction is {truth:+.3f}).
`python tests/interaction_table.py` draws the cohorts again and writes this page.

| patients | trainings | luck | cohorts | interaction | effect | half-width | excludes 0 |
|---|---|---|---|---|---|---|---|
"""


def draw(n_patients: int, n_seeds: int, luck: float, rng: np.random.Generator, *, own_seed: bool = False) -> np.ndarray:
    """Counts ``(n_patients, 4 arms, n_seeds, 4)``; with `own_seed` every patient has trainings of its own."""
    size = np.exp(rng.normal(0, 0.6, n_patients))[:, None, None]
    ease = rng.beta(5, 2, n_patients)
    hard = np.log(ease / (1 - ease))[:, None, None]
    shape, of_seed = (n_patients, 4, n_seeds), (n_patients if own_seed else 1, 4, n_seeds)
    seed = rng.normal(0, 1, of_seed) * luck
    logit = hard + RECALL[:, None] + rng.normal(0, 0.5, shape[:2])[..., None] + rng.normal(0, 0.3, shape) + seed
    tp = size / (1 + np.exp(-logit))
    false = rng.gamma(1.5, 0.3, n_patients)[:, None, None] * np.exp(
        FALSE[:, None] + rng.normal(0, 0.5, shape[:2])[..., None] + rng.normal(0, 0.3, shape) - seed
    )
    return np.stack([tp, false, size - tp, np.full(shape, 50.0)], axis=-1)


def counts_table(counts: np.ndarray) -> pd.DataFrame:
    """Counts as a table by arm, seed and patient."""
    n, arms, seeds, _ = counts.shape
    patient, arm, seed = (index.ravel() for index in np.indices((n, arms, seeds)))
    table = pd.DataFrame(np.rint(counts.reshape(-1, 4) * 1e5), columns=list(COUNTS))
    ids = np.array([f"p{k:04d}" for k in range(n)])[patient]
    table = table.assign(arm=ARMS["arm"].to_numpy()[arm], seed=seed, patient_id=ids, slide_id=ids)
    return table if seeds > 1 else table.drop(columns="seed")


def truth(luck: float) -> tuple[float, float]:
    """Interaction and simple effect (of negatives in the small field) in an endless cohort and endless trainings."""
    sums = draw(400_000, 1, luck, np.random.default_rng(77), own_seed=True).sum(axis=(0, 2))
    a, b, c, d = (float(ratios(*of_arm)["iou"]) for of_arm in sums)
    return d - c - b + a, b - a


def simulate(
    n_patients: int, trainings: int | Sequence[int], luck: float, *, cohorts: int, seed: int = 0
) -> dict[str, float]:
    """Shares of cohorts whose intervals hold the truth, the mean half-width, and how often 0 is excluded."""
    of_arms = np.broadcast_to(trainings, len(ARMS))
    (interaction, effect), rng = truth(luck), np.random.default_rng([seed, n_patients, *np.unique(of_arms)])
    found = []
    for _ in range(cohorts):
        counts = counts_table(draw(n_patients, int(of_arms.max()), luck, rng))
        if len(set(of_arms)) > 1:
            counts = counts[counts["seed"] < counts["arm"].map(dict(zip(ARMS["arm"], of_arms, strict=True)))]
        table = effects.two_by_two(counts, ARMS)
        last, first = table.iloc[-1], table[table["what"] == "effect"].iloc[0]
        found.append(
            (last["low"] <= interaction <= last["high"], first["low"] <= effect <= first["high"],
             (last["high"] - last["low"]) / 2, not last["low"] <= 0 <= last["high"])
        )  # fmt: skip
    means = np.mean(found, axis=0)
    return dict(zip(("interaction", "effect", "half_width", "excludes"), map(float, means), strict=True))


def main() -> int:
    cohorts, lines = int(sys.argv[1]) if len(sys.argv) > 1 else 2000, []
    for n_patients, trainings, luck in ROWS:
        found = simulate(n_patients, trainings, luck, cohorts=cohorts)
        each = ", ".join(map(str, np.atleast_1d(trainings)))
        lines.append(
            f"| {n_patients} | {each} | {luck:g} | {cohorts} | {100 * found['interaction']:.1f} "
            f"| {100 * found['effect']:.1f} | {found['half_width']:.3f} | {100 * found['excludes']:.1f} |"
        )
        print(lines[-1], flush=True)
    PAGE.write_text(_HEAD.format(truth=truth(0.2)[0]) + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
