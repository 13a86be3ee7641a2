"""Pretrained weights of encoders, from a file where there is no internet."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tlskit.errors import ParameterError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SUFFIXES", "how_to_bring_weights", "load_encoder_weights"]

log = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".safetensors")


def how_to_bring_weights(encoder: str) -> str:
    """What to do where the ImageNet weights of an encoder cannot be fetched: which file to bring from where."""
    import segmentation_models_pytorch as smp

    settings = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings", {}).get("imagenet")
    where = (
        f"https://huggingface.co/{settings['repo_id']}/resolve/{settings['revision']}/model.safetensors"
        if settings
        else "the page of this timm model on https://huggingface.co/timm (model.safetensors)"
    )
    return (
        f"The ImageNet weights of {encoder} are not in the cache and could not be fetched: there seems to be no "
        f"internet here. On a machine with internet download {where} , bring the file here, and set "
        f"`encoder_weights: path/to/{encoder}.safetensors`. `encoder_weights: none` trains from random weights instead."
    )


def load_encoder_weights(module: nn.Module, path: Path, *, encoder: str) -> None:
    """Fill an encoder from a state dict on disk, read without running any code in it.

    Parameters
    ----------
    module
        The encoder, changed in place.
    path
        State dict of the encoder, or of a whole segmentation network that contains it (``encoder.*``). A classifier in
        it is passed over.
    encoder
        Its name, for the messages.

    Raises
    ------
    ParameterError
        If the file is missing, cannot be read safely, or holds another network.
    """
    import torch

    if not path.is_file():
        raise ParameterError(
            f"`encoder_weights`: there is no file {path}. It should be 'imagenet', 'none', or a file of {encoder}."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path, device="cpu")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch each raise a family of their own for a broken file
        raise ParameterError(
            f"`encoder_weights`: {path} is not a state dict that can be read safely ({type(error).__name__}). Expected "
            "tensors by name, as written by torch.save(model.state_dict()) or safetensors; a whole pickled model is "
            "refused, because opening one can run code."
        ) from error
    if not (isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())):
        raise ParameterError(f"`encoder_weights`: {path} should hold tensors by name and nothing else.")
    # A whole segmentation network may be given too: then its encoder is taken.
    inner = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    state = inner or state
    # The classifier of the ImageNet network has no counterpart here.
    classifier = ("_fc.", "fc.", "classifier.", "last_linear.", "head.")
    state = {name: value for name, value in state.items() if not name.startswith(classifier)}
    wanted = module.state_dict()
    # segmentation-models-pytorch wraps timm's networks (`tu-...`); timm's own files know nothing of the wrapper.
    if all(name.startswith("model.") for name in wanted) and not any(name.startswith("model.") for name in state):
        state = {f"model.{name}": value for name, value in state.items()}
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    misfit = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing or misfit:
        raise ParameterError(
            f"`encoder_weights`: {path} does not hold the encoder {encoder}: of its {len(wanted)} tensors "
            f"{len(missing)} are missing and {len(misfit)} have another shape, first {(missing + misfit)[0]!r}; the "
            f"file begins with {next(iter(state), 'nothing')!r}. Use the weights that "
            f"segmentation-models-pytorch publishes for {encoder}."
        )
    torch.nn.Module.load_state_dict(module, {name: state[name] for name in wanted if name in state}, strict=False)
    log.info("encoder %s: weights from %s", encoder, path.name)
