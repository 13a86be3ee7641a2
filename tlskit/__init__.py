"""At which magnification should a segmentation model be trained and run on whole-slide images?

The package is a set of small modules, imported one by one (``from tlskit import tiling, plots``), so that a
notebook reads ``tiling.tile_cohort(...)``. Importing the package itself loads nothing heavy.
"""

__version__ = "0.1.0"
