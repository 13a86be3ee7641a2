"""Tables of counts of one arm, arms beside each other, and what they cost.

In: maps with the truth, or the archived tables of a run's arms. Out: tables (pixels, um2, seconds); every score says
how it was pooled.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "answers",
        "cascade_scores",
        "cascades",
        "comparison",
        "costs",
        "decision",
        "fields",
        "predictions",
        "reader_scores",
        "reviewing",
        "stored_screens",
        "validation_choice",
    ],  # fmt: skip
    submod_attrs={
        "answers": ["answer"],
        "arm_tables": ["arms", "check_arms", "collect", "unlike_settings"],
        "cascade_pictures": ["lost_and_spared"],
        "context_pictures": ["context_fields"],
        "comparison": [
            "agreement_points",
            "agreement_table",
            "audit",
            "audit_winners",
            "best_marks",
            "calibration",
            "differences",
            "grid_table",
            "intervals",
            "iou_by_magnification",
            "object_table",
            "share_best",
            "style_table_one",
            "table_one",
            "threshold_table",
        ],
        "costs": ["beaten_by_none", "minutes_per_slide", "pareto"],
        "decision": ["choice"],
        "effects": [
            "context_effects",
            "control_effects",
            "control_scores",
            "detail_ladder",
            "two_by_two",
            "within_magnification",
        ],
        "grid_counting": ["evaluate_grid"],
        "factors": ["arm_factors", "grid_counts", "trainings"],
        "counting": ["evaluate_slides", "evaluate_tiles"],
        "overlap_choice": ["choose_overlap", "overlap_tradeoff", "settle_overlap"],
        "predictions": ["write_outlines"],
        "reader_scores": ["reader_table"],
        "readers": ["evaluate_readers"],
        "reasons": ["style_why", "why"],
        "slide_findings": ["Findings", "level_near", "scores_at"],
        "validation_choice": ["chosen_on_validation", "score_of_choice"],
        "timing": ["project_timings", "summarise_timings", "time_inference"],
    },
)
