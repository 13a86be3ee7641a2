"""Networks and the checkpoints that carry them.

A checkpoint says how it must be applied: magnification, tile size, normalisation, threshold. It holds tensors and
plain values only, and is read with ``weights_only=True``: opening one cannot run code.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import segmentation_models_pytorch as smp
import torch
from torch import nn

from tlskit.errors import CheckpointError, ParameterError
from tlskit.files import resolve, writing
from tlskit.networks.context import HookedUnetPlusPlus
from tlskit.networks.encoders import SUFFIXES, how_to_bring_weights, load_encoder_weights
from tlskit.networks.hardware import pick_device
from tlskit.tiles import RATIOS
from tlskit.units import magnification_name

__all__ = ["Checkpoint", "build_model", "load_checkpoint", "save_checkpoint", "write_tensors"]

#: BatchNorm's share of each new batch in its running statistics (torch's default). EfficientNet's own 0.01 is made for
#: epochs of ten thousand steps: after 200 steps from random weights the statistics would still be 13 % of their
#: arbitrary start, and the network would score in validation far below what it has learnt.
BATCHNORM_MOMENTUM = 0.1

_FORMAT = "tlskit checkpoint"
_VERSION = 1


def build_model(
    *, encoder: str = "efficientnet-b0", encoder_weights: str | Path = "imagenet", context_ratio: int = 0
) -> nn.Module:
    """UNet++ with one class, giving logits ``(B, 1, H, W)`` for images ``(B, 3, H, W)``; H and W multiples of 32.

    The decoder's weights are random (torch's global generator), the encoder's are those asked for. Without
    pretrained weights BatchNorm's momentum is `BATCHNORM_MOMENTUM` throughout.

    Parameters
    ----------
    encoder
        Name of an encoder of segmentation-models-pytorch.
    encoder_weights
        ``"imagenet"`` (fetched once from the internet by segmentation-models-pytorch, then kept in its cache),
        ``"none"`` (random), or the path of a ``.pth``, ``.pt`` or ``.safetensors`` state dict of the encoder, relative
        to the project's root.
    context_ratio
        0, or how many times coarser than its tile the field is that the network sees beside it: it is then called
        with two arguments (`context.HookedUnetPlusPlus`). What it has in common with the network without context begins
        with the same weights.

    Raises
    ------
    ParameterError
        If the encoder is unknown or cannot take a context, or the weights cannot be had or do not fit it. Where the
        internet is missing, the message says which file to bring from where.
    """
    known = smp.encoders.get_encoder_names()
    if encoder not in known and not encoder.startswith("tu-"):
        near = difflib.get_close_matches(encoder, known, n=3)
        raise ParameterError(
            f"`encoder` {encoder!r} is not known to segmentation-models-pytorch."
            + (
                f" Did you mean {' or '.join(near)}?"
                if near
                else " Its documentation lists them, e.g. efficientnet-b0."
            )
        )
    is_file = str(encoder_weights) not in ("none", "imagenet")
    if is_file and Path(encoder_weights).suffix not in SUFFIXES:
        raise ParameterError(
            f"`encoder_weights` should be 'imagenet', 'none', or the path of a {', '.join(SUFFIXES)} file, "
            f"not {str(encoder_weights)!r}."
        )
    try:
        model = smp.UnetPlusPlus(
            encoder,
            encoder_weights="imagenet" if encoder_weights == "imagenet" else None,
            classes=1,
            activation=None,
        )
    except OSError as error:
        raise ParameterError(how_to_bring_weights(encoder)) from error
    except (KeyError, ValueError, RuntimeError) as error:
        raise ParameterError(f"A UNet++ with the encoder {encoder!r} cannot be built: {error}") from error
    if is_file:
        load_encoder_weights(model.encoder, resolve(encoder_weights), encoder=encoder)
    elif encoder_weights == "none":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = BATCHNORM_MOMENTUM
    return HookedUnetPlusPlus(model, context_ratio) if context_ratio else model


@dataclass
class Checkpoint:
    """A trained network with everything that applying it needs.

    Attributes
    ----------
    model
        In evaluation mode once loaded; its output are logits.
    encoder
        Name of the encoder.
    magnification, mpp
        What it was trained at; ``mpp`` is 10 / magnification, in um/px.
    tile_px, overlap
        Side of the training tiles in working pixels, and the share by which neighbours overlap.
    normalisation
        One of `tlskit.tiles.normalisation.NORMALISATIONS`.
    threshold
        Probability from which a pixel counts as target.
    target_class
        Name of the annotation class, or several.
    resolution_by
        ``mpp`` or ``objective``.
    split_hash
        Of the patient split it was trained under.
    history
        One row an epoch, as `tlskit.networks.training.train` gives it.
    ignore_class
        Name of the class, or several, whose area was left out; empty for none.
    region_class
        Name of the class, or several, of regions outside which only the target counted; empty: the whole slide counted.
    apply_icc
        Whether colours were corrected by the slides' ICC profiles.
    detail_mpp
        um/px beyond which detail was averaged away (`tlskit.slides.open_slide`); 0 where none was.
    context_ratio, context_px, context_of
        How many times coarser the context is that the network sees beside a tile, its side in pixels, and what was
        shown as context (`tlskit.tiles.CONTEXT_OF`). A ratio of 0: the network sees the tile alone.
    params
        All further settings of the training, plain values.
    sha256
        Of the file, once saved or loaded.
    """

    model: nn.Module
    encoder: str
    magnification: float
    mpp: float
    tile_px: int
    overlap: float
    normalisation: str
    threshold: float
    target_class: str | list[str]
    resolution_by: str
    split_hash: str
    history: pd.DataFrame
    ignore_class: str | list[str] = ""
    region_class: str | list[str] = ""
    apply_icc: bool = False
    detail_mpp: float = 0.0
    context_ratio: int = 0
    context_px: int = 256
    context_of: str = "field"
    params: dict = field(default_factory=dict)
    sha256: str = ""

    def check_fits(
        self,
        *,
        magnification: float | None = None,
        tile_px: int | None = None,
        target_class: str | list[str] | None = None,
        resolution_by: str | None = None,
        split_hash: str | None = None,
        context_ratio: int | None = None,
        context_px: int | None = None,
        context_of: str | None = None,
    ) -> None:
        """Raise `CheckpointError`, naming all differences, unless the checkpoint was trained for what is given.

        Without a context (``context_ratio=0``) its size is of no account.
        """
        asked = {
            "magnification": magnification,
            "tile_px": tile_px,
            "target_class": target_class,
            "resolution_by": resolution_by,
            "split_hash": split_hash,
            "context_ratio": context_ratio,
        }
        if self.context_ratio and context_ratio != 0:
            asked |= {"context_px": context_px, "context_of": context_of}
        differing = [
            f"`{name}` {getattr(self, name)!r}, asked for {value!r}"
            for name, value in asked.items()
            if value is not None and _comparable(getattr(self, name)) != _comparable(value)
        ]
        if differing:
            raise CheckpointError(
                f"This checkpoint was trained with {'; '.join(differing)}. Take the checkpoint of the arm it is meant "
                "for, or train one: a network applied at another scale or to patients it was trained on gives scores "
                "that mean nothing."
            )

    def __repr__(self) -> str:
        context = f"context of {self.context_px} px {self.context_ratio} times as coarse ({self.context_of}), "
        return (
            f"Checkpoint({self.encoder}, {magnification_name(self.magnification)}, {self.tile_px} px tiles, "
            f"{context if self.context_ratio else ''}"
            f"{self.target_class!r}, threshold {self.threshold:g}, sha256 {self.sha256[:12] or 'not saved'})"
        )


def _comparable(value: object) -> object:
    return sorted(value) if isinstance(value, (list, tuple)) else value


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Checkpoint:
    """Write a checkpoint, atomically, and return it with ``sha256`` of the file filled in.

    Raises
    ------
    CheckpointError
        If ``params`` or ``history`` hold something else than plain values: it could not be read back safely.
    """
    payload = {
        "format": _FORMAT,
        "version": _VERSION,
        "weights": {name: value.detach().cpu().contiguous() for name, value in checkpoint.model.state_dict().items()},
        "history": {
            str(name): _plain(list(column), f"history[{name!r}]") for name, column in checkpoint.history.items()
        },
    }
    for name in _plain_fields():
        if checkpoint.context_ratio or not name.startswith("context_"):  # else the file of old, byte for byte
            payload[name] = _plain(getattr(checkpoint, name), name)
    return dataclasses.replace(checkpoint, sha256=write_tensors(path, payload))


def write_tensors(path: str | Path, payload: dict) -> str:
    """Write tensors and plain values as torch does, but atomically; returns the file's SHA-256."""
    buffer = io.BytesIO()  # torch tells a full disk from no other fault
    torch.save(payload, buffer)
    with writing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_checkpoint(path: str | Path, *, device: str | torch.device = "auto", **wanted) -> Checkpoint:
    """Read a checkpoint; its network is on `device` and in evaluation mode.

    Parameters
    ----------
    path
    device
        As in `pick_device`.
    wanted
        What it has to have been trained for: see `Checkpoint.check_fits`.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, not a checkpoint of tlskit, or of a format version this code does not know; or
        if it was trained for something else than `wanted`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Run 03_training for this arm first.")
    device = pick_device(device)
    data = path.read_bytes()
    try:
        # torch reads weights with a flipped bit without a word; the file holds a checksum of every part.
        damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()
        if damaged:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not hold")
        payload = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way: zipfile, pickle, struct, zlib, torch
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({len(data):,} bytes): it is damaged, or it is not one of tlskit "
            f"({error}). Run 03_training again, or copy the file again from where it came."
        ) from error
    if not (isinstance(payload, dict) and payload.get("format") == _FORMAT):
        raise CheckpointError(
            f"{path} is a torch file but no checkpoint of tlskit, which also says at which um/px and how it is to be "
            "applied. Bare encoder weights belong into `encoder_weights`."
        )
    if payload.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has the checkpoint format {payload.get('version')!r}; this version of tlskit reads format "
            f"{_VERSION}. Use the tlskit that wrote it, or train again."
        )
    # Fields that came later have defaults: what a checkpoint does not say was not there to be chosen.
    needed = [f.name for f in dataclasses.fields(Checkpoint) if f.default is f.default_factory is dataclasses.MISSING]
    absent = [name for name in ("weights", *needed) if name not in payload and name != "model"]
    if absent:
        raise CheckpointError(f"{path} lacks {', '.join(absent)}: it is incomplete. Run 03_training again.")
    ratio = payload.get("context_ratio", 0)
    if ratio not in RATIOS:
        raise CheckpointError(f"{path} has the `context_ratio` {ratio!r}, which no network of tlskit has: train again.")
    with torch.random.fork_rng(devices=[]):  # loading must not shift a caller's random numbers
        model = build_model(encoder=payload["encoder"], encoder_weights="none", context_ratio=ratio)
    try:
        model.load_state_dict(payload["weights"])
    except RuntimeError as error:
        raise CheckpointError(
            f"The weights in {path} do not fit a UNet++ with {payload['encoder']} of the segmentation-models-pytorch "
            f"installed here ({smp.__version__}): {str(error).splitlines()[0]}"
        ) from error
    checkpoint = Checkpoint(
        model=model.to(device).eval(),
        history=pd.DataFrame(payload["history"]),
        sha256=hashlib.sha256(data).hexdigest(),
        **{name: payload[name] for name in _plain_fields() if name in payload},
    )
    checkpoint.check_fits(**wanted)
    return checkpoint


def _plain_fields() -> list[str]:
    return [f.name for f in dataclasses.fields(Checkpoint) if f.name not in ("model", "history", "sha256")]


def _plain(value: object, where: str) -> object:
    """Plain Python values of what may be numpy's; anything else could not be read with ``weights_only``."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise CheckpointError(
        f"A checkpoint holds numbers, texts, lists and dicts beside its weights; {where} is of type "
        f"{type(value).__name__}."
    )
