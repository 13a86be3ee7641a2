"""Numbers from counts: scores, thresholds, objects, intervals. Knows no slide.

In: counts ``tp fp fn tn``, histograms of probabilities, label masks with their um/px. Out: tables whose rows say how
they were pooled and on how many slides and patients; undefined is nan.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["bootstrap", "objects", "published", "thresholds", "uncertainty"],
    submod_attrs={
        "boundaries": ["shape_table"],
        "grids": ["TIE_SHIFT_PX", "area_means"],
        "objects": ["SIZE_CLASSES", "agreement", "diameter_um"],
        "published": ["PERSON_MINUTES_PER_SLIDE", "audit_published_table"],
        "scores": [
            "COUNTS",
            "EMPTY_RULES",
            "SCORES",
            "count_pixels",
            "order_range",
            "per_unit",
            "ratios",
            "score",
            "score_table",
        ],
        "uncertainty": ["METHOD", "patients_needed", "training_note"],
        "thresholds": [
            "choose_threshold",
            "counts_at",
            "cut",
            "joint_histogram",
            "named_thresholds",
            "write_threshold",
        ],
    },
)
