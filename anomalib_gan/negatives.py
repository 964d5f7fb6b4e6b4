"""How a critic learns from spoilt images: Negative Data Augmentation (Sinha et al., 2021), answered place by place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, max_pool2d

from anomalib_gan.corruption import SPOILT, corrupt
from anomalib_gan.model import Defective, normals_of
from anomalib_gan.nets import shrink


def told_apart(clean: Tensor, spoilt: Tensor, opacity: Tensor) -> Tensor:
    """Cross entropy of a critic's log-odds that places of images are normal, (N, 1, h, w) each, for clean images and
    for spoilt ones of this opacity (N, 1, H, W). A place is spoilt where any of its pixels is.
    """
    cells = max_pool2d((opacity > SPOILT).to(clean.dtype), opacity.shape[-1] // clean.shape[-1])
    target = torch.cat((torch.ones_like(clean), 1 - cells))
    return binary_cross_entropy_with_logits(torch.cat((clean, spoilt)), target)


def with_negatives(batches: Sequence[Tensor | Defective], factor: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of every batch at 1/factor: a third as it is, the rest spoilt, and how opaquely; all of them are spoilt at once.

    Defects that a batch brings take the place of as many of its spoilt images, as far as there are any.
    """
    parts = []
    for batch in batches:
        s = shrink(normals_of(batch), factor)
        clean = max(1, len(s) // 3)
        y, mask = s[:0], s[:0, :1]
        if isinstance(batch, Defective):
            y, mask = (shrink(one, factor)[: len(s) - clean] for one in (batch.y, batch.mask))
        parts.append((s[:clean], s[clean : len(s) - len(y)], y, mask))
    spoilt, opacity = corrupt(torch.cat([some for _, some, *_ in parts]))
    counts = [len(some) for _, some, *_ in parts]
    return [
        (clean, torch.cat((one, y)), torch.cat((opaque, mask)))
        for (clean, _, y, mask), one, opaque in zip(parts, spoilt.split(counts), opacity.split(counts), strict=True)
    ]


def closer(batch: Tensor | Defective, stride: int) -> Tensor | Defective:
    """A window of half the sides of each patch, multiples of `stride`, at one place for all of a batch."""
    side = normals_of(batch).shape[-1]
    half = -(-side // 2 // stride) * stride
    top, left = torch.randint(side - half + 1, (2,)).tolist()
    here = (..., slice(top, top + half), slice(left, left + half))
    return Defective(*(field[here] for field in batch)) if isinstance(batch, Defective) else batch[here]
