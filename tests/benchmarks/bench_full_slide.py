"""One slide of full size, once: 80,000 x 60,000 px at 40x, 40 % of it tissue, predicted at 20x.

Windows are the training tile's 512 px and overlap by an eighth. (Larger ones with a rim that is thrown away save no
more here: they cover more glass along the section's edge.) The figure is the whole of it: opening, finding tissue,
making and checking the engine, reading from level 0 (the slide has levels 1, 4, 16, as Aperio's), blending, writing the
map with its pyramid. Weights are random; a forward pass costs the same whatever they are.
"""

import time

from tests.benchmarks import bench_inference, harness, made

SIZE_PX0, TISSUE_FRACTION, MPP = (80_000, 60_000), 0.4, 0.5
OVERLAP = 0.125


def main(repeats=1, *, overlap=OVERLAP):
    from tlskit.maps import inference
    from tlskit.networks import hardware as compute

    path = made.whole(*SIZE_PX0, TISSUE_FRACTION)
    compute.tune_allocator()
    out = harness.WORK / "full_slide.tif"
    start = time.perf_counter()
    prediction = inference.predict_slide(
        bench_inference.network(MPP), path, out, overlap=overlap, batch_size=4, device="cpu",
        progress=False, resume=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    figures = {
        "wsi_20x_full_slide_minutes": seconds / 60,
        "full_slide_engine": f"{prediction.engine} {prediction.precision}",
        "full_slide_window_px": bench_inference.TILE_PX,
        "full_slide_overlap": overlap,
        "full_slide_windows": prediction.windows,
        "full_slide_tissue_mm2": prediction.tissue_mm2,
        "full_slide_s_per_window": prediction.wall_s / prediction.windows,
        "full_slide_map_mb": out.stat().st_size / 1e6,
        "full_slide_peak_mb": harness.peak_mb(),
    }
    figures |= {f"full_slide_stage_{name}_s": s for name, s in prediction.stage_s.items() if s == s}
    out.unlink()
    harness.report("full_slide", figures, seconds={"wall": [seconds]})


if __name__ == "__main__":
    main()
