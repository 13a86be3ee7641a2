"""How far an engine's probabilities are from plain float32: by the number itself, and by what a user sees of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np

__all__ = ["EXACT_DPROB", "MAX_DPROB", "MAX_FLIPPED", "MIN_DICE", "Agreement", "compare"]

#: Largest difference of a probability that ``auto`` puts up with.
MAX_DPROB = 0.02
#: The same for float32 summed in another order: it moves trained networks by 1e-6 to 3e-5, and a map's step is 4e-3.
EXACT_DPROB = 1e-4
#: Largest share of pixels that change side at the threshold, and smallest Dice of the two masks.
MAX_FLIPPED, MIN_DICE = 0.001, 0.995
#: Objects of fewer pixels are specks, which any rounding makes and unmakes.
_SPECK_PX = 25


@dataclass(frozen=True)
class Agreement:
    """An engine against plain float32, on the same windows.

    Attributes
    ----------
    n_windows : int
    max_dprob, p999_dprob : float
        Largest difference of a probability, and the 99.9th centile of all pixels.
    flipped : float
        Share of pixels that change side at the threshold.
    dice : float
        Of the two masks at the threshold; nan where both are empty.
    objects_changed : int
        Objects (8-connected, of 25 px or more) of either mask that meet none in the other.
    """

    n_windows: int
    max_dprob: float
    p999_dprob: float
    flipped: float
    dice: float
    objects_changed: int

    def broken_limit(self, *, exact: bool = False) -> str:
        """Which limit does not hold, in words with the figure; empty where all hold."""
        limit = EXACT_DPROB if exact else MAX_DPROB
        if not self.max_dprob <= limit:  # nan breaks it, too
            return f"a probability by {self.max_dprob:.3g} (limit {limit:g}) on {self.n_windows} windows"
        if self.flipped > MAX_FLIPPED:
            return f"{self.flipped:.2%} of pixels change side (limit {MAX_FLIPPED:.1%}) on {self.n_windows} windows"
        if self.dice < MIN_DICE:
            return f"the masks' Dice is {self.dice:.4f} (limit {MIN_DICE:g}) on {self.n_windows} windows"
        if self.objects_changed:
            return f"{self.objects_changed} objects appear or vanish on {self.n_windows} windows"
        return ""

    def as_dict(self) -> dict:
        return asdict(self)

    def joined(self, other: Agreement) -> Agreement:
        """Of both sets of windows: the worse of each figure; the share of flipped pixels is the mean by windows."""
        windows = self.n_windows + other.n_windows
        return Agreement(
            n_windows=windows,
            max_dprob=max(self.max_dprob, other.max_dprob),
            p999_dprob=max(self.p999_dprob, other.p999_dprob),
            flipped=(self.flipped * self.n_windows + other.flipped * other.n_windows) / windows,
            dice=float(np.fmin(self.dice, other.dice)),
            objects_changed=self.objects_changed + other.objects_changed,
        )


def compare(given: np.ndarray, reference: np.ndarray, *, threshold: float) -> Agreement:
    """Compare two stacks of probabilities, ``(B, S, S) float32``, of the same windows."""
    difference = np.abs(given - reference)
    ours, theirs = given >= threshold, reference >= threshold
    positive = int(ours.sum()) + int(theirs.sum())
    return Agreement(
        n_windows=len(given),
        max_dprob=float(difference.max(initial=0.0)),
        p999_dprob=float(np.quantile(difference, 0.999)) if difference.size else 0.0,
        flipped=float((ours != theirs).mean()) if difference.size else 0.0,
        dice=2.0 * int((ours & theirs).sum()) / positive if positive else float("nan"),
        objects_changed=sum(_lonely(a, b) + _lonely(b, a) for a, b in zip(ours, theirs, strict=True)),
    )


def _lonely(mask: np.ndarray, other: np.ndarray) -> int:
    """Objects of `mask` that hold no pixel of `other`."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    met = np.zeros(count, bool)
    met[labels[other]] = True
    large = facts[:, cv2.CC_STAT_AREA] >= _SPECK_PX
    return int((large & ~met)[1:].sum())
