"""What a network is trained to make small, and whether it says anything about tiles without target.

The Dice loss of segmentation-models-pytorch is multiplied by whether the batch holds target: of a batch without, loss
and gradient are exactly 0, and what such a batch would teach is lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from tlskit.outlines import IGNORED

__all__ = ["make_loss"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_DICE = DiceLoss(mode="binary", from_logits=True, ignore_index=IGNORED)


def dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice loss pooled over the batch; 0, and without gradient, where the batch holds no target."""
    return _DICE(logits, masks)


def dice_bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Dice loss plus the mean cross-entropy of the pixels that count, each once."""
    counted = masks != IGNORED
    entropy = functional.binary_cross_entropy_with_logits(logits, masks * counted, reduction="none")
    return _DICE(logits, masks) + _mean(entropy, counted)


def focal(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean focal loss of the pixels that count, with alpha 0.25 and gamma 2 [1]_.

    References
    ----------
    .. [1] T.-Y. Lin et al., Focal loss for dense object detection, ICCV 2017, in the form of
       ``torchvision.ops.sigmoid_focal_loss``.
    """
    counted = masks != IGNORED
    return _mean(sigmoid_focal_loss(logits, masks * counted, reduction="none"), counted)


def _mean(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    return (values * counted).sum() / counted.sum().clamp(min=1)


def make_loss(name: str) -> Loss:
    """The loss of one of `settings.LOSSES`: of logits and masks ``(B, 1, H, W)`` float32.

    Pixels that are `IGNORED` have no say in any.
    """
    return {"dice": dice, "dice_bce": dice_bce, "focal": focal}[name]
