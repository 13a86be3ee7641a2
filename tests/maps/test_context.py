"""The context of a slide's windows: the right field for every window, whatever is held of it."""

import logging
from types import SimpleNamespace

import made_context
import numpy as np
import pytest
from made_context import checkpoint
from made_slides import picture, vips_slide

from tlskit.errors import SlideError
from tlskit.maps import context as contexts
from tlskit.maps import inference, probmaps, screening, slide_inference
from tlskit.maps.windows import layout_for, plan_windows, spread_windows, typical_windows
from tlskit.slides import Tissue, bands, open_slide
from tlskit.tiles import context_origin, other_windows, own_field_only

#: Of the slide: a um/px by which neither lattice meets the other's pixels evenly.
MPP0 = 0.237
SIZE_PX0 = (2900, 2300)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    image = picture(*SIZE_PX0, seed=4, glass=201)
    return vips_slide(tmp_path_factory.mktemp("s") / "s.svs", image, mpp=MPP0, power=40)


@pytest.fixture(params=["held whole", "in bands"])
def held(request, monkeypatch):
    """Both ways to hold a context: up to a bound all of it, above it one strip's blocks at a time."""
    monkeypatch.setattr(contexts, "CONTEXT_BYTES", 10**9 if request.param == "held whole" else 0)
    return request.param


def predict(made, slide, out, **options):
    options = {
        "tissue": False, "engine": "torch", "precision": "exact", "progress": False, "block_px": 64, "strip_px": 200,
        "slide_id": "s", **options,
    }  # fmt: skip
    return inference.predict_slide(made, slide, out, **options)


def pixels(path):
    with probmaps.open_map(path) as found:
        return found.read(0, 0, *found.size_px)


def in_memory(made, path, *, shown=None):
    """The plain way: tile and context of every window read alone, weighted by Hann, summed, divided."""
    side, ratio = made.tile_px, made.context_ratio
    layout = layout_for(made)
    weight = np.outer(layout.weights, layout.weights)
    with open_slide(path) as slide:
        width, height = slide.size_px(made.mpp)
        corners = [(x, y) for y in layout.starts(height).tolist() for x in layout.starts(width).tolist()]
        sums, total = np.zeros((2, height + 2 * side, width + 2 * side))
        for number, (x, y) in enumerate(corners):
            tile = slide.read(x, y, side, side, mpp=made.mpp)
            of = corners[number if shown is None else shown[number]]
            at = context_origin(*of, side, made.context_px, ratio)
            context = slide.read(*at, made.context_px, made.context_px, mpp=made.mpp * ratio)
            if made.context_of == "self":
                context = own_field_only(context, side, ratio)
            here = slice(y, y + side), slice(x, x + side)
            sums[here] += weight * made_context.probability(tile, context, ratio)
            total[here] += weight
    return (sums / np.maximum(total, 1))[:height, :width] * 255


@pytest.mark.parametrize(
    ("ratio", "context_px", "tile_px", "overlap"),
    [(2, 64, 64, 0.5), (4, 32, 64, 0.5), (8, 32, 64, 0.5), (4, 96, 64, 0.5), (4, 32, 64, 0.3), (8, 64, 128, 0.9)],
)
def test_streamed_equals_in_memory_at_every_ratio_and_stride(path, tmp_path, held, ratio, context_px, tile_px, overlap):
    made = checkpoint(ratio=ratio, context_px=context_px, tile_px=tile_px, overlap=overlap)
    predict(made, path, tmp_path / "m.tif")
    expected = in_memory(made, path)
    assert np.abs(pixels(tmp_path / "m.tif") - expected).max() < 0.53 and expected.std() > 5


@pytest.mark.parametrize("of", ["self", "other"])
def test_controls_are_shown_what_they_are_named_after(path, tmp_path, held, of):
    made = checkpoint(ratio=4, context_px=64, of=of)
    with open_slide(path) as slide:
        size = slide.size_px(made.mpp)
    layout = layout_for(made)
    shown = other_windows(len(layout.starts(size[0])) * len(layout.starts(size[1]))) if of == "other" else None
    predict(made, path, tmp_path / "m.tif")
    expected = in_memory(made, path, shown=shown)
    assert np.abs(pixels(tmp_path / "m.tif") - expected).max() < 0.53
    plain = in_memory(checkpoint(ratio=4, context_px=64), path)
    assert np.abs(expected - plain).max() > 5, "the control differs from the true context"


def test_the_only_window_of_a_slide_has_no_other_and_is_shown_white(path, tmp_path, held):
    made = checkpoint(of="other", tile_px=1024, context_px=512)
    predict(made, path, tmp_path / "m.tif")
    with open_slide(path) as slide:
        tile = slide.read(0, 0, 1024, 1024, mpp=made.mpp)
    white = np.full((512, 512, 3), 255, np.uint8)
    expected = made_context.probability(tile, white, 4) * 255
    found = pixels(tmp_path / "m.tif")
    assert np.abs(found - expected[: found.shape[0], : found.shape[1]]).max() < 0.53


@pytest.mark.parametrize("of", ["field", "other"])
def test_the_file_depends_on_no_way_of_cutting_up_the_work_or_of_holding_the_context(path, tmp_path, monkeypatch, of):
    files = set()
    for number, (strip_px, batch, bound) in enumerate([(64, 1, 0), (200, 5, 0), (10_000, 8, 0), (64, 3, 10**9)]):
        monkeypatch.setattr(contexts, "CONTEXT_BYTES", bound)
        predict(checkpoint(of=of), path, tmp_path / f"{number}.tif", strip_px=strip_px, batch_size=batch)
        files.add((tmp_path / f"{number}.tif").read_bytes())
    assert len(files) == 1


class Dying:
    """A slide that dies after some windows of the tiles or some blocks of the context; what it cannot read, by box."""

    def __init__(self, path, *, dies_after=None, at_mpp=None, lost=None):
        self._slide, self._left, self._at, self._lost = open_slide(path), dies_after, at_mpp, lost
        self.lost = self._slide.lost

    def __getattr__(self, name):
        return getattr(self._slide, name)

    def windows(self, xy_px, size_px, *, mpp, **options):
        for index, window in self._slide.windows(xy_px, size_px, mpp=mpp, **options):
            if mpp == self._at and self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise SlideError("the file ends here")
            if mpp == self._at and self._lost is not None:
                (left, top, right, bottom), (x, y) = self._lost, xy_px[index]
                if x < right and left < x + size_px and y < bottom and top < y + size_px:
                    self.lost.append({"x_px0": 0, "y_px0": 0, "width_px0": 1, "height_px0": 1})
                    window = None
            yield index, window


@pytest.mark.parametrize("of", ["field", "other"])
@pytest.mark.parametrize(("dies_after", "at"), [(120, "tile"), (300, "tile"), (3, "context"), (9, "context")])
def test_an_interrupted_slide_goes_on_to_the_identical_file(path, tmp_path, held, of, dies_after, at):
    made = checkpoint(of=of)
    predict(made, path, tmp_path / "whole.tif", batch_size=4)
    at_mpp = made.mpp * (1 if at == "tile" else made.context_ratio)
    with pytest.raises(SlideError, match="ends here"):
        # one look at the slide chooses the engine: it reads 16 windows, and their context
        predict(made, Dying(path, dies_after=dies_after, at_mpp=at_mpp), tmp_path / "m.tif", batch_size=4)
    again = predict(made, path, tmp_path / "m.tif", batch_size=3)
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert again.resumed_windows > 0 or dies_after < 200


def test_a_window_whose_context_cannot_be_read_is_lost_and_the_rest_is_there(path, tmp_path, held):
    made = checkpoint(ratio=4, context_px=32)
    box = (70, 64, 90, 128)  # in pixels of the context's lattice; lost by blocks of 64
    slide = Dying(path, at_mpp=made.mpp * 4, lost=box)
    result = predict(made, slide, tmp_path / "m.tif", batch_size=3)
    layout, (width, height) = layout_for(made), slide.size_px(made.mpp)
    lost = {
        (x, y)
        for x in layout.starts(width).tolist()
        for y in layout.starts(height).tolist()
        for cx, cy in [context_origin(x, y, 64, 32, 4)]
        if cx < 128 and 64 < cx + 32 and cy < 128 and 64 < cy + 32
    }
    n = len(layout.starts(width)) * len(layout.starts(height))
    assert lost and result.windows == n - len(lost) and result.invalid_px > 0
    with probmaps.open_map(tmp_path / "m.tif") as found:
        assert found.metadata["windows_lost"] == len(lost) and found.invalid
    whole = predict(made, path, tmp_path / "whole.tif")
    assert whole.windows == n
    x, y = (np.array(list(lost)).min(0) - 64).tolist()
    away = np.s_[: max(0, y)], np.s_[: max(0, x)]
    assert np.array_equal(pixels(tmp_path / "m.tif")[away[0]], pixels(tmp_path / "whole.tif")[away[0]])
    assert np.array_equal(pixels(tmp_path / "m.tif")[:, away[1]], pixels(tmp_path / "whole.tif")[:, away[1]])


def test_every_stored_tile_is_decoded_once_and_only_where_windows_look(path, tmp_path, held, monkeypatch):
    seen = []
    read = bands._Bands._tile
    monkeypatch.setattr(
        bands._Bands, "_tile", lambda self, key, buffer: seen.append((self.level.index, key)) or read(self, key, buffer)
    )
    made = checkpoint(ratio=4, context_px=96)
    mask = np.zeros((23, 29), bool)
    mask[3:5, 4:6] = True
    corner = Tissue(mask, mpp=MPP0 * 100, mpp0=MPP0)
    with open_slide(path) as slide:
        levels = {slide.level_for(made.mpp), slide.level_for(made.mpp * 4)}
        monkeypatch.setattr(slide_inference.EngineChoice, "make", _chosen_without_looking)
        predict(made, slide, tmp_path / "m.tif", strip_px=10_000, tissue=corner)
        assert {level for level, _ in seen} == levels and len(levels) == 2
        assert len(seen) == len(set(seen)), "a stored tile was decoded twice"
        some = len(seen)
        seen.clear()
        predict(made, slide, tmp_path / "all.tif", strip_px=10_000)
        assert len(seen) == len(set(seen)) > 3 * some


def _chosen_without_looking(self, *_):
    self._made = self._source.exactly("torch", "exact")
    self.name, self.precision = self._made.name, self._made.precision


def test_bands_hold_no_more_than_the_contexts_of_a_row_of_windows(path, tmp_path, monkeypatch):
    held = []
    forget = contexts._Reading.forget_above
    monkeypatch.setattr(
        contexts._Reading, "forget_above", lambda self, y: (forget(self, y), held.append(len(self._held)))
    )
    monkeypatch.setattr(contexts, "CONTEXT_BYTES", 0)
    monkeypatch.setattr(contexts, "BLOCK_PX", 16)
    predict(checkpoint(ratio=2, context_px=64), path, tmp_path / "m.tif", strip_px=64)
    # A strip of 128 px is 64 + 64 px of context and a few; 64 + 32 rows of it, by blocks of 16.
    assert 20 < max(held) <= 9 * 7


@pytest.mark.parametrize("bound", [0, 10**9])
def test_what_an_engine_is_chosen_by_is_what_windows_show(path, monkeypatch, bound):
    monkeypatch.setattr(contexts, "CONTEXT_BYTES", bound)
    made = checkpoint(of="other")
    layout = layout_for(made)
    with open_slide(path) as slide:
        planned, _ = plan_windows(slide, layout, slide.size_px(made.mpp), made.mpp, False)
        context = contexts.slide_context(made, slide, layout, planned)
        found = spread_windows(slide, layout, made.mpp, planned, 7, context)
        assert found.dtype.names == ("tile", "context") and found.shape == (7,)
        corners = np.stack(np.meshgrid(*(layout.starts(s) for s in slide.size_px(made.mpp))), 2).reshape(-1, 2)
        others = corners[other_windows(len(corners))]
        tiles = {slide.read(x, y, 64, 64, mpp=made.mpp).tobytes(): n for n, (x, y) in enumerate(corners.tolist())}
        for window in found:
            x, y = others[tiles[window["tile"].tobytes()]].tolist()
            at = context_origin(x, y, 64, 32, 4)
            assert np.array_equal(window["context"], slide.read(*at, 32, 32, mpp=made.mpp * 4))
        assert spread_windows(slide, layout, made.mpp, planned, 0, context).shape == (0,)
        assert typical_windows(made, slide, layout, 3)["context"].shape == (3, 32, 32, 3)


def test_a_screen_works_with_a_context(path, tmp_path, held):
    made = checkpoint()
    predict(made, path, tmp_path / "full.tif")
    mask = np.zeros((23, 29), bool)
    mask[8:15, 10:20] = True
    screen = screening.Screen(Tissue(mask, mpp=MPP0 * 100, mpp0=MPP0), {"sha256": "x"})
    made_map = predict(made, path, tmp_path / "s.tif", screen=screen)
    assert made_map.windows_screened > 0
    found, full = pixels(tmp_path / "s.tif"), pixels(tmp_path / "full.tif")
    x0, y0, x1, y1 = (round(v * 100 * MPP0) for v in (12, 10, 18, 13))  # well inside: all windows over it are run
    assert np.array_equal(found[y0:y1, x0:x1], full[y0:y1, x0:x1]) and (found == 0).mean() > 0.3


def test_a_map_says_its_context_and_one_of_another_is_made_again(path, tmp_path, caplog):
    row = SimpleNamespace(slide_id="s", slide_path=path, mpp_override=None)
    options = {
        "tissue": False, "engine": "torch", "precision": "exact", "progress": False, "block_px": 64,
    }  # fmt: skip
    made = checkpoint()
    first = inference.predict_cohort(made, [row], tmp_path, **options)
    assert not first["kept"].item() and first["context_s"].item() > 0
    assert inference.predict_cohort(made, [row], tmp_path, **options)["kept"].item()
    with probmaps.open_map(tmp_path / "s.tif") as found:
        assert found.metadata["parameters"]["context"] == {"ratio": 4, "px": 32, "of": "field"}
    with caplog.at_level(logging.INFO):
        for other in (checkpoint(of="self"), checkpoint(context_px=64), checkpoint(ratio=2, context_px=64)):
            assert not inference.predict_cohort(other, [row], tmp_path, **options)["kept"].item()
    assert "made with other settings" in caplog.text


def test_words_for_a_context():
    facts = contexts.facts_of(checkpoint(ratio=4, context_px=256, magnification=4))
    assert contexts.context_words(facts, 2.5) == "context 2560 um across at 10 um/px"
    assert contexts.context_words(facts | {"of": "self"}, 2.5).endswith("of which only the window's own field is shown")
    assert contexts.context_words(facts | {"of": "other"}, 2.5).endswith("that of another window")
    assert contexts.facts_of(SimpleNamespace()) == {} and contexts.context_words({}, 2.5) == ""


def test_stages_name_the_context_only_where_there_is_one(path, tmp_path):
    result = predict(checkpoint(), path, tmp_path / "m.tif")
    assert list(result.stage_s)[: len(inference.STAGES) + 1] == [
        *inference.STAGES[:4],
        "context",
        *inference.STAGES[4:],
    ]
    assert result.stage_s["context"] > 0 and "context" in {stage for stage, _, _ in result.events}


def test_frames_are_where_windows_and_contexts_were_read(path, tmp_path):
    made = checkpoint(ratio=4, context_px=32)
    predict(made, path, tmp_path / "m.tif")
    layout, d = layout_for(made), made.mpp / MPP0
    with probmaps.open_map(tmp_path / "m.tif") as found:
        frames = contexts.frames_of(found)
        starts = [layout.starts(side) for side in found.size_px]
    assert frames.window_px0 == pytest.approx(64 * d) and frames.context_px0 == pytest.approx(32 * 4 * d)
    for axis in (0, 1):
        assert np.allclose(frames.windows[axis], starts[axis] * d)
        middle = frames.contexts[axis] + frames.context_px0 / 2 - frames.windows[axis] - frames.window_px0 / 2
        assert np.abs(middle).max() < 1e-6, "concentric: strides are whole"
    window, context = frames.at(5 * 32 * d + 40 * d, -1000)
    assert window == pytest.approx((160 * d, 0, 64 * d)) and context == pytest.approx((128 * d, -32 * d, 128 * d))
    for of in ("self", "other"):
        predict(checkpoint(of=of), path, tmp_path / f"{of}.tif")
        with probmaps.open_map(tmp_path / f"{of}.tif") as found:
            assert contexts.frames_of(found) is None, "no field around the window was seen"
