"""What a person outlined, and what goes back to QuPath.

In: GeoJSON, ASAP or ImageScope XML; polygons in level-0 pixels. Out: polygons of one class, masks ``(H, W) bool`` on a
slide's working lattice, GeoJSON that QuPath opens. Areas are in um2, repairs are told.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["qupath", "truth"],
    submod_attrs={
        "geojson": ["write_geojson"],
        "outline": ["Annotations", "UNCLASSIFIED", "placement"],
        "rasters": ["polygonise", "rasterise"],
        "reading": ["describe", "read_annotations", "read_targets", "targets_of", "without_ignored"],
        "truth": ["IGNORED", "Truth", "read_truth"],
    },
)
