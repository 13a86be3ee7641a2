"""Building, training and running a network.

In: tiles with a split. Out: a checkpoint that says how it must be applied; engines that take windows
``(B, S, S, 3) uint8``, or those with their context (`inputs`), and give probabilities ``(B, S, S) float32``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["engines", "hardware", "inputs", "models"],
    submod_attrs={
        "footprint": ["network_size", "training_bytes"],
        "hardware": ["describe_hardware"],
        "marks": ["read_mark"],
        "mining": ["train_rounds"],
        "models": ["load_checkpoint"],
        "settings": ["LOSSES", "setting_faults"],
        "training": ["train"],
    },
)
