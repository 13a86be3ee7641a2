"""What a person outlined, and what goes back to QuPath.

In: GeoJSON, ASAP or ImageScope XML; polygons in level-0 pixels. Out: polygons of one class, masks ``(H, W) bool`` on a
slide's working lattice, GeoJSON that QuPath opens. Areas are in um2, repairs are told.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["qupath", "truth"],
    submod_attrs={
        "class_names": ["check_class_name", "is_prediction", "prediction_class"],
        "geojson": ["parse_geojson"],
        "findings": ["Told", "also_holds", "describe"],
        "outline": ["Annotations", "UNCLASSIFIED"],
        "placing": ["placement"],
        "rasters": ["mask_parts", "polygonise", "rasterise"],
        "reading": ["read_annotations", "read_targets", "targets_of", "without_ignored"],
        "truth": ["IGNORED", "Truth", "check_classes", "read_truth"],
        "writing": ["geojson_line", "geojson_text", "write_geojson"],
    },
)
