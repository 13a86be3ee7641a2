"""Which slides and patients there are, what is wrong with them, and who is tested.

In: the manifest, a CSV that people fill in. Out: the cohort's table (one row a slide), findings of a check, the split
of patients. The only reader of manifests.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["checks", "splitting"],
    submod_attrs={
        "feasibility": ["check_copies", "check_sets", "patients_with_target"],
        "bare_slides": ["from_slides"],
        "manifest": ["caption", "open_row", "read_manifest", "slide_rows"],
        "slide_page": ["write_slide_page"],
        "spreadsheets": ["read_columns"],
        "splitting": [
            "SPLITS",
            "attach_split",
            "check_folds",
            "keep_split",
            "leakage_check",
            "read_split",
            "split_hash",
            "split_patients",
            "split_summary",
        ],
    },
)
