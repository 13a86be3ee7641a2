"""Which settings of a training fit together; asked before anything runs, and again where it begins. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tlskit import units
from tlskit.tiles import AS_THEY_COME, context_faults

__all__ = ["EMPTY_BATCHES", "LOSSES", "NEEDS_TARGET", "setting_faults"]

#: Names of the losses (`tlskit.networks.losses`), and those by which a batch without target teaches nothing.
LOSSES = ("dice", "dice_bce", "focal")
NEEDS_TARGET = ("dice",)

#: What to do where batches without target would come under a loss of `NEEDS_TARGET`.
EMPTY_BATCHES = (
    "of batches without target the loss `{loss}` is 0 and has no gradient: they would teach nothing, at every "
    "magnification another share of them. Set `negatives_per_batch` (0 to one below `batch_size`), which puts target "
    "into every batch, or `loss: dice_bce`, which learns from batches without. With `positive_pixels` a larger share "
    "or a larger `batch_size` will do too"
)


def setting_faults(settings: Mapping) -> list[str]:
    """What is wrong with the settings of a training, each fault with its remedy; none where they fit together.

    Parameters
    ----------
    settings
        Names as in a preset, every one of those used here: ``epochs``, ``steps_per_epoch``, ``batch_size``,
        ``workers``, ``learning_rate``, ``loss``, ``negatives_per_batch``, ``positive_pixels``, ``hard_negatives``,
        ``magnification``, ``detail_mpp``, ``tile_store``, ``tile_px``; and perhaps ``keep_tiles``,
        ``context_ratio``, ``context_px``, ``context_of`` and ``context_loss_weight``.
    """
    faults = []
    for name, least in (("epochs", 1), ("steps_per_epoch", 0), ("batch_size", 1), ("workers", 0)):
        if settings[name] < least:
            faults.append(f"`{name}` should be {least} or more, not {settings[name]!r}")
    if not 0 < settings["learning_rate"] < math.inf:
        faults.append(f"`learning_rate` should be a positive number, not {settings['learning_rate']!r}")
    if settings["loss"] not in LOSSES:
        faults.append(f"`loss` should be one of {', '.join(LOSSES)}, not {settings['loss']!r}")
    for name in ("positive_pixels", "hard_negatives"):
        if not 0 <= settings[name] <= 1:
            faults.append(f"`{name}` is a share, 0 to 1, not {settings[name]!r}")
    tile_px = settings["tile_px"]
    if tile_px % 32:
        faults.append(
            "`tile_px` should be a multiple of 32, because the network halves its input five times; it is "
            f"{tile_px}. Cut tiles of {max(32, round(tile_px / 32) * 32)} px in 01_tiling"
        )
    return faults + _drawing_faults(settings) + _detail_faults(settings) + _context_faults(settings)


def _drawing_faults(settings: Mapping) -> list[str]:
    faults = []
    negatives, size, kept = settings["negatives_per_batch"], settings["batch_size"], settings.get("keep_tiles")
    if not AS_THEY_COME <= negatives < size:
        faults.append(
            f"`negatives_per_batch` should be {AS_THEY_COME} (as they come) or 0 to {size - 1}, one below "
            f"`batch_size`, so that every batch holds target; it is {negatives}"
        )
    if negatives > 0 and kept == "target":
        faults.append(
            f"`negatives_per_batch: {negatives}` asks for tiles without target, and `keep_tiles: target` keeps none: "
            "set `keep_tiles: tissue`"
        )
    if settings["hard_negatives"] and negatives < 1:
        faults.append("`hard_negatives` are a share of `negatives_per_batch`, which should then be 1 or more")
    as_they_come = negatives == AS_THEY_COME and not settings["positive_pixels"]
    if kept == "tissue" and as_they_come and settings["loss"] in NEEDS_TARGET:
        faults.append("`keep_tiles: tissue` with all tiles drawn alike: " + EMPTY_BATCHES.format(**settings))
    return faults


def _detail_faults(settings: Mapping) -> list[str]:
    faults = []
    detail, mpp = settings["detail_mpp"], units.mpp_for_magnification(settings["magnification"])
    if detail < 0:
        faults.append(f"`detail_mpp` should be 0 (all detail) or um per px, not {detail!r}")
    elif detail and detail < mpp * (1 - 1e-6):
        faults.append(
            f"`detail_mpp: {detail:g}` is finer than the {mpp:g} um/px of "
            f"{units.magnification_name(settings['magnification'])}, which shows no such detail: make it coarser, or 0"
        )
    if detail and settings["tile_store"] == "png":
        faults.append("`detail_mpp` needs `tile_store: slide`: PNG tiles hold all the detail of their arm")
    return faults


def _context_faults(settings: Mapping) -> list[str]:
    ratio, weight = settings.get("context_ratio", 0), settings.get("context_loss_weight", 0)
    asked = (settings["tile_px"], settings.get("context_px", 256), ratio, settings.get("context_of", "field"))
    faults = [] if ratio and settings["tile_px"] % 32 else context_faults(*asked)
    if not 0 <= weight < math.inf:
        faults.append(f"`context_loss_weight` should be 0 or a positive number, not {weight!r}")
    elif weight and not ratio:
        faults.append(f"`context_loss_weight: {weight:g}` needs a `context_ratio`: 2, 4 or 8")
    return faults
