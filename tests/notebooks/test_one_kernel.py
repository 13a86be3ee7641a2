"""torch, OpenVINO, libvips, OpenSlide, GDAL and the widgets in one kernel, as a person in JupyterLab has them."""

import nbclient
import nbformat
import numpy as np
import pytest

from tlskit.slides.tiffs import write_slide

#: What each does when it is first imported, and once more after all others have been.
PIECES = {
    "torch": """
import torch
net = torch.nn.Conv2d(3, 8, 3, padding=1)
net(torch.rand(2, 3, 64, 64)).sum().backward()
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
    net.to(memory_format=torch.channels_last)(torch.rand(2, 3, 64, 64))
""",
    "openvino": """
import openvino, openvino.opset13 as ops, numpy as np
x = ops.parameter([1, 3, 64, 64], np.float32)
kernel = ops.constant(np.ones((8, 3, 3, 3), np.float32))
layer = ops.convolution(x, kernel, strides=[1, 1], pads_begin=[1, 1], pads_end=[1, 1], dilations=[1, 1])
openvino.Core().compile_model(openvino.Model([layer], [x]), "CPU")(np.ones((1, 3, 64, 64), np.float32))
""",
    "libvips": """
import pyvips
picture = pyvips.Image.gaussnoise(512, 512, mean=128).cast("uchar").bandjoin([128, 128])
pyvips.Image.new_from_buffer(picture.jpegsave_buffer(), "").thumbnail_image(64).numpy()
""",
    "slide": """
from tlskit.slides import open_slide
with open_slide(SLIDE) as slide:
    slide.read(0, 0, 256, 256, mpp=2.0)
""",
    "rasterio": """
import numpy as np, rasterio.features, shapely
rasterio.features.rasterize([shapely.box(3, 3, 9, 9)], out_shape=(32, 32))
list(rasterio.features.shapes(np.eye(32, dtype=np.uint8)))
""",
    "widgets": """
import ipywidgets, matplotlib.pyplot as plt
from IPython.display import display
from tlskit.explore import viewer
figure, ax = plt.subplots()
ax.imshow([[0, 1], [1, 0]])
figure.savefig(__import__("io").BytesIO())
view, slider = viewer.slide_view(), ipywidgets.FloatSlider(0.5, max=1)
ipywidgets.jsdlink((slider, "value"), (view, "threshold"))
display(view, slider)
view.close()
""",
}
NAMES = list(PIECES)
ORDERS = {"forwards": NAMES, "backwards": NAMES[::-1], "widgets in the middle": [*NAMES[1::2], *NAMES[::2]]}


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("one_kernel") / "s.tiff"
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    return write_slide(path, noise, mpp=0.5, objective_power=20)


@pytest.mark.parametrize("order", ORDERS)
def test_all_libraries_work_in_one_kernel_whatever_the_order_of_their_import(slide_path, order):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    cells = [PIECES[name] for name in (*ORDERS[order], *ORDERS[order])]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"SLIDE = {str(slide_path)!r}"))
    # A kernel that dies of a fault is a DeadKernelError here.
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
