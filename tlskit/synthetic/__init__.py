"""A made-up hospital: slides, outlines and a manifest in the very files a real one gives.

In: sizes in um or mm and a seed. Out: pyramidal TIFFs that OpenSlide opens, QuPath GeoJSON, a manifest.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cohort": ["make_cohort"],
    },
)
