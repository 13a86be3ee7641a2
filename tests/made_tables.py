"""Tables of twenty arms of three factors, from those of an archive of four."""

import itertools

import numpy as np
import pandas as pd

#: Magnification x negatives x seed.
FACTORS = list(itertools.product((1.0, 2.5, 4.0, 10.0, 20.0), (False, True), (0, 1)))


def name(magnification, negatives, seed):
    return f"{magnification:g}x_negatives{int(negatives)}_seed{seed}"


def of_twenty_arms(table: pd.DataFrame) -> pd.DataFrame:
    """Each arm's rows are those of one of the table's arms, its numbers a little moved; with the factors' columns."""
    rng, parts = np.random.default_rng(0), []
    groups = [rows for _, rows in table.groupby("arm", sort=False)]
    for n, (magnification, negatives, seed) in enumerate(FACTORS):
        rows = groups[n % len(groups)].copy()
        for column in rows.select_dtypes("float"):
            if column not in ("magnification", "threshold", "level", "grid_mpp", "margin"):
                rows[column] = rows[column] * rng.uniform(0.9, 1.0)
        factors = {"arm": name(magnification, negatives, seed), "magnification": magnification}
        parts.append(rows.assign(**factors, negatives=negatives, seed=seed))
    return pd.concat(parts, ignore_index=True)


def pairs_of_twenty_arms(differences: pd.DataFrame) -> pd.DataFrame:
    """Every pair of the twenty arms, with the numbers of some pair of `differences`."""
    pairs = itertools.combinations([name(*factors) for factors in FACTORS], 2)
    rows = differences.to_dict("records")
    return pd.DataFrame([rows[n % len(rows)] | {"first": a, "second": b} for n, (a, b) in enumerate(pairs)])


def arms_of(n: int) -> list[dict]:
    """One arm, four magnifications, or the twenty of three factors; as rows of `arms.csv`."""
    if n <= 4:
        return [{"arm": f"{m}x", "magnification": float(m)} for m in (20, 10, 4, 1)[:n]]
    keys = ("magnification", "negatives", "seed")
    return [{"arm": name(*factors)} | dict(zip(keys, factors, strict=True)) for factors in FACTORS]


def froc_table(n_arms: int, *, targets: bool = True) -> pd.DataFrame:
    """Recall against false objects over 21 thresholds; the highest thresholds leave no false object."""
    at = np.linspace(0, 1, 21)
    parts = []
    for n, arm in enumerate(arms_of(n_arms)):
        recall = (0.95 - 0.02 * n) * (1 - at**3) if targets else np.full(len(at), np.nan)
        part = pd.DataFrame(
            {"threshold": at, "recall": recall, "false_per_mm2": (5 + n) * np.clip(0.9 - at, 0, 1) ** 3}
        )
        part["n_truth"], part["n_slides"] = 40, 9
        part["mark"] = np.where(at == 0.5, "fixed", np.where(at == at[4 + n % 4], "validation", ""))
        parts.append(part.assign(**arm))
    return pd.concat(parts, ignore_index=True)


def subgroup_table(n_arms: int, *, n_patients: int = 12) -> pd.DataFrame:
    """Four cancer types and two sites; one type has a single patient, whose interval is undefined."""
    groups = [("cancer_type", "oropharyngeal", n_patients), ("cancer_type", "lung", n_patients),
              ("cancer_type", "breast", 3), ("cancer_type", "oesophageal", 1), ("site", "north", n_patients),
              ("site", "south", n_patients)]  # fmt: skip
    rows = []
    for n, arm in enumerate(arms_of(n_arms)):
        for m, (by, group, patients) in enumerate(groups):
            middle = 0.8 - 0.02 * n - 0.05 * m
            spread = 0.1 if patients > 1 else np.nan
            rows.append(arm | {
                "by": by, "group": group, "n_patients": patients, "n_with_target": patients - (patients > 1),
                "estimate": middle, "low": middle - spread, "high": middle + spread,
            })  # fmt: skip
    return pd.DataFrame(rows)


def training_table(n_arms: int, *, scored: bool = True) -> pd.DataFrame:
    """Five epochs an arm; a coarse arm has fewer steps in each."""
    parts = []
    for n, arm in enumerate(arms_of(n_arms)):
        epoch = np.arange(1, 6)
        part = pd.DataFrame({"epoch": epoch, "steps": epoch * (40 * (n % 4 + 1)), "train_loss": 0.9 / epoch + 0.01 * n})
        part["val_loss"] = part["train_loss"] + 0.05
        part["val_iou"] = (0.8 - 0.01 * n) * (1 - 1 / (1 + epoch)) - 0.1 * (epoch == 5) if scored else np.nan
        parts.append(part.assign(best=(epoch == 4) & scored, **arm))
    return pd.concat(parts, ignore_index=True)


def flow_table() -> pd.DataFrame:
    """A cohort from the manifest to the test set."""
    return pd.DataFrame(
        [("In the manifest", 151, 160, "", "2 slides could not be read: damaged; 1 slide of the same content twice"),
         ("Read", 149, 157, "4 cancer types", ""), ("Tested", 23, 1, "12 with a target", "")],
        columns=["stage", "n_patients", "n_slides", "text", "left_out_text"],
    )  # fmt: skip


def cascade_table(n_pairs: int, *, n_growths: int = 3) -> pd.DataFrame:
    """Settings of pairs of arms: maps at eight thresholds by growth, an oracle, random windows, no screen."""
    rows = []
    for n in range(n_pairs):
        pair = {"coarse": f"{n + 1}x", "fine": "20x", "pair": f"{n + 1}x before 20x", "n_slides": 9, "n_patients": 7,
                "low": np.nan, "high": np.nan, "is_chosen": False}  # fmt: skip
        for growth in range(n_growths):
            for k, threshold in enumerate(np.linspace(0.02, 0.6, 8)):
                share = 0.6 * np.exp(-4 * threshold) + 0.03 * growth
                kept = 1 - 0.4 * threshold**2 / (1 + growth)
                chosen = growth == 1 and k == 3
                ends = {"low": kept - 0.02, "high": min(1.0, kept + 0.005)} if chosen else {}
                here = {"screen": "map", "screen_threshold": threshold, "grow_um": 100.0 * growth}
                here |= {"windows_share": share, "recall_kept": kept, "is_chosen": chosen}
                rows.append(pair | here | ends)
        for share in (0.05, 0.2, 0.5):
            rows.append(pair | {"screen": "random", "windows_share": share, "recall_kept": share})
        rows.append(pair | {"screen": "oracle", "windows_share": 0.02, "recall_kept": 1.0})
        rows.append(pair | {"screen": "none", "windows_share": 1.0, "recall_kept": 1.0})
    return pd.DataFrame(rows)


def cascade_minutes_table(n_pairs: int) -> pd.DataFrame:
    """Minutes of pairs; the last of several was not timed."""
    rows = [{"coarse": f"{n + 1}x", "fine": "20x", "pair": f"{n + 1}x before 20x", "minutes": 2.0 + n,
             "minutes_screen": 0.4 + 0.1 * n, "minutes_full": 6.0, "times_faster": 6.0 / (2.0 + n), "n_slides": 9}
            for n in range(n_pairs)]  # fmt: skip
    if n_pairs > 1:
        rows[-1] |= dict.fromkeys(("minutes", "minutes_screen", "minutes_full", "times_faster"), np.nan)
    return pd.DataFrame(rows)


def field_panels(arms: list[str], *, height: int = 60, width: int = 80, seen: bool = False) -> list[dict]:
    """A miss and a false alarm in every arm, as pictures."""
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height // 2) ** 2 + (columns - width // 3) ** 2 < (height // 4) ** 2
    rgb = np.full((height, width, 3), (235, 205, 225), np.uint8)
    rgb[disc] = (120, 80, 160)
    panels = []
    for title, truth in (("missed: s1, 0.21 mm²", disc), ("false alarm: s2, 0.11 mm²", np.zeros_like(disc))):
        for n, arm in enumerate(arms):
            panel = {"title": title, "arm": arm, "rgb": rgb, "truth": truth, "mpp": 8.0,
                     "predicted": np.roll(disc, 3 * n, axis=1) & (rows > height // 2)}  # fmt: skip
            panels.append(panel | ({"seen": columns < width // 2} if seen else {}))
    return panels
