"""Tables and arrays in, matplotlib ``Figure`` out: charts of scores, pictures of pixels.

Charts of tables take `color`, `col` and `row`, each the name of any column (`tlskit.figures.panels`); `set_theme` makes
seaborn's own calls look like them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["charts", "comparecharts", "plots"],
    submod_attrs={
        "charts": [
            "bars",
            "calibration_curves",
            "curves",
            "forest",
            "pr_curves",
            "score_bars",
            "trend",
        ],
        "comparecharts": [
            "agreement",
            "audit_chart",
            "ceilings",
            "difference_intervals",
            "froc",
            "iou_by_magnification",
            "minutes_bars",
            "object_recall",
            "pareto_front",
            "published_audit_chart",
            "score_intervals",
            "subgroup_intervals",
        ],
        "controlcharts": ["context_effects", "control_effects", "control_scores", "detail_ladder", "two_by_two"],
        "examples": ["example_slides", "extreme_tiles", "spread_tiles"],
        "fieldplots": ["screen_fields", "worst_fields"],
        "panels": ["person_band"],
        "plots": [
            "slide_overlays",
            "target_at_magnifications",
            "tile_gallery",
            "tile_predictions",
        ],
        "stepcharts": [
            "cascade_minutes",
            "cohort_flow",
            "overlap_tradeoff",
            "screen_tradeoff",
            "split_bars",
            "stage_bars",
            "stage_timeline",
            "tiles_per_slide",
            "training_history",
        ],
        "style": ["alt_text", "arm_styles", "done", "same", "score_name", "set_theme"],
    },
)
