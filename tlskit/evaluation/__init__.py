"""Tables of counts of one arm, arms beside each other, and what they cost.

In: maps with the truth, or the archived tables of a run's arms. Out: tables (pixels, um2, seconds); every score says
how it was pooled.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["cascade_scores", "cascades", "comparison", "costs", "predictions"],
    submod_attrs={
        "arm_tables": ["arms", "check_arms", "collect"],
        "cascade_pictures": ["lost_and_spared"],
        "comparison": [
            "agreement_table",
            "audit",
            "audit_winners",
            "calibration",
            "differences",
            "grid_table",
            "intervals",
            "iou_by_magnification",
            "object_table",
            "style_table_one",
            "table_one",
            "threshold_table",
        ],
        "costs": ["choice", "minutes_per_slide", "pareto"],
        "counting": ["evaluate_grid", "evaluate_slides", "evaluate_tiles"],
        "predictions": ["write_outlines"],
        "slide_findings": ["Findings", "level_near", "scores_at"],
        "timing": ["project_timings", "summarise_timings", "time_inference"],
    },
)
