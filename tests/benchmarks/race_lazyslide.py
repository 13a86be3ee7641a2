"""Driver of the race, run by LazySlide's own Python: ``python race_lazyslide.py '{"slide": ..., ...}'``.

Reads the job as JSON, predicts the slide as LazySlide does it, prints one line of JSON: wall seconds, windows, peak
memory. The clock stops when the map is blended: LazySlide would now make polygons of it and drop it, for which there is
nothing of ours to compare with.
"""

import json
import sys
import time

import harness  # this script runs alone: its own folder is on the path


def main(job):
    if job["compute"] == "equal":
        harness.pool_allocations()
    import lazyslide
    import numpy as np
    import segmentation_models_pytorch as smp
    import torch
    from lazyslide.segmentation._seg_runner import SemanticSegmentationRunner
    from lazyslide_models.base import SegmentationModel, SegmentationOutput
    from torchvision.transforms.v2 import Compose, ToDtype, ToImage
    from wsidata import open_wsi

    torch.set_num_threads(job["threads"])
    equal = job["compute"] == "equal"
    counted = {"windows": 0}

    class Network(SegmentationModel):
        def __init__(self):
            self.model = torch.nn.Identity()
            if job["compute"] != "null":
                self.model = smp.UnetPlusPlus("efficientnet-b0", encoder_weights=None, classes=1).eval()
                self.model.load_state_dict(torch.load(job["weights"], weights_only=True))
                if equal:
                    self.model = self.model.to(memory_format=torch.channels_last)

        def get_transform(self):
            return Compose([ToImage(), ToDtype(torch.float32, scale=True)])

        def segment(self, image):
            counted["windows"] += len(image)
            if job["compute"] == "null":
                probability = torch.full((len(image), 1, *image.shape[2:]), 0.37)
            else:
                if equal:
                    image = image.contiguous(memory_format=torch.channels_last)
                probability = torch.sigmoid(self.model(image).float())
            return SegmentationOutput(probability_map=probability, classes=("TLS",))

    class Blended(SemanticSegmentationRunner):
        map = None

        @staticmethod
        def tiler(array, tile_size=512):
            Blended.map = array[0]
            return iter(())

    start = time.perf_counter()
    slide = open_wsi(job["slide"], store=None)
    lazyslide.pp.tile_tissues(
        slide, 512, mpp=job["mpp"], stride_px=job["stride"], edge=True, tissue_key=None, background_filter=False
    )
    Blended(
        wsi=slide, model=Network(), mode="constant", batch_size=4, num_workers=0, device="cpu", pbar=False,
        ignore_index=None, amp=equal and job["bf16"], autocast_dtype=torch.bfloat16,
    ).run()  # fmt: skip
    wall_s = time.perf_counter() - start
    if job.get("map"):
        np.save(job["map"], Blended.map)
    return {
        "wall_s": wall_s,
        "windows": counted["windows"],
        "peak_mb": harness.peak_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
