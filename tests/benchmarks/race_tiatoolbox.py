"""Driver of the race, run by TIAToolbox's own Python: ``python race_tiatoolbox.py '{"slide": ..., ...}'``.

Reads the job as JSON, predicts the slide as TIAToolbox does it, prints one line of JSON: wall seconds, windows, peak
memory. The network is the same segmentation-models-pytorch class with the same state dict.
"""

import json
import sys
import time
from pathlib import Path

import harness  # this script runs alone: its own folder is on the path


def main(job):
    if job["compute"] == "equal":
        harness.pool_allocations()
    import numpy as np
    import segmentation_models_pytorch as smp
    import torch
    import zarr
    from tiatoolbox import rcParam
    from tiatoolbox.models.engine.io_config import IOSegmentorConfig
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
    from tiatoolbox.models.models_abc import ModelABC

    torch.set_num_threads(job["threads"])
    rcParam["torch_compile_mode"] = "disable"
    counted = {"windows": 0}

    class Network(ModelABC):
        def __init__(self):
            super().__init__()
            self.class_dict = {0: "other", 1: "TLS"}
            if job["compute"] != "null":
                self.net = smp.UnetPlusPlus("efficientnet-b0", encoder_weights=None, classes=1)
                self.net.load_state_dict(torch.load(job["weights"], weights_only=True))
                if job["compute"] == "equal":
                    self.net = self.net.to(memory_format=torch.channels_last)

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
            equal = job["compute"] == "equal"
            x = x.contiguous(memory_format=torch.channels_last if equal else torch.contiguous_format)
            model.eval()
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=equal and job["bf16"]):
                return model(x).permute(0, 2, 3, 1).numpy()

    resolution = [{"units": "mpp", "resolution": job["mpp"]}]
    config = IOSegmentorConfig(
        input_resolutions=resolution, output_resolutions=resolution, save_resolution=resolution[0], ignore_index=0,
        patch_input_shape=(512, 512), patch_output_shape=(512, 512), stride_shape=(job["stride"], job["stride"]),
    )  # fmt: skip
    engine = SemanticSegmentor(model=Network(), batch_size=4, num_workers=0, device="cpu", verbose=False)
    slide, out = Path(job["slide"]), Path(job["out"])
    start = time.perf_counter()
    made = engine.run(
        [slide], patch_mode=False, ioconfig=config, auto_get_mask=False, return_probabilities=True,
        output_type="zarr", save_dir=out, overwrite=True,
    )  # fmt: skip
    wall_s = time.perf_counter() - start
    if job.get("map"):
        probability = zarr.open(str(made[slide]), mode="r")["probabilities"]
        np.save(job["map"], np.asarray(probability[..., 0], np.float32))
    return {
        "wall_s": wall_s,
        "windows": counted["windows"],
        "peak_mb": harness.peak_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
