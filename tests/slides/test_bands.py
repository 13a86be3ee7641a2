"""Streams over a level made of arrays: what is read, how often, and what happens to losses."""

import threading
import time
from collections import Counter

import numpy as np
import pytest

from tlskit.slides.bands import Lost, covered_strips, region, stream


class ArrayLevel:
    """A level in memory that counts how often each tile is asked for."""

    index = 0

    def __init__(self, width, height, tile_px=(64, 48), broken=()):
        self.pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        self.size_px, self.tile_px, self.broken = (width, height), tile_px, set(broken)
        self.asked = Counter()
        self.lock = threading.Lock()

    def tile(self, column, row, buffer=None):
        with self.lock:
            self.asked[column, row] += 1
        w, h = self.tile_px
        out = np.empty((h, w, 3), np.uint8) if buffer is None else buffer
        out[:] = 255
        part = self.pixels[row * h : (row + 1) * h, column * w : (column + 1) * w]
        if (column, row) in self.broken:
            return out, [Lost(column * w, row * h, *part.shape[1::-1], "broken")]
        out[: part.shape[0], : part.shape[1]] = part
        return out, []


def alone(level, ratio, x, y, size):
    return region(level.tile, level, ratio=ratio, x_px=x, y_px=y, width_px=size, height_px=size)[0]


RATIOS = [1.0, 2.0, 4.0, 0.98, 1.25, 1.977, 2.5, 3.0]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("seed", range(4))
def test_windows_of_a_stream_equal_regions_read_alone(ratio, seed):
    rng = np.random.default_rng(seed)
    level = ArrayLevel(*rng.integers(150, 420, 2).tolist())
    size = int(rng.integers(5, 90))
    reach = int(max(level.size_px) / ratio)
    xy = rng.integers(-size - 5, reach + 10, (60, 2))
    seen = []
    for i, window, lost in stream(level, ratio=ratio, xy_px=xy, size_px=size):
        np.testing.assert_array_equal(window, alone(level, ratio, *xy[i], size))
        assert lost == []
        seen.append(i)
    assert sorted(seen) == list(range(60))
    assert [tuple(xy[i, ::-1]) for i in seen] == sorted(tuple(p) for p in xy[:, ::-1])


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_pass_decodes_each_tile_once_and_only_what_windows_cover(ratio):
    level = ArrayLevel(700, 500)
    grid = np.array([(x, y) for y in range(0, 150, 20) for x in range(0, 200, 20)])
    rng = np.random.default_rng(3)
    xy = grid[rng.random(len(grid)) < 0.3]
    for _ in stream(level, ratio=ratio, xy_px=xy, size_px=40):
        pass
    covered = np.zeros((500, 700), bool)
    for x, y in xy:
        covered[int(y * ratio) : -int(-(y + 40) * ratio // 1), int(x * ratio) : -int(-(x + 40) * ratio // 1)] = True
    w, h = level.tile_px
    needed = {(c, r) for r in range(11) for c in range(11) if covered[r * h : (r + 1) * h, c * w : (c + 1) * w].any()}
    assert set(level.asked.values()) == {1}
    assert needed <= set(level.asked)
    # Windows of one strip share its rows, so that a tile at a strip's border may be read though windows just miss it.
    assert len(set(level.asked) - needed) <= 0.1 * len(needed)


def test_nothing_is_read_for_no_windows_and_for_windows_off_the_slide():
    level = ArrayLevel(100, 100)
    assert list(stream(level, ratio=1.0, xy_px=np.empty((0, 2), int), size_px=8)) == []
    for _, window, _ in stream(level, ratio=1.0, xy_px=[(-50, -50), (300, 20), (20, 300)], size_px=8):
        assert (window == 255).all()
    assert not level.asked


@pytest.mark.parametrize("ratio", [1.0, 2.0, 1.977])
def test_a_loss_is_told_to_exactly_the_windows_that_meet_it(ratio):
    level = ArrayLevel(640, 480, broken={(2, 3)})
    xy = np.array([(x, y) for y in range(0, 200, 16) for x in range(0, 280, 16)])
    for i, _, lost in stream(level, ratio=ratio, xy_px=xy, size_px=32):
        (x0, y0), (x1, y1) = xy[i] * ratio, (xy[i] + 32) * ratio
        meets = x0 < 192 and x1 > 128 and y0 < 192 and y1 > 144
        assert bool(lost) == meets, xy[i]
    assert level.asked[2, 3] == 1


def test_windows_stay_as_they_are_while_the_stream_goes_on():
    level = ArrayLevel(300, 400)
    xy = np.array([(x, y) for y in range(0, 300, 20) for x in range(0, 200, 20)])
    kept = [(i, window) for i, window, _ in stream(level, ratio=1.0, xy_px=xy, size_px=64)]
    for i, window in kept:
        np.testing.assert_array_equal(window, alone(level, 1.0, *xy[i], 64))
        with pytest.raises(ValueError, match="read-only"):
            window[:] = 0


def test_a_stream_left_early_leaves_no_threads():
    before = threading.active_count()
    windows = stream(ArrayLevel(600, 600), ratio=1.0, xy_px=[(0, y) for y in range(0, 500, 10)], size_px=64)
    next(windows)
    windows.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 1.977])
def test_threads_that_overtake_one_another_change_nothing(ratio, threads):
    class Uneven(ArrayLevel):
        def tile(self, column, row, buffer=None):
            time.sleep((column * 7 + row * 3) % 5 / 2000)
            return super().tile(column, row, buffer)

    level = Uneven(600, 500)
    xy = np.array([(x, y) for y in range(-10, int(460 / ratio), 37) for x in range(-5, int(560 / ratio), 41)])
    for i, window, _ in stream(level, ratio=ratio, xy_px=xy, size_px=80, threads=threads):
        np.testing.assert_array_equal(window, alone(ArrayLevel(600, 500), ratio, *xy[i], 80))
    assert set(level.asked.values()) == {1}


@pytest.mark.parametrize("ratio", [1.0, 1.977])
def test_an_error_in_a_thread_reaches_the_caller(ratio):
    class Failing(ArrayLevel):
        def tile(self, column, row, buffer=None):
            if row == 4:
                raise OSError("gone")
            return super().tile(column, row, buffer)

    with pytest.raises(OSError, match="gone"):
        list(stream(Failing(300, 400), ratio=ratio, xy_px=[(0, y) for y in range(0, 300, 10)], size_px=64))


@pytest.mark.parametrize("seed", range(6))
def test_strips_are_the_union_of_the_windows_each_pixel_once(seed):
    rng = np.random.default_rng(seed)
    xy, size = rng.integers(0, 120, (25, 2)), int(rng.integers(1, 40))
    union, once = np.zeros((160, 160), int), np.zeros((160, 160), int)
    for x, y in xy:
        union[y : y + size, x : x + size] = 1
    for top, bottom, spans in covered_strips(xy, size):
        for left, right in spans:
            once[top:bottom, left:right] += 1
    # A strip's spans join windows that start anywhere above it, all of which reach through it.
    np.testing.assert_array_equal(once, union)


def test_a_large_region_in_pieces_equals_one_in_one(monkeypatch):
    level = ArrayLevel(500, 600)
    whole = region(level.tile, level, ratio=1.7, x_px=-5, y_px=-5, width_px=320, height_px=380)[0]
    monkeypatch.setattr("tlskit.slides.bands._REGION_PX", 20_000)
    pieces = region(level.tile, level, ratio=1.7, x_px=-5, y_px=-5, width_px=320, height_px=380)[0]
    np.testing.assert_array_equal(whole, pieces)
