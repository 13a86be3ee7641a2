"""Tables and arrays in, matplotlib ``Figure`` out: charts of scores, pictures of pixels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["auditcharts", "charts", "comparecharts", "plots"],
    submod_attrs={
        "auditcharts": ["audit_chart", "published_audit_chart"],
        "charts": ["calibration_curves", "score_bars"],
        "comparecharts": [
            "ceilings",
            "difference_intervals",
            "iou_by_magnification",
            "minutes_bars",
            "object_recall",
            "pareto_front",
            "score_intervals",
        ],
        "plots": [
            "example_slides",
            "extreme_tiles",
            "slide_overlays",
            "target_at_magnifications",
            "tile_gallery",
            "tile_predictions",
        ],
        "stepcharts": ["split_bars", "stage_bars", "stage_timeline", "tiles_per_slide", "training_history"],
        "style": ["BLUE", "GREEN", "ORANGE", "PURPLE", "SKY", "VERMILION", "same", "score_name"],
    },
)
