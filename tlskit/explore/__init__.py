"""Sliders, the slide viewer and the page without code, on finished runs or single slides."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "app": ["page"],
        "server": ["serve"],
        "explorers": ["slide"],
        "figure_explorers": ["threshold", "tiles", "timing"],
        "static_views": ["slide_field", "threshold_curves", "tile_page", "timing_figure"],
    },
)
