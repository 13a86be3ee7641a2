"""Whole-slide inference: every pixel where it belongs, however the work was cut up."""

import importlib.util
import math
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_maps import WHITE, ArraySlide, Constant, Context, Pixelwise, checkpoint, picture, slide_row
from torch import nn

from tlskit.errors import CheckpointError, MapError, OutOfMemoryError, ParameterError, SlideError
from tlskit.maps import blending, inference, probmaps
from tlskit.maps import rows as rows_of_maps
from tlskit.maps.windows import invalid_boxes
from tlskit.networks import engines, hardware
from tlskit.outlines import reading as annotations
from tlskit.slides.slide import open_slide
from tlskit.slides.tiffs import write_slide

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino, which is optional, is not installed")
ENGINES = ["torch", pytest.param("openvino", marks=needs_openvino)]


def predict(model, slide, path, *, tile_px=64, model_overlap=0.5, **options):
    options = {"tissue": False, "engine": "torch", "precision": "exact", "progress": False, "block_px": 64, **options}
    return inference.predict_slide(checkpoint(model, tile_px=tile_px, overlap=model_overlap), slide, path, **options)


def pixels(path):
    with probmaps.open_map(path) as found:
        return found.read(0, 0, *found.size_px)


def blended_in_memory(model, image, *, tile_px, overlap):
    """The plain way, in float64: every window, its Hann weights, a sum and a division."""
    height, width = image.shape[:2]
    stride = round(tile_px * (1 - overlap))
    weight = np.sin(np.pi * (np.arange(tile_px) + 0.5) / tile_px) ** 2
    weight = np.outer(weight, weight)
    padded = np.pad(image, ((0, tile_px), (0, tile_px), (0, 0)), constant_values=WHITE)
    sums, total = np.zeros((2, height + 2 * tile_px, width + 2 * tile_px))
    for y in range(0, max(1, height - tile_px + stride), stride):
        for x in range(0, max(1, width - tile_px + stride), stride):
            window = torch.from_numpy(padded[y : y + tile_px, x : x + tile_px].copy()).permute(2, 0, 1)[None]
            with torch.inference_mode():
                p = torch.sigmoid(model(window.float() / 255))[0, 0].double().numpy()
            sums[y : y + tile_px, x : x + tile_px] += weight * p
            total[y : y + tile_px, x : x + tile_px] += weight
    return (sums / np.maximum(total, 1e-300))[:height, :width]


@pytest.mark.parametrize("probability", [0.5, 0.31, 0.123456, 0.999, 0.001])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75, 0.3, 0.9])
def test_a_constant_model_gives_its_constant_everywhere(tmp_path, probability, overlap):
    slide = ArraySlide(picture(301, 203))
    predict(Constant(probability), slide, tmp_path / "m.tif", overlap=overlap, strip_px=100)
    p24 = np.rint(torch.sigmoid(torch.tensor(Constant(probability).logit)).numpy() * np.float32(2**24)).astype(float)
    expected = np.rint(p24 * 255 / 2**24)
    assert np.array_equal(pixels(tmp_path / "m.tif"), np.full((203, 301), expected))
    assert int(expected) == round(probability * 255)


@pytest.mark.parametrize("probability", [0.31, 0.999])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_constant_model_gives_its_constant_by_every_engine(tmp_path, probability, engine):
    slide = ArraySlide(picture(301, 203))
    predict(Constant(probability), slide, tmp_path / "m.tif", strip_px=100, engine=engine, precision="auto")
    assert np.array_equal(pixels(tmp_path / "m.tif"), np.full((203, 301), round(probability * 255)))


@pytest.mark.parametrize("size", [(1, 1), (10, 300), (300, 10), (64, 64), (65, 64), (128, 129)])
def test_a_slide_of_any_size_is_covered_to_its_last_pixel(tmp_path, size):
    predict(Constant(0.8), ArraySlide(picture(*size)), tmp_path / "m.tif")
    assert np.array_equal(pixels(tmp_path / "m.tif"), np.full(size[::-1], 204))


@pytest.mark.parametrize("options", [{}, {"overlap": 0.7}])
def test_a_pixelwise_model_gives_the_slides_own_pixels(tmp_path, options):
    image = picture(391, 273)
    predict(Pixelwise(), ArraySlide(image), tmp_path / "m.tif", strip_px=128, **options)
    assert np.array_equal(pixels(tmp_path / "m.tif"), image[..., 0])


@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.6])
def test_streamed_equals_blended_in_memory(tmp_path, overlap):
    image, model = picture(310, 250), Context().eval()
    predict(model, ArraySlide(image), tmp_path / "m.tif", overlap=overlap, strip_px=96)
    expected = blended_in_memory(model, image, tile_px=64, overlap=overlap) * 255
    # Half a step is the map's own rounding; the rest is that of the weights, to 12 bits.
    assert np.abs(pixels(tmp_path / "m.tif") - expected).max() < 0.53
    assert expected.std() > 5


def test_the_file_depends_on_no_way_of_cutting_up_the_work(tmp_path):
    image, model = picture(400, 330), Context()
    files, maps = {}, []
    for strip_px, batch_size in [(64, 1), (64, 5), (150, 3), (200, 8), (10_000, 8), (10_000, 1000)]:
        path = tmp_path / f"{strip_px}_{batch_size}.tif"
        predict(model, ArraySlide(image), path, strip_px=strip_px, batch_size=batch_size, slide_id="s")
        files[path.name] = path.read_bytes()
    assert len(set(files.values())) == 1
    # The file's own blocks are part of the file; what is in them is not.
    for block_px in (16, 64, 256):
        predict(model, ArraySlide(image), tmp_path / f"b{block_px}.tif", block_px=block_px, strip_px=150)
        maps.append(pixels(tmp_path / f"b{block_px}.tif").tobytes())
    assert set(maps) == {pixels(path).tobytes()} and image.std() > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_the_file_does_not_depend_on_the_number_of_readers_or_of_the_engines_threads(tmp_path, threads):
    write_slide(tmp_path / "s.tif", picture(700, 500), mpp=1.0, objective_power=10)
    files = []
    for number in (2, threads):
        with open_slide(tmp_path / "s.tif") as slide:
            read = slide.windows
            slide.windows = lambda *places, read=read, number=number, **options: read(
                *places, **(options | {"threads": number})
            )
            torch.set_num_threads(number)
            predict(Context(), slide, tmp_path / f"{number}.tif", slide_id="s")
        files.append((tmp_path / f"{number}.tif").read_bytes())
    assert files[0] == files[1]


def test_the_file_does_not_depend_on_the_number_of_threads_that_finish_it(tmp_path, monkeypatch):
    image, files = picture(700, 500), []
    image[:, 300:500] = 0  # blank blocks among the others
    for writers in (0, 3):
        monkeypatch.setattr(hardware, "threads_beside", lambda device, n=writers: {"readers": 2, "writers": n})
        predict(Pixelwise(), ArraySlide(image), tmp_path / f"{writers}.tif", strip_px=200)
        files.append((tmp_path / f"{writers}.tif").read_bytes())
    assert files[0] == files[1] and len(files[0]) > 10_000


@pytest.mark.parametrize("overlap", [0.5, 0.75])
@pytest.mark.parametrize("dies_after", [1, 20, 37, 75, 100])
def test_an_interrupted_slide_goes_on_to_the_identical_file(tmp_path, dies_after, overlap):
    image, model = picture(400, 330), Context()
    options = {"strip_px": 128, "batch_size": 4, "overlap": overlap, "slide_id": "s"}
    whole = predict(model, ArraySlide(image), tmp_path / "whole.tif", **options)
    with pytest.raises(SlideError, match="the file ends here"):
        predict(model, ArraySlide(image, dies_after=dies_after), tmp_path / "m.tif", **options)
    assert not (tmp_path / "m.tif").exists()
    slide = ArraySlide(image)
    # even a resumed run that cuts batches otherwise
    resumed = predict(model, slide, tmp_path / "m.tif", **{**options, "batch_size": 7})
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert slide.served <= whole.windows
    assert resumed.resumed_windows == whole.windows - slide.served
    if dies_after >= 75 and overlap == 0.5:
        assert resumed.resumed_windows > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tif", "whole.tif"]


def test_a_journal_with_a_damaged_carry_is_not_trusted(tmp_path):
    image, model = picture(400, 330), Context()
    options = {"strip_px": 128, "batch_size": 1, "slide_id": "s"}
    predict(model, ArraySlide(image), tmp_path / "whole.tif", **options)
    with pytest.raises(SlideError):
        predict(model, ArraySlide(image, dies_after=60), tmp_path / "m.tif", **options)
    for carry in (tmp_path / ".m.tif.part").glob("carry_*.bin"):
        data = bytearray(carry.read_bytes())
        data[1000:1100] = b"\0" * 100
        carry.write_bytes(data)
    slide = ArraySlide(image)
    predict(model, slide, tmp_path / "m.tif", **options)
    assert slide.served == 120 and (tmp_path / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


class TwoPieces:
    """Tissue in two rectangles of the slide, in level-0 pixels."""

    area_mm2 = 1.25
    boxes = ((100, 100, 150, 140), (300, 20, 310, 330))

    def fractions(self, x_px0, y_px0, size_px0):
        inside = np.zeros(len(x_px0))
        for left, top, right, bottom in self.boxes:
            inside += np.clip(np.minimum(x_px0 + size_px0, right) - np.maximum(x_px0, left), 0, None) * np.clip(
                np.minimum(y_px0 + size_px0, bottom) - np.maximum(y_px0, top), 0, None
            )
        return inside / np.asarray(size_px0) ** 2


def test_windows_without_tissue_are_not_run_and_give_zero(tmp_path):
    slide = ArraySlide(picture(400, 330))
    result = predict(Constant(0.6), slide, tmp_path / "m.tif", tissue=TwoPieces(), strip_px=64)
    xs, ys = np.arange(12) * 32, np.arange(10) * 32
    grid_x, grid_y = (g.ravel() for g in np.meshgrid(xs, ys))
    run = TwoPieces().fractions(grid_x, grid_y, np.full(grid_x.size, 64)) > 0
    expected = np.zeros((330 + 64, 400 + 64), np.uint8)
    for x, y in zip(grid_x[run], grid_y[run], strict=True):
        expected[y : y + 64, x : x + 64] = 153
    assert np.array_equal(pixels(tmp_path / "m.tif"), expected[:330, :400])
    assert slide.served == result.windows == run.sum() and result.windows_skipped == (~run).sum()
    assert result.tissue_mm2 == 1.25


def test_a_lost_region_is_named_and_invalid_and_the_rest_is_there(tmp_path):
    image, box = picture(400, 330), (150, 130, 40, 30)
    slide = ArraySlide(image, lost_box=box)
    result = predict(Pixelwise(), slide, tmp_path / "m.tif", strip_px=128, batch_size=3)
    # independent: a pixel is there if any whole window that misses the box holds it
    there = np.zeros((400, 500), bool)
    for y in range(0, 300, 32):
        for x in range(0, 370, 32):
            if not (x < 190 and 150 < x + 64 and y < 160 and 130 < y + 64):
                there[y : y + 64, x : x + 64] = True
    there = there[:330, :400]
    with probmaps.open_map(tmp_path / "m.tif") as found:
        invalid = np.zeros((330, 400), bool)
        for x, y, w, h in found.invalid:
            assert not invalid[y : y + h, x : x + w].any()
            invalid[y : y + h, x : x + w] = True
        assert found.metadata["windows_lost"] == 120 - result.windows > 0
    assert np.array_equal(invalid, ~there) and invalid[130:160, 150:190].all()
    assert result.invalid_px == invalid.sum() and result.lost[0]["x_px"] == 150
    assert np.array_equal(pixels(tmp_path / "m.tif"), np.where(there, image[..., 0], 0))


def test_a_lost_region_survives_an_interruption(tmp_path):
    image, box = picture(400, 330), (150, 130, 40, 30)
    options = {"strip_px": 128, "batch_size": 3, "slide_id": "s"}
    predict(Context(), ArraySlide(image, lost_box=box), tmp_path / "whole.tif", **options)
    for dies_after in (50, 80, 110):
        path = tmp_path / f"{dies_after}.tif"
        with pytest.raises(SlideError):
            predict(Context(), ArraySlide(image, lost_box=box, dies_after=dies_after), path, **options)
        predict(Context(), ArraySlide(image, lost_box=box), path, **options)
        assert np.array_equal(pixels(path), pixels(tmp_path / "whole.tif"))
        with probmaps.open_map(path) as one, probmaps.open_map(tmp_path / "whole.tif") as other:
            assert one.invalid == other.invalid


def test_a_slide_of_which_nothing_can_be_read_is_an_error(tmp_path):
    with pytest.raises(SlideError, match="memory.svs: none of"):
        predict(Constant(0.5), ArraySlide(picture(200, 200), lost_box=(0, 0, 200, 200)), tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()


def test_a_network_that_gives_no_numbers_is_refused(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            return x[:, :1] * float("nan")

    with pytest.raises(CheckpointError, match="nan"):
        predict(Broken(), ArraySlide(picture(200, 200)), tmp_path / "m.tif")


def test_a_checkpoint_of_another_magnification_is_refused(tmp_path):
    slide = ArraySlide(picture(100, 100))
    with pytest.raises(CheckpointError, match="trained at 10x, but 4x"):
        predict(Constant(0.5), slide, tmp_path / "m.tif", magnification=4)
    wrong = checkpoint(Constant(0.5))
    wrong.mpp = 2.5
    with pytest.raises(CheckpointError, match="contradicts itself"):
        inference.predict_slide(wrong, slide, tmp_path / "m.tif", tissue=False)


def test_windows_that_cannot_be_are_refused(tmp_path):
    slide = ArraySlide(picture(100, 100))
    wrong = (
        {"overlap": 1.0},
        {"batch_size": 0},
    )
    for options in wrong:
        with pytest.raises(ParameterError):
            predict(Constant(0.5), slide, tmp_path / "m.tif", **options)


def test_reading_network_and_blending_run_in_threads_of_their_own(tmp_path):
    slide = ArraySlide(picture(400, 330))
    result = predict(Context(), slide, tmp_path / "m.tif", batch_size=4)
    assert slide.threads == {"tlskit-read"}
    assert {"read", "forward", "blend", "write"} <= {stage for stage, _, _ in result.events}
    assert all(0 <= start <= stop <= result.wall_s + 1 for stage, start, stop in result.events if stage != "read")
    for stage in ("open", "tissue", "read", "preprocess", "forward", "blend", "write"):
        assert result.stage_s[stage] >= 0
    assert {"wait_read", "wait_forward_in", "wait_forward_out", "wait_blend", "wait_write"} <= set(result.stage_s)
    assert result.stage_s["forward"] > 0 and result.wall_s > result.stage_s["forward"]


@pytest.mark.parametrize("device, readers", [("cpu", 2), ("cuda", 6)])
def test_beside_a_gpu_as_many_threads_read_as_there_are_cores(tmp_path, monkeypatch, device, readers):
    class Given:
        name, precision, depth, context_px, compile_s, check_s, max_dprob = "torch", "bf16", 1, 0, 0.0, 0.0, 0.0
        empty, agreement, is_loaded = None, None, False

        def submit(self, windows):
            return np.full(windows.shape[:3], 0.5, np.float32)

        def result(self, ticket):
            return ticket

    monkeypatch.setattr(hardware, "cores", lambda: 6)
    source = engines.EngineSource(checkpoint(Context()), window_px=64, precision="bf16", device="cpu")
    source.made = Given()
    source.made.device = device
    slide = ArraySlide(picture(300, 200))
    predict(Context(), slide, tmp_path / "m.tif", engine=source, batch_size=3)
    assert slide.readers == readers and source.made.batch == 3


def test_interrupting_leaves_no_thread_behind(tmp_path):
    class Impatient(nn.Module):
        calls = 0

        def forward(self, x):
            Impatient.calls += 1
            if Impatient.calls > 6:
                raise KeyboardInterrupt
            return x[:, :1]

    before = set(threading.enumerate())  # of other tests
    with pytest.raises(KeyboardInterrupt):
        predict(Impatient(), ArraySlide(picture(400, 330)), tmp_path / "m.tif", batch_size=1)
    left = set(threading.enumerate()) - before
    names = [thread.name for thread in left if thread.name.startswith("tlskit-") and thread.is_alive()]
    assert all(name.startswith("tlskit-forward") for name in names)  # the engine's, which end with it


def test_strips_own_every_column_once_and_carries_fit():
    for width, tile, overlap, strip, block in [(1000, 64, 0.5, 100, 64), (777, 96, 0.3, 64, 64), (50, 64, 0.5, 64, 64)]:
        layout = blending.hann_layout(tile, overlap)
        strips = blending.strips((width, 500), layout, strip_px=strip, block_px=block)
        assert strips[0].x0 == 0 and strips[-1].x1 == width and strips[-1].carry_px == 0
        for one, following in zip(strips, strips[1:], strict=False):
            assert one.x1 == following.x0 and one.x1 % block == 0 and one.x1 > one.x0
            assert 0 <= one.carry_px and one.x_end <= following.x_end
            assert one.columns.stop == following.columns.start


def test_only_the_strip_at_work_holds_memory(tmp_path, monkeypatch):
    made, held = [], []
    cut, finish = blending.strips, blending.Strip.finish

    def watched(*args, **options):
        made.extend(cut(*args, **options))
        return made

    def counted(self, *args, **options):
        held.append(sum(bool(getattr(strip, "_bands", None)) for strip in made))
        return finish(self, *args, **options)

    monkeypatch.setattr(blending, "strips", watched)
    monkeypatch.setattr(blending.Strip, "finish", counted)
    predict(Context(), ArraySlide(picture(900, 200)), tmp_path / "m.tif", strip_px=64)
    assert len(made) > 10 and set(held) == {1}


def test_hann_weights_are_positive_integers_and_sum_to_almost_a_constant_at_half_overlap():
    weights = blending.hann_layout(512, 0.5).weights
    assert weights.min() >= 1 and np.array_equal(weights, np.rint(weights)) and np.array_equal(weights, weights[::-1])
    total = weights[:256] + weights[256:]
    assert total.max() - total.min() <= 2


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_sums_are_whole_numbers_without_rounding(overlap):
    layout, rng = blending.hann_layout(64, overlap), np.random.default_rng(0)
    size_px = (64 + 5 * layout.stride_px, 64)
    (strip,) = blending.strips(size_px, layout, strip_px=4096, block_px=64)
    strip.start()
    weights = np.outer(layout.weights, layout.weights).astype(np.int64)
    expected, total = (np.zeros(size_px[::-1], np.int64) for _ in range(2))
    for column in rng.permutation(6):
        probability = rng.random((64, 64), np.float32)
        if column % 2:  # an engine may hand out memory of its own, in any order
            probability = probability.T
            probability.flags.writeable = False
        strip.add(0, int(column), probability)
        at = slice(column * layout.stride_px, column * layout.stride_px + 64)
        expected[:, at] += np.rint(probability.astype(np.float64) * 2**24).astype(np.int64) * weights
        total[:, at] += weights
    assert expected.max() < 2**53 and np.array_equal(strip._bands[0], expected)
    values, carry = strip.finish(strip.take(), np.ones((1, 6), bool), None)
    assert carry is None and np.array_equal(values, np.rint(expected / total * (255 / 2**24)).astype(np.uint8))


def test_invalid_boxes_tile_the_region_exactly():
    layout = blending.hann_layout(64, 0.5)
    planned = np.ones((5, 7), bool)
    run = planned.copy()
    run[1:3, 2:5] = False
    boxes = invalid_boxes(layout, (250, 190), planned, run)
    assert boxes == [[96, 64, 64, 32]]
    assert invalid_boxes(layout, (250, 190), planned, planned) == []


# Through real files


class Oracle(nn.Module):
    """The share of a pixel that is TLS, which its red tells: 65 inside, 225 in tissue, 243 on glass."""

    def forward(self, x):
        share = ((225 / 255 - x[:, :1]) / (160 / 255)).clamp(1e-6, 1 - 1e-6)
        return torch.logit(share)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("magnification", [20, 10, 4, 1])
def test_an_oracle_finds_its_outlines_again_at_every_magnification(tmp_path, painted, magnification):
    path, truth = painted
    mpp = 10 / magnification
    with open_slide(path) as slide:
        result = inference.predict_slide(
            checkpoint(Oracle(), tile_px=512, magnification=magnification), slide, tmp_path / "m.tif",
            engine="torch", precision="exact", progress=False,
        )  # fmt: skip
        found_size = slide.size_px(mpp)
    with probmaps.open_map(result.path) as found:
        assert found.size_px == found_size and found.mpp == mpp
        positive = found.read(0, 0, *found.size_px) >= math.ceil(0.5 * 255)
    polygons = annotations.polygonise(positive, mpp=mpp, mpp0=0.5)
    annotations.write_geojson(tmp_path / "p.geojson", polygons, class_name="TLS")
    again = annotations.read_targets(tmp_path / "p.geojson", "TLS")

    def fine(shapes):
        return annotations.rasterise(shapes, x_px=0, y_px=0, width_px=4000, height_px=3600, mpp=0.5, mpp0=0.5)

    there = annotations.rasterise(
        truth, x_px=0, y_px=0, width_px=found_size[0], height_px=found_size[1], mpp=mpp, mpp0=0.5
    )
    ceiling = dice(fine(annotations.polygonise(there, mpp=mpp, mpp0=0.5)), fine(truth))
    score = dice(fine(again), fine(truth))
    assert score >= ceiling - 0.01
    if ceiling > 0.98:
        assert score > 0.97
    assert len(again) == 4
    assert magnification < 4 or ceiling > 0.98, "the test's own slide is too coarse"


def test_windows_without_tissue_are_found_on_a_real_file(tmp_path, painted):
    path, _ = painted
    result = inference.predict_slide(
        checkpoint(Constant(0.8), tile_px=128, overlap=0, magnification=10), path, tmp_path / "m.tif",
        engine="torch", precision="exact", progress=False,
    )  # fmt: skip
    # 16 x 15 windows of 128 um; only the last row of them, from 1,792 um down, lies on glass alone
    assert (result.windows, result.windows_skipped) == (224, 16)
    assert result.level == 1 and result.slide_id == "painted" and result.tissue_mm2 == pytest.approx(3.05, rel=0.03)


def test_a_cohort_survives_a_bad_slide_and_keeps_what_is_done(tmp_path, painted):
    path, _ = painted
    rows = [slide_row("one", path), slide_row("gone", tmp_path / "gone.svs"), slide_row("two", path)]
    made = checkpoint(Constant(0.8), tile_px=256, magnification=4)
    options = {"engine": "torch", "precision": "exact", "progress": False}
    with pytest.raises(SlideError, match=r"gone\.svs"):
        inference.predict_cohort(made, rows, tmp_path / "maps", **options)
    failures = []
    table = inference.predict_cohort(
        made, rows, tmp_path / "maps", on_failure=lambda *failure: failures.append(failure), **options
    )
    assert [slide_id for slide_id, _ in failures] == ["gone"] and isinstance(failures[0][1], SlideError)
    assert list(table["slide_id"]) == ["one", "two"] and list(table["kept"]) == [True, False]
    assert table["windows"].nunique() == 1 and table["tissue_mm2"].nunique() == 1
    assert {f"{stage}_s" for stage in inference.STAGES} <= set(table)
    before = (tmp_path / "maps" / "two.tif").stat().st_mtime_ns
    again = inference.predict_cohort(made, rows[::2], tmp_path / "maps", **options)
    assert list(again["kept"]) == [True, True] and (tmp_path / "maps" / "two.tif").stat().st_mtime_ns == before
    made.sha256 = "1" * 64  # another checkpoint: nothing of it holds any more
    changed = inference.predict_cohort(made, rows[::2], tmp_path / "maps", **options)
    assert list(changed["kept"]) == [False, False]


def test_a_map_that_another_process_ended_meanwhile_is_taken(tmp_path, painted, monkeypatch):
    """Whose claim was taken over, because it was held up for long, goes on beside who took it over."""
    path, _ = painted
    made, real = checkpoint(Constant(0.8), tile_px=256, magnification=4), rows_of_maps.predict_slide
    options = {"engine": "torch", "precision": "exact", "progress": False}

    def ended_by_another(*given, **more):
        if path_there:
            real(*given, **more)
        raise MapError("the folder in which it was put together is gone")

    monkeypatch.setattr(rows_of_maps, "predict_slide", ended_by_another)
    path_there = False
    with pytest.raises(MapError):
        inference.predict_cohort(made, [slide_row("one", path)], tmp_path, **options)
    path_there = True
    assert inference.predict_cohort(made, [slide_row("one", path)], tmp_path, **options)["kept"].item()


def test_turns_decide_who_comes_when_and_the_table_keeps_the_order(tmp_path, painted):
    path, _ = painted
    rows, told = [slide_row(name, path) for name in ("b", "a", "c")], []

    def turns(given, how):
        told.append(how)
        yield from reversed(given)

    table = inference.predict_cohort(
        checkpoint(Constant(0.8), tile_px=256, magnification=4), rows, tmp_path, engine="torch", precision="exact",
        overlap=0.25, progress=False, turns=turns,
    )  # fmt: skip
    assert list(table["slide_id"]) == ["b", "a", "c"]
    assert told[0]["overlap"] == 0.25 and told[0]["subject"]["checkpoint_sha256"] == "0" * 64


DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real slides of ../shared/data are not here")
@pytest.mark.parametrize("magnification", [20, 4])
def test_a_real_slide_that_dies_in_the_middle_gives_the_rest_of_its_map(tmp_path, magnification):
    path = DATA / "cmu_dies_mid_read.svs"
    result = inference.predict_slide(
        checkpoint(Constant(0.8), tile_px=256, magnification=magnification), path, tmp_path / "m.tif",
        engine="torch", precision="exact", progress=False, tissue=False,
    )  # fmt: skip
    assert result.lost and result.invalid_px > 0
    with probmaps.open_map(result.path) as found:
        invalid = np.zeros(found.size_px[::-1], bool)
        for x, y, w, h in found.invalid:
            invalid[y : y + h, x : x + w] = True
        assert found.metadata["lost"] == result.lost
    assert np.array_equal(pixels(result.path), np.where(invalid, 0, 204)) and not invalid.all()
    scale = 10 / magnification / 0.499
    for lost in result.lost:
        x, y = round(lost["x_px0"] / scale), round(lost["y_px0"] / scale)
        assert invalid[min(y + 1, invalid.shape[0] - 1), min(x + 1, invalid.shape[1] - 1)]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real slides of ../shared/data are not here")
def test_what_is_lost_while_tissue_is_looked_for_is_not_taken_for_glass(tmp_path):
    made = checkpoint(Constant(0.8), tile_px=128, magnification=10, overlap=0)
    options = {"engine": "torch", "precision": "exact", "progress": False}
    whole = inference.predict_slide(made, DATA / "CMU-1-Small-Region.svs", tmp_path / "whole.tif", **options)
    result = inference.predict_slide(made, DATA / "cmu_dies_mid_read.svs", tmp_path / "m.tif", **options)
    assert not whole.lost and whole.invalid_px == 0
    assert result.lost and result.invalid_px > 0 and result.windows + result.windows_skipped < 9 * 12
    with probmaps.open_map(result.path) as found:
        boxes = np.array(found.invalid)
    left, top = result.lost[0]["x_px0"] / 2.004, result.lost[0]["y_px0"] / 2.004
    inside = (boxes[:, 0] <= left) & (left < boxes[:, 0] + boxes[:, 2])
    assert (inside & (boxes[:, 1] <= top) & (top < boxes[:, 1] + boxes[:, 3])).any()


@pytest.mark.skipif(not DATA.is_dir(), reason="the real slides of ../shared/data are not here")
def test_a_real_slide_streams_to_its_own_red_channel(tmp_path):
    with open_slide(DATA / "CMU-1-Small-Region.svs") as slide:
        result = inference.predict_slide(
            checkpoint(Pixelwise(), tile_px=512, magnification=4), slide, tmp_path / "m.tif",
            engine="torch", precision="exact", progress=False, tissue=False, strip_px=512,
        )  # fmt: skip
        expected = slide.read(0, 0, *slide.size_px(2.5), mpp=2.5)[..., 0]
    assert np.array_equal(pixels(result.path), expected)


def greedy_cohort(tmp_path, most, monkeypatch, said="CUDA out of memory. Tried to allocate 2.00 GiB."):
    image = np.full((300, 300, 3), 120, np.uint8)
    write_slide(tmp_path / "a.tif", image, mpp=1.0, objective_power=10)
    rows = [SimpleNamespace(slide_id="a", slide_path=str(tmp_path / "a.tif"), mpp_override=None, annotation_path="")]
    real, sizes = inference.predict_slide, []

    def predict_slide(*args, batch_size, **options):
        sizes.append(batch_size)
        if batch_size > most:
            raise RuntimeError(said)
        return real(*args, batch_size=batch_size, **options)

    monkeypatch.setattr(rows_of_maps, "predict_slide", predict_slide)
    return rows, sizes


@pytest.mark.parametrize(
    "said", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory", "std::bad_alloc"]
)
def test_a_slide_that_needs_too_much_memory_is_tried_with_half_the_batch(tmp_path, monkeypatch, said):
    rows, sizes = greedy_cohort(tmp_path, 4, monkeypatch, said)
    options = {"tissue": False, "engine": "torch", "precision": "exact", "progress": False}
    table = inference.predict_cohort(checkpoint(Constant(0.5)), rows, tmp_path / "m", batch_size=8, **options)
    assert len(table) == 1 and sizes == [8, 4]


def test_memory_that_never_suffices_is_a_row_with_advice_and_a_cohort_without_a_map_an_error(tmp_path, monkeypatch):
    rows, sizes = greedy_cohort(tmp_path, 0, monkeypatch)
    failed = {}
    with pytest.raises(SlideError, match="None of 1 slides could be predicted"):
        inference.predict_cohort(
            checkpoint(Constant(0.5)), rows, tmp_path / "m", batch_size=8, progress=False, on_failure=failed.__setitem__
        )
    assert sizes == [8, 4] and "batch_size" in str(failed["a"]) and isinstance(failed["a"], OutOfMemoryError)
    monkeypatch.setattr(rows_of_maps, "predict_slide", lambda *_, **__: 1 / 0)  # any other fault is not tried again
    with pytest.raises(ZeroDivisionError):
        inference.predict_cohort(checkpoint(Constant(0.5)), rows, tmp_path / "m", progress=False)


def test_what_a_killed_run_carried_is_gone_where_its_windows_became_unreadable(tmp_path):
    """Rows that a kill left uncommitted are done again; what they had carried to the next strip must not stay."""
    image, model = picture(400, 330), Context()
    lost_box = (0, 150, 150, 60)
    expected = tmp_path / "expected.tif"
    predict(model, ArraySlide(image, lost_box=lost_box), expected, strip_px=64, slide_id="s")
    path = tmp_path / "m.tif"
    with pytest.raises(SlideError, match="ends here"):
        predict(model, ArraySlide(image, dies_after=70), path, strip_px=64, slide_id="s")
    journal = next((tmp_path / ".m.tif.part").glob("journal.jsonl"))
    lines = journal.read_text().splitlines(keepends=True)
    assert (tmp_path / ".m.tif.part" / "carry_0.bin").stat().st_size > 0
    journal.write_text("".join(lines[:2]))  # the header and the engine: no row was committed before the kill
    predict(model, ArraySlide(image, lost_box=lost_box), path, strip_px=64, slide_id="s")
    assert np.array_equal(pixels(path), pixels(expected))
