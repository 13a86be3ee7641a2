"""Batches for training and inference: which tiles make them, and threads that make them ahead of their use.

Slides and decoders release Python's lock while they work, so threads suffice on every platform, share open slides,
and leave nothing to pickle.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["ahead", "cores_each", "epoch_batches", "read_batches"]


def epoch_batches(n_tiles: int, *, batch_size: int, steps: int = 0, seed: int, epoch: int) -> list[np.ndarray]:
    """Which tiles make the batches of an epoch: a function of the seed and the epoch's number alone.

    With ``steps=0`` an epoch is one pass over all tiles in random order; the last batch is dropped where it is not
    full (a batch of one tile would make BatchNorm's statistics those of that tile). Fewer tiles than a batch make one
    batch. With ``steps`` an epoch is that many full batches out of an endless row of reshuffled passes, so that over
    the epochs every tile is seen equally often, to within one.

    Returns
    -------
    list of int64 arrays
        Row numbers of the tiles, one array a batch.
    """

    def shuffled(number: int) -> np.ndarray:
        return np.random.default_rng((seed, number)).permutation(n_tiles)

    if steps:
        first, last = epoch * steps * batch_size, (epoch + 1) * steps * batch_size
        passes = range(first // n_tiles, (last - 1) // n_tiles + 1)
        row = np.concatenate([shuffled(number) for number in passes])
        drawn = row[first - passes.start * n_tiles :][: last - first]
        return list(drawn.reshape(steps, batch_size))
    row = shuffled(epoch)
    full = n_tiles // batch_size
    if full:
        return list(row[: full * batch_size].reshape(full, batch_size))
    # BatchNorm refuses a single value per channel, which one tile gives it at the network's deepest layer.
    return [np.repeat(row, 2) if n_tiles == 1 else row]


def read_batches(
    dataset,
    plan: Sequence[Sequence[int]],
    *,
    workers: int = 1,
    seed: tuple[int, ...] = (0,),
    pin_memory: bool = False,
    raw: bool = False,
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of a dataset, made in background threads while the last one is computed on.

    Parameters
    ----------
    dataset
        A `tlskit.tiles.datasets.TileDataset`, or anything with its ``batch``.
    plan
        Row numbers by batch.
    workers
        Threads. 0 makes each batch when it is asked for, in the caller's thread.
    seed
        Of the augmentation, together with the position in the plan.
    pin_memory
        Put batches into page-locked memory, from which a GPU fetches them while it computes.
    raw
        Of `TileDataset.batch`.

    Yields
    ------
    tuple of tensors
        ``(images, masks, indices)`` as `TileDataset.batch` gives them, in the plan's order whatever the number of
        threads. An error in a thread is raised where its batch would have come.
    """
    starts = np.cumsum([0, *map(len, plan)])

    def make(number: int):
        seeds = [(*seed, place) for place in range(starts[number], starts[number + 1])]
        made = dataset.batch(plan[number], seeds=seeds, **({"raw": True} if raw else {}))
        return tuple(tensor.pin_memory() for tensor in made) if pin_memory else made

    with cores_each(1) as begin:
        yield from ahead(make, range(len(plan)), workers=workers, initializer=begin)


@contextlib.contextmanager
def cores_each(count: int) -> Iterator[Callable[[], None]]:
    """What threads call first, so that torch's operations in each of them use `count` cores.

    Each thread that calls torch gets helpers of its own, which go on spinning after their work: beside the network's
    own threads those of a reader cost a training step up to a third on a CPU. torch keeps the number for this thread,
    but also for threads that are yet to come; the end of the block gives those the caller's number again.
    """
    import torch

    before = torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # a thread's first call of torch sets its number to the general one
        torch.set_num_threads(count)

    try:
        yield begin
    finally:
        torch.set_num_threads(before)


def ahead(
    function: Callable, items: Sequence, *, workers: int, initializer: Callable[[], None] | None = None
) -> Iterator:
    """``map(function, items)``, in order, computed by threads ahead of their use, one item a thread.

    With ``workers=0`` each is computed when it is asked for, in the caller's thread. An error in a thread is raised
    where its item would have come. Leaving the iteration early waits for the items under way and drops the rest.
    Each thread begins with a call of `initializer`.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tlskit-ahead", initializer=initializer)
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
