"""A slide through a network into its probability map.

In: a checkpoint and slides. Out: pyramidal uint8 TIFFs, value ``rint(255 p)`` on the slide's working lattice, that
QuPath and OpenSlide open.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["inference", "probmaps"],
    submod_attrs={
        "cascading": ["check_networks", "screens_of"],
        "context": ["Frames", "context_words", "facts_of", "frames_of"],
        "inference": ["choose_engine", "predict_cohort"],
        "overlaps": ["OVERLAPS", "map_overlaps", "noted_overlap", "write_overlap"],
        "probmaps": ["ProbMap", "open_map", "outside"],
        "screening": ["Windows", "distance_um", "make_screen", "screen_of", "windows_over"],
    },
)
