"""Which normal images look least like the rest: a dirty folder is the commonest mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_gan.data import Normal, flat, signed

ODD = 5.0  # robust z-score from which an image is called odd


def oddest(images: Sequence[Normal], most: int = 5) -> list[dict[str, Any]]:
    """The images that look least like the rest: {path, z, odd, reasons}, the oddest first.

    Compared are grey quantiles, the contrast of the flattest, middle and busiest 16x16 blocks, and the slope of the
    power spectrum, each as a robust z-score: the distance to the median over 1.4826 median absolute deviations, plus a
    floor for differences of no account. `odd` where a score exceeds ODD. Empty for fewer than four images.
    """
    if len(images) < 4:
        return []
    table = np.array([list(_statistics(flat(image.grey)).values()) for image in images])
    names = list(_statistics(flat(images[0].grey)))
    middle = np.median(table, axis=0)
    spread = 1.4826 * np.median(np.abs(table - middle), axis=0)
    floor = np.array([0.02 if "grey" in name else 0.1 if "slope" in name else 0.01 for name in names])
    z = (table - middle) / (spread + floor)
    found = []
    for i in np.argsort(-np.abs(z).max(axis=1))[:most]:
        order = np.argsort(-np.abs(z[i]))
        reasons = [
            f"{names[j]} {table[i, j]:.2f}, the middle image has {middle[j]:.2f}" for j in order if abs(z[i, j]) > ODD
        ]
        worst = float(np.abs(z[i]).max())
        found.append({"path": str(images[i].path), "z": round(worst, 2), "odd": worst > ODD, "reasons": reasons[:3]})
    return found


def _statistics(grey: Tensor, block: int = 16, most: int = 2048) -> dict[str, float]:
    grey = (signed(grey[:, :most, :most]).mean(0) + 1) / 2  # (H, W) in [0, 1]
    low, middle, high = (float(q) for q in np.quantile(grey.numpy(), (0.05, 0.5, 0.95)))
    height, width = (max(1, side // block) * min(block, side) for side in grey.shape)
    step = (min(block, grey.shape[0]), min(block, grey.shape[1]))
    blocks = grey[:height, :width].unfold(0, step[0], step[0]).unfold(1, step[1], step[1])
    flat, usual, busy = np.quantile(blocks.std((2, 3), correction=0).numpy(), (0.01, 0.5, 0.99))
    side = min(grey.shape)
    power = torch.fft.rfft2(grey[:side, :side] - grey[:side, :side].mean()).abs().square().numpy() + 1e-12
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    ring = (radius > 0.03) & (radius < 0.4)
    slope = np.polyfit(np.log(radius[ring]), np.log(power[ring]), 1)[0] if ring.sum() > 2 else 0.0
    return {
        "dark grey (5 %)": low,
        "middle grey": middle,
        "bright grey (95 %)": high,
        "contrast of its flattest parts": float(flat),
        "local contrast": float(usual),
        "contrast of its busiest parts": float(busy),
        "spectrum slope": float(slope),
    }
