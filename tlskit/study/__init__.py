"""Presets, the sweep, the archive of runs, the report.

In: a flat YAML preset. Out: ``outputs/<run>/`` with executed notebooks, tables, figures, records and one page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "estimates",
        "launch",
        "params",
        "predicting",
        "preflight",
        "progress",
        "project",
        "report",
        "status",
        "sweep",
    ],  # fmt: skip
    submod_attrs={
        "archive": ["Archive", "Arm", "find_runs", "open_archive"],
        "params": ["arms_table"],
        "report": ["write_report"],
        "runs": ["Run", "open_run"],
        "sweep": ["prepare", "run_sweep"],
    },
)
