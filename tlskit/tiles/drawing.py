"""Which tiles make the batches of an epoch, where an arm says how many of them hold no target.

Three rules, from the simplest: all tiles alike (`batching.epoch_batches`); a fixed number of tiles without target in
every batch; a fixed share of target pixels among all pixels, reached by weights of drawing. All are functions of the
seed and the epoch's number alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tlskit.errors import TrainingError
from tlskit.tiles.batching import epoch_batches

__all__ = ["AS_THEY_COME", "Drawing", "plan_drawing", "tilted_weights"]

#: Value of `negatives_per_batch` that draws tiles with and without target alike.
AS_THEY_COME = -1

#: Tiles that a seed's stream of random numbers is for; so that one stream does not repeat another.
_STREAMS = {"positive": 1, "negative": 2, "hard": 3}


@dataclass(frozen=True)
class Drawing:
    """How the tiles of each epoch are drawn. Made by `plan_drawing`.

    Attributes
    ----------
    target_fraction, batch_size, steps, seed
        As asked; ``steps`` is the number of batches of an epoch, filled in where it was 0.
    positive, negative, hard
        Row numbers of the tiles with target, without, and of those without that the network took for target. Empty
        where tiles are drawn alike.
    weights
        Chance of each of ``positive`` at one drawing, ``(n,)``; None where they come in passes, each once.
    positives_per_batch
        On average; a batch has this many, rounded down or up.
    hard_share
        Share of ``hard`` among the tiles without target that are drawn.
    expected
        What this amounts to: ``positive_pixels`` (share of target pixels), ``negative_to_positive``,
        ``negatives_per_batch``, ``effective_tiles`` (of those with target: 1 / sum of squared weights).
    may_be_empty
        Whether a batch without any tile that holds target can come.
    """

    target_fraction: np.ndarray
    batch_size: int
    steps: int
    seed: int
    positive: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    negative: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    hard: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    weights: np.ndarray | None = None
    positives_per_batch: float | None = None
    hard_share: float = 0.0
    expected: dict = field(default_factory=dict)
    may_be_empty: bool = False

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Row numbers of the tiles of an epoch (from 0), one int64 array a batch."""
        if self.positives_per_batch is None:
            return epoch_batches(
                len(self.target_fraction), batch_size=self.batch_size, steps=self.steps, seed=self.seed, epoch=epoch
            )
        # Of all drawings so far, whole tiles nearest to the share: it is exact over any number of batches, to one tile.
        step = np.arange(epoch * self.steps, (epoch + 1) * self.steps + 1)
        positives = np.floor(step * self.positives_per_batch + 1e-6).astype(np.int64)
        negatives = step * self.batch_size - positives
        hards = np.floor(negatives * self.hard_share + 1e-6).astype(np.int64)
        drawn = {
            "positive": self._positives(epoch, positives),
            "hard": self._pass_of(self.hard, "hard", hards[0], hards[-1]),
            "negative": self._pass_of(self.negative, "negative", *(negatives - hards)[[0, -1]]),
        }
        made = []
        for place in range(self.steps):
            parts = []
            for name, upto in (("positive", positives), ("hard", hards), ("negative", negatives - hards)):
                first, last = upto[place] - upto[0], upto[place + 1] - upto[0]
                parts.append(drawn[name][first:last])
            made.append(np.concatenate(parts))
        return made

    def _positives(self, epoch: int, upto: np.ndarray) -> np.ndarray:
        if self.weights is None:
            return self._pass_of(self.positive, "positive", upto[0], upto[-1])
        # Systematic sampling along the tiles in order of what they hold: of n drawings a tile gets its n * weight,
        # rounded down or up, and the share of target is the one asked for in every epoch, not by luck in the long run.
        n = int(upto[-1] - upto[0])
        rng = np.random.default_rng((self.seed, _STREAMS["positive"], epoch))
        shuffled = rng.permutation(len(self.positive))  # equals in another order each time
        order = shuffled[np.argsort(self.target_fraction[self.positive[shuffled]], kind="stable")]
        reached = np.cumsum(self.weights[order])
        points = (np.arange(n) + rng.random()) / max(1, n) * reached[-1]
        return rng.permutation(self.positive[order[np.minimum(np.searchsorted(reached, points), len(order) - 1)]])

    def _pass_of(self, rows: np.ndarray, name: str, first: int, last: int) -> np.ndarray:
        """Drawings `first` to `last` of an endless row of reshuffled passes over some tiles."""
        if last <= first:
            return np.zeros(0, np.int64)
        passes = range(int(first) // len(rows), (int(last) - 1) // len(rows) + 1)
        row = [
            rows[np.random.default_rng((self.seed, _STREAMS[name], number)).permutation(len(rows))] for number in passes
        ]
        return np.concatenate(row)[first - passes.start * len(rows) :][: last - first]


def plan_drawing(
    target_fraction: np.ndarray,
    *,
    batch_size: int,
    steps: int = 0,
    seed: int,
    negatives_per_batch: int = AS_THEY_COME,
    positive_pixels: float = 0.0,
    hard: np.ndarray | None = None,
    hard_share: float = 0.0,
) -> Drawing:
    """Decide how tiles are drawn.

    Parameters
    ----------
    target_fraction
        Share of target in each training tile, ``(n,)``.
    batch_size, steps, seed
        As of `batching.epoch_batches`; with ``steps=0`` an epoch is one pass over the tiles with target.
    negatives_per_batch
        Tiles without target in every batch; 0 trains on tiles with target alone, -1 draws all tiles alike.
    positive_pixels
        Share of target pixels among all pixels drawn, 0 to 1; 0 leaves it as it comes. As few tiles are weighted as
        will do: tiles without target first dilute the others, which stay alike; only where that cannot reach the share
        (or `negatives_per_batch` is fixed) are tiles with more (or less) target drawn more often, by weights
        ``exp(c * target_fraction)``, the ones that change the drawing least.
    hard, hard_share
        Row numbers of tiles without target that are to make up this share of those drawn.

    Raises
    ------
    TrainingError
        If the tiles cannot be drawn so: there are none without target, or the share of target is out of reach.
    """
    target_fraction = np.asarray(target_fraction, np.float64)
    n = len(target_fraction)
    positive, negative = np.flatnonzero(target_fraction > 0), np.flatnonzero(target_fraction <= 0)
    mean = float(target_fraction.mean()) if n else 0.0
    if negatives_per_batch == AS_THEY_COME and not positive_pixels:
        expected = _expected(mean, batch_size * len(negative) / max(1, n), len(positive))
        return Drawing(
            target_fraction,
            batch_size,
            steps,
            seed,
            expected=expected,
            may_be_empty=len(negative) >= min(batch_size, n),
        )
    if not len(positive):
        raise TrainingError("None of the training tiles holds target: nothing can be learnt from them.")
    of_positive = target_fraction[positive]
    if negatives_per_batch != AS_THEY_COME:
        share = 1 - negatives_per_batch / batch_size
    else:
        share = min(1.0, positive_pixels / of_positive.mean()) if len(negative) else 1.0
    if share < 1 and not len(negative):
        raise TrainingError(
            "Tiles without target are to be drawn, and the tile table holds none: set `keep_tiles: tissue`, so that "
            "01_tiling keeps them."
        )
    weights = None
    if positive_pixels and abs(positive_pixels / share - of_positive.mean()) > 1e-9:
        weights = tilted_weights(of_positive, positive_pixels / share, asked=positive_pixels)
    elif positive_pixels:
        weights = np.full(len(positive), 1 / len(positive))
    mean = share * float(of_positive.mean() if weights is None else weights @ of_positive)
    effective = len(positive) if weights is None else 1 / np.square(weights).sum()
    expected = _expected(mean, batch_size * (1 - share), effective)
    per_batch = share * batch_size
    if not steps:
        steps = max(1, int(len(positive) / per_batch))
    hard = np.asarray([] if hard is None else hard, np.int64)
    others = np.setdiff1d(negative, hard)
    if hard_share and not len(hard):
        hard_share = 0.0
    if hard_share < 1 and not len(others):
        hard_share = 1.0
    return Drawing(
        target_fraction, batch_size, steps, seed, positive, others, hard, weights, per_batch, hard_share, expected,
        may_be_empty=int(per_batch + 1e-6) < 1,
    )  # fmt: skip


def tilted_weights(values: np.ndarray, mean: float, *, asked: float) -> np.ndarray:
    """Weights ``exp(c * value)``, summing to 1, under which the mean of `values` is `mean`.

    Of all weights that give this mean they are the nearest to equal ones (least relative entropy).

    Raises
    ------
    TrainingError
        If no weights can: `mean` lies beyond the smallest or largest value. `asked` is the share that was asked for.
    """
    low, high = float(values.min()), float(values.max())
    if not low < mean < high:
        raise TrainingError(
            f"`positive_pixels: {asked:g}` is out of reach: the tiles with target would have to hold {mean:.3g} of it "
            f"on average, and hold between {low:.3g} and {high:.3g}. Ask for a share that all arms can reach, use "
            "smaller tiles (`tile_px`) where it is too large, or `keep_tiles: tissue` where it is too small."
        )
    values = values - mean

    def weights(c: float) -> np.ndarray:
        raw = np.exp(c * values - (c * values).max())
        return raw / raw.sum()

    left, right = -1.0, 1.0
    while weights(left) @ values > 0:
        left *= 2
    while weights(right) @ values < 0:
        right *= 2
    for _ in range(200):
        middle = (left + right) / 2
        left, right = (middle, right) if weights(middle) @ values < 0 else (left, middle)
    return weights((left + right) / 2)


def _expected(positive_pixels: float, negatives: float, effective: float) -> dict:
    return {
        "positive_pixels": positive_pixels,
        "negative_to_positive": (1 - positive_pixels) / positive_pixels if positive_pixels else float("nan"),
        "negatives_per_batch": negatives,
        "effective_tiles": float(effective),
    }
