"""The results printed by McCombe et al. 2022 as data, and what their own precision and recall imply.

McCombe, Craig, James and Gault (2022), Influence of magnification in deep learning aided image segmentation in
histological digital image analysis, IMVIP 2022, pp. 161-164, https://doi.org/10.56541/RAKL2135: Table 1, and the
text for numbers of tiles, their real size, and the time that the 23 test slides took.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from tlskit.metrics.scores import SCORES, ratios

__all__ = [
    "PERSON_MINUTES_PER_SLIDE",
    "SOURCE",
    "TEST_SLIDES",
    "audit_published_table",
    "facts",
    "from_rates",
    "table_one",
]

SOURCE = "McCombe et al. 2022, Table 1"

#: Minutes that a pathologist takes for one slide, as the paper puts it (shortest, longest).
PERSON_MINUTES_PER_SLIDE = (5.0, 10.0)

_COLUMNS = ("level", "magnification", *SCORES)
_TABLE_ONE = (
    ("tile", 1, 0.991, 0.611, 0.571, 0.459, 0.998, 0.725, 0.573),
    ("tile", 4, 0.956, 0.610, 0.550, 0.709, 0.976, 0.704, 0.682),
    ("tile", 10, 0.858, 0.579, 0.487, 0.827, 0.868, 0.685, 0.657),
    ("tile", 20, 0.836, 0.816, 0.735, 0.930, 0.676, 0.830, 0.641),
    ("wsi", 1, 0.996, 0.804, 0.788, 0.459, 0.999, 0.700, 0.565),
    ("wsi", 4, 0.997, 0.935, 0.931, 0.709, 0.998, 0.579, 0.639),
    ("wsi", 10, 0.986, 0.844, 0.842, 0.823, 0.987, 0.201, 0.403),
    ("wsi", 20, 0.900, 0.657, 0.656, 0.903, 0.900, 0.035, 0.166),
)
TEST_SLIDES = 23
_FACTS = (  # magnification, training tiles, tile area mm2, negative:positive pixels, seconds for the test slides
    (1, 2208, 26.83, 88.0, 61),
    (4, 7675, 1.68, 15.4, 1184),
    (10, 12841, 0.27, 3.5, 6316),
    (20, 51275, 0.07, 0.74, 32096),
)

#: The table prints three decimals: the true number lies within half of the last one.
_ROUNDING = 0.0005


def table_one() -> pd.DataFrame:
    """Table 1 as printed: level (``tile``, ``wsi``), magnification, and the seven scores."""
    return pd.DataFrame(_TABLE_ONE, columns=list(_COLUMNS)).astype({"magnification": float})


def facts() -> pd.DataFrame:
    """What the text says of each magnification.

    Returns
    -------
    DataFrame
        magnification, training_tiles, tile_area_mm2, negative_to_positive_pixels, test_slides, seconds (for all test
        slides), minutes_per_slide.
    """
    columns = ["magnification", "training_tiles", "tile_area_mm2", "negative_to_positive_pixels", "seconds"]
    table = pd.DataFrame(_FACTS, columns=columns).astype({"magnification": float})
    table.insert(4, "test_slides", TEST_SLIDES)
    return table.assign(minutes_per_slide=table["seconds"] / 60 / TEST_SLIDES)


def from_rates(precision, recall, specificity) -> dict[str, np.ndarray]:
    """The seven scores of the one confusion matrix (up to its scale) with these rates.

    With tp = 1: fn = 1 / recall - 1, fp = 1 / precision - 1, tn = fp specificity / (1 - specificity). Dice and IoU
    follow from precision and recall alone; MCC and accuracy need the specificity too.

    Parameters
    ----------
    precision, recall, specificity
        Numbers or arrays of one shape, above 0, specificity below 1.

    Returns
    -------
    dict
        The seven scores, and ``prevalence``, as float64.
    """
    precision, recall, specificity = (np.asarray(r, np.float64) for r in (precision, recall, specificity))
    fn, fp = 1 / recall - 1, 1 / precision - 1
    tn = fp * specificity / (1 - specificity)
    return ratios(1.0, fp, fn, tn) | {"prevalence": (1 + fn) / (1 + fn + fp + tn)}


def audit_published_table() -> pd.DataFrame:
    """Each row of the printed table beside the scores that its own precision, recall and specificity imply.

    MCC as printed is the implied one, so these rates come from pooled pixels. Dice and IoU as printed are not: they are
    means over units. On whole slides the printed Dice and IoU are nearly equal, as only a mean of values near 0 and
    near 1 can be: most units must have counted 1, as a batch or tile with neither target nor prediction does where
    its 0/0 is given that value. The authors' public training script averages over batches; that of their whole-slide
    evaluation is not public.

    Returns
    -------
    DataFrame
        level, magnification; for each of dice, iou, mcc: ``<score>_printed``, ``<score>_implied``,
        ``<score>_implied_low`` and ``_high`` (what the rounding of the printed rates to three decimals allows) and
        ``<score>_agrees`` (whether the printed number lies within those, give or take its own rounding);
        prevalence_implied (share of target pixels).
    """
    table = table_one()
    rates = ("precision", "recall", "specificity")
    implied = from_rates(*(table[r] for r in rates))
    corners = [
        from_rates(*(np.clip(table[r] + s * _ROUNDING, 1e-9, 1 - 1e-9) for r, s in zip(rates, signs, strict=True)))
        for signs in itertools.product((-1, 1), repeat=3)
    ]
    result = table[["level", "magnification"]].copy()
    for name in ("dice", "iou", "mcc"):
        low = np.min([c[name] for c in corners], axis=0)
        high = np.max([c[name] for c in corners], axis=0)
        result[f"{name}_printed"] = table[name]
        result[f"{name}_implied"] = implied[name]
        result[f"{name}_implied_low"], result[f"{name}_implied_high"] = low, high
        result[f"{name}_agrees"] = table[name].between(low - _ROUNDING, high + _ROUNDING)
    return result.assign(prevalence_implied=implied["prevalence"])
