"""Combinations that cannot work, refused before a kernel starts or a folder is made; each with its remedy.

Two looks: at the parameters of every arm alone, and at the cohort: manifest, outlines and the sizes of slides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tlskit import cohort, units
from tlskit.errors import ParameterError, TlskitError
from tlskit.files import resolve
from tlskit.networks import setting_faults
from tlskit.tiles import largest_target_fraction, needed_of_tiles

__all__ = ["arm_faults", "refuse_impossible"]

log = logging.getLogger(__name__)

#: Parameters by which a cohort is looked at.
_ASKED_OF = {
    "manifest", "split_ratios", "split_seed", "folds", "target_class", "magnification", "tile_px", "edge_tiles",
    "resolution_by",
}  # fmt: skip


def arm_faults(arm: dict) -> list[str]:
    """What does not fit together in the parameters of one arm, those that the preset leaves out at their defaults."""
    faults = setting_faults(arm)
    folds, fold = arm["folds"], arm["fold"]
    if folds and not 0 <= fold < folds:
        faults.append(f"`fold: {fold}` is none of the {folds} folds, which are counted from 0")
    if folds in (1, 2) or folds < 0:
        faults.append(f"`folds` should be 0 (one split) or 3 and more, not {folds}")
    if fold and not folds:
        faults.append(f"`fold: {fold}` asks for one of several splits: set `folds`")
    return faults


def refuse_impossible(arms: Sequence[dict]) -> None:
    """Look at the cohort as the arms would use it.

    Parameters
    ----------
    arms
        The parameters of each arm, those that the preset leaves out at their defaults.

    Raises
    ------
    ParameterError
        If a slide stands in it twice, the patients cannot be split as asked, a set that is learnt or chosen on holds
        no target, no slide can hold a tile of an arm, or no tile holds as much target as `positive_pixels` asks for.
    """
    first = arms[0]
    if not _ASKED_OF <= first.keys():  # notebooks of another kind, which split and tile in their own way
        return
    slides = cohort.read_manifest(resolve(first["manifest"]))
    try:
        cohort.check_copies(slides)
        split = cohort.split_patients(
            slides, ratios=first["split_ratios"], folds=first["folds"], seed=first["split_seed"]
        )
        cohort.check_sets(split, cohort.patients_with_target(slides, first["target_class"]))
    except ValueError as error:
        raise ParameterError(f"The study cannot be made of this cohort. {error}") from error
    grids = {
        (arm["magnification"], arm["tile_px"], arm["resolution_by"]) for arm in arms if arm["edge_tiles"] == "drop"
    }
    faults = [fault for grid in sorted(grids) for fault in _too_small(slides, *grid)]
    faults += _out_of_reach(slides, arms)
    if faults:
        raise ParameterError("The study cannot be made of this cohort:\n" + "\n".join(f"  - {f}" for f in faults))


def _too_small(slides, magnification: float, tile_px: int, resolution_by: str) -> list[str]:
    mpp, name = units.mpp_for_magnification(magnification), units.magnification_name(magnification)
    held, largest = 0, 0
    for row in cohort.slide_rows(slides):
        try:
            with cohort.open_row(row, resolution_by=resolution_by) as slide:
                side = min(slide.size_px(mpp))
        except (TlskitError, OSError) as error:  # for the steps to report, slide by slide
            log.warning("%s: its size is not known yet (%s)", row.slide_id, error)
            return []
        held, largest = held + (side >= tile_px), max(largest, side)
    if held == 0:
        return [
            f"no slide holds a tile of `tile_px: {tile_px}` at {name} ({tile_px * mpp:g} um): the largest has room for "
            f"{largest} px. Use a `tile_px` of {max(32, largest // 32 * 32)} or less, or `edge_tiles: pad`"
        ]
    if held < len(slides):
        log.warning(
            "%d of %d slides are smaller than a tile of %d px at %s", len(slides) - held, len(slides), tile_px, name
        )
    return []


def _out_of_reach(slides, arms: Sequence[dict]) -> list[str]:
    """Shares of target pixels that not even the fullest tile of the cohort has.

    A share that only the tiles of the training set fail to reach is known when they are drawn, and refused by 03.
    """
    faults, known = {}, {}
    for arm in arms:
        asked = arm.get("positive_pixels", 0)
        if not asked:
            continue
        names = ("magnification", "tile_px", "overlap", "edge_tiles", "target_class", "ignore_class", "resolution_by")
        grid = {name: arm[name] for name in names if name in arm}
        if (key := str(grid)) not in known:
            known[key] = largest_target_fraction(slides, **grid)
        needed = needed_of_tiles(asked, arm["negatives_per_batch"], arm["batch_size"])
        if known[key] is not None and needed > known[key] + 1e-9:
            where = f"`tile_px: {arm['tile_px']}` at {units.magnification_name(arm['magnification'])}"
            faults[
                f"`positive_pixels: {asked:g}` is out of reach with {where}: tiles with target would have to hold "
                f"{needed:.3g} of it on average, and the fullest holds {known[key]:.3g}. Ask for a share that all arms "
                "can reach, or use a smaller `tile_px`"
            ] = None
    return list(faults)
