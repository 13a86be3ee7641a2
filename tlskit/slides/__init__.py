"""Pixels of a whole-slide image at any um/px, and where there is tissue on it.

In: a file that OpenSlide or tifffile reads. Out: ``(H, W, 3) uint8`` RGB of the slide's working lattice at ``mpp`` um
per pixel, boxes in level-0 pixels, areas in mm2. Nothing above this wing opens a slide by itself.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["staging", "tiffs", "tissue"],
    submod_attrs={
        "bands": ["covered_strips"],
        "identity": ["content_id"],
        "scale": ["PLAUSIBLE_MPP"],
        "slide": ["Slide", "open_slide"],
        "tissue": ["Tissue", "searched_once", "tissue_mask"],
    },
)
