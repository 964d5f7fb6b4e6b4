"""How a critic learns from spoilt images: Negative Data Augmentation (Sinha et al., 2021), answered place by place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, max_pool2d

from anomalib_gan.corruption import SPOILT
from anomalib_gan.model import Defective, normals_of


def told_apart(clean: Tensor, spoilt: Tensor, opacity: Tensor) -> Tensor:
    """Cross entropy of a critic's log-odds that places of images are normal, (N, 1, h, w) each, for clean images and
    for spoilt ones of this opacity (N, 1, H, W). A place is spoilt where any of its pixels is.
    """
    cells = max_pool2d((opacity > SPOILT).to(clean.dtype), opacity.shape[-1] // clean.shape[-1])
    target = torch.cat((torch.ones_like(clean), 1 - cells))
    return binary_cross_entropy_with_logits(torch.cat((clean, spoilt)), target)


def closer(batch: Tensor | Defective, stride: int) -> Tensor | Defective:
    """A window of half the sides of each patch, multiples of `stride`, at one place for all of a batch."""
    side = normals_of(batch).shape[-1]
    half = -(-side // 2 // stride) * stride
    top, left = torch.randint(side - half + 1, (2,)).tolist()
    here = (..., slice(top, top + half), slice(left, left + half))
    return Defective(*(field[here] for field in batch)) if isinstance(batch, Defective) else batch[here]
