"""One slide of full size, once: 80,000 x 60,000 px at 40x, 40 % of it tissue, predicted at 20x.

Windows are larger than the training tile, of which the rim is thrown away (`inference.layout_for`): what that does to
the scores is for `windowing.compare_windows` to measure on validation slides. The figure is the whole of it: opening,
finding tissue, making and checking the engine, reading from level 0 (the slide has levels 1, 4, 16, as Aperio's),
blending, writing the map with its pyramid. Weights are random; a forward pass costs the same whatever they are.
"""

import time

from tests.benchmarks import bench_inference, harness, made

SIZE_PX0, TISSUE_FRACTION, MPP = (80_000, 60_000), 0.4, 0.5
WINDOW_PX, HALO_PX = 2048, 128


def main(repeats=1, *, window_px=WINDOW_PX, halo_px=HALO_PX):
    from tlskit import compute, inference

    path = made.whole(*SIZE_PX0, TISSUE_FRACTION)
    compute.tune_allocator()
    out = harness.WORK / "full_slide.tif"
    start = time.perf_counter()
    prediction = inference.predict_slide(
        bench_inference.network(MPP), path, out, window_px=window_px, halo_px=halo_px, batch_size=2, device="cpu",
        progress=False, resume=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    figures = {
        "wsi_20x_full_slide_minutes": seconds / 60,
        "full_slide_engine": f"{prediction.engine} {prediction.precision}",
        "full_slide_window_px": window_px,
        "full_slide_halo_px": halo_px,
        "full_slide_windows": prediction.windows,
        "full_slide_tissue_mm2": prediction.tissue_mm2,
        "full_slide_s_per_512_px_of_window": prediction.wall_s / prediction.windows / (window_px / 512) ** 2,
        "full_slide_map_mb": out.stat().st_size / 1e6,
        "full_slide_peak_mb": harness.peak_mb(),
    }
    figures |= {f"full_slide_stage_{name}_s": s for name, s in prediction.stage_s.items() if s == s}
    out.unlink()
    harness.report("full_slide", figures, seconds={"wall": [seconds]})


if __name__ == "__main__":
    main()
