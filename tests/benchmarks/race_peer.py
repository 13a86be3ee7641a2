"""Driver of the race, run by a peer's own Python: ``python race_peer.py lazyslide '{"slide": ..., ...}'``.

Reads the job as JSON, predicts the slide as TIAToolbox or LazySlide does it, prints one line of JSON: wall seconds,
windows, peak memory. The network is the same segmentation-models-pytorch class with the same state dict.
"""

import json
import sys
import time
from pathlib import Path

import harness  # this script runs alone: its own folder is on the path


def tiatoolbox(job, network, counted):
    """Predict; returns seconds, and what gives the map."""
    import numpy as np
    import torch
    import zarr
    from tiatoolbox import rcParam
    from tiatoolbox.models.engine.io_config import IOSegmentorConfig
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
    from tiatoolbox.models.models_abc import ModelABC

    rcParam["torch_compile_mode"] = "disable"
    equal = job["compute"] == "equal"

    class Network(ModelABC):
        def __init__(self):
            super().__init__()
            self.class_dict = {0: "other", 1: "TLS"}
            self.net = network

        def forward(self, x):
            return torch.sigmoid(self.net(x).float())

        @staticmethod
        def preproc(image):
            return image.astype("float32") / 255.0

        @staticmethod
        def postproc(probability):
            return (probability[..., 0] > 0.5).astype("uint8")

        @staticmethod
        def infer_batch(model, batch, *, device):
            counted["windows"] += len(batch)
            if job["compute"] == "null":
                return np.full((*batch.shape[:3], 1), 0.37, np.float32)
            x = batch.to(device).float().permute(0, 3, 1, 2)
            x = x.contiguous(memory_format=torch.channels_last if equal else torch.contiguous_format)
            model.eval()
            with torch.inference_mode(), torch.autocast(job["device"], torch.bfloat16, enabled=equal and job["bf16"]):
                return model(x).permute(0, 2, 3, 1).cpu().numpy()

    resolution = [{"units": "mpp", "resolution": job["mpp"]}]
    config = IOSegmentorConfig(
        input_resolutions=resolution, output_resolutions=resolution, save_resolution=resolution[0], ignore_index=0,
        patch_input_shape=(512, 512), patch_output_shape=(512, 512), stride_shape=(job["stride"], job["stride"]),
    )  # fmt: skip
    engine = SemanticSegmentor(model=Network(), batch_size=4, num_workers=0, device=job["device"], verbose=False)
    slide = Path(job["slide"])
    start = time.perf_counter()
    made = engine.run(
        [slide], patch_mode=False, ioconfig=config, auto_get_mask=False, return_probabilities=True,
        output_type="zarr", save_dir=Path(job["out"]), overwrite=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return seconds, lambda: zarr.open(str(made[slide]), mode="r")["probabilities"][..., 0]


def lazyslide(job, network, counted):
    """Predict; returns seconds, and what gives the map.

    The clock stops when the map is blended: LazySlide would now make polygons of it and drop it, for which there is
    nothing of ours to compare with.
    """
    import lazyslide as peer
    import torch
    from lazyslide.segmentation._seg_runner import SemanticSegmentationRunner
    from lazyslide_models.base import SegmentationModel, SegmentationOutput
    from torchvision.transforms.v2 import Compose, ToDtype, ToImage
    from wsidata import open_wsi

    equal = job["compute"] == "equal"

    class Network(SegmentationModel):
        def __init__(self):
            self.model = network

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
    peer.pp.tile_tissues(
        slide, 512, mpp=job["mpp"], stride_px=job["stride"], edge=True, tissue_key=None, background_filter=False
    )
    Blended(
        wsi=slide, model=Network(), mode="constant", batch_size=4, num_workers=0, device=job["device"], pbar=False,
        ignore_index=None, amp=equal and job["bf16"], autocast_dtype=torch.bfloat16,
    ).run()  # fmt: skip
    return time.perf_counter() - start, lambda: Blended.map


def network_of(job):
    """The network that both run, ready; nothing where it is to cost nothing."""
    import segmentation_models_pytorch as smp
    import torch

    torch.set_num_threads(job["threads"])
    if job["compute"] == "null":
        return torch.nn.Identity()
    network = smp.UnetPlusPlus("efficientnet-b0", encoder_weights=None, classes=1).eval()
    network.load_state_dict(torch.load(job["weights"], weights_only=True))
    network = network.to(job["device"])
    return network.to(memory_format=torch.channels_last) if job["compute"] == "equal" else network


def main(peer, job):
    if job["compute"] == "equal":
        harness.pool_allocations()
    import numpy as np

    counted = {"windows": 0}
    wall_s, probability = {"tiatoolbox": tiatoolbox, "lazyslide": lazyslide}[peer](job, network_of(job), counted)
    if job.get("map"):
        np.save(job["map"], np.asarray(probability(), np.float32))
    return {"wall_s": wall_s, "windows": counted["windows"], "peak_mb": harness.peak_mb()}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
