"""A trained run behind the protocol that every inspector speaks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anomalib_gan.checkpoint import load_model
from anomalib_gan.model import Model


def scaled(grey: Tensor, white: float) -> Tensor:
    """Grey levels in [0, white] -> [-1, 1], the range in which models live."""
    return grey * (2 / white) - 1


def usable(device: str) -> str:
    """`device` itself or, of "auto", CUDA where it is there; a ValueError where torch cannot compute on it."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device {device!r} cannot be used ({reason}): choose another, such as --device cpu"
        ) from error
    return name


class FullMap(nn.Module):
    """Raw grey levels (N, C, H, W) and `white`, the level of full brightness -> finished map (N, 1, H, W)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, white: float) -> Tensor:
        return self.model.anomaly_map(scaled(image, white))


class TorchBackend:
    """A trained model as the Inspector's backend, in eval mode. Attributes as in `runtime.inspector.Backend`.

    `device` is a torch device or "auto": CUDA where it is there.
    """

    def __init__(
        self,
        model: Model,
        *,
        hash: str,
        scale: tuple[float, float],
        pixel_size: float | None = None,
        device: str = "auto",
    ) -> None:
        self.device = usable(device)
        self.graph = FullMap(model).eval().requires_grad_(False).to(self.device)
        self.channels, self.stride, self.halo = model.channels, model.stride, model.halo
        self.smallest = max(model.stride, model.smallest)
        self.hash, self.scale, self.pixel_size = hash, scale, pixel_size

    @classmethod
    def load(cls, run: str | os.PathLike[str], *, device: str = "auto") -> TorchBackend:
        """The run's model; a ValueError says what is wrong with the run folder."""
        model, stored = load_model(Path(run))
        return cls(
            model,
            hash=stored["hash"],
            scale=(float(stored["map_scale"][0]), float(stored["map_scale"][1])),
            pixel_size=stored.get("pixel_size"),
            device=device,
        )

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        """(N, C, H, W) float32 raw grey levels, H and W multiples of `stride` -> (N, 1, H, W) float32.

        MemoryError: the device's memory does not hold a tile of this size.
        """
        try:
            return self.graph(torch.from_numpy(image).to(self.device), white).float().cpu().numpy()
        except RuntimeError as error:  # on the processor a failed allocation has no type of its own
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            height, width = image.shape[2:]
            raise MemoryError(f"{self.device} cannot hold a window of {height}x{width} px: lower --tile") from error
