"""Measures how far simple methods get on a data set of MVTec layout (8-bit grey PNG): pooled pixel AUROC.

    python data_samples/baselines.py [--folder data_samples]

Each method is given its best setting and its better sign, chosen on the test images themselves: what it could reach
at most, so that "stays under 0.90" is not an accident of a setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

Array = np.ndarray


@dataclass(frozen=True)
class Samples:
    """Grey images, float32 (H, W) in [0, 1]; masks bool (H, W), all False for normal ones."""

    train: list[Array]
    test: list[Array]
    masks: list[Array]
    every: int = 1  # AUROC counts every n-th row and column


def _read(path: Path) -> Array:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{path} is not an image that OpenCV reads: write the set again with generate.py")
    return image


def load(folder: Path, every: int = 1) -> Samples:
    """Reads train/good, test/* and ground_truth/*."""
    train = [_read(p) / np.float32(255) for p in sorted((folder / "train/good").glob("*.png"))]
    test, masks = [], []
    for path in sorted((folder / "test").glob("*/*.png")):
        kind = path.parent.name
        test.append(_read(path) / np.float32(255))
        mask = folder / "ground_truth" / kind / f"{path.stem}_mask.png"
        masks.append(np.zeros(test[-1].shape, bool) if kind == "good" else _read(mask) > 127)
    if not train or not any(mask.any() for mask in masks):
        raise ValueError(f"{folder} lacks train/good/*.png or ground_truth: give the folder of a data set")
    return Samples(train, test, masks, every)


def pooled(maps: Iterable[Array], samples: Samples) -> float:
    """Pixel AUROC over all test images together, of the better sign."""
    thin = (slice(None, None, samples.every),) * 2
    truth = np.concatenate([mask[thin].ravel() for mask in samples.masks])
    auroc = float(roc_auc_score(truth, np.concatenate([m[thin].ravel() for m in maps])))
    return max(auroc, 1 - auroc)


def _smoothed(maps: list[Array], sigmas: Iterable[float]) -> Iterator[tuple[float, list[Array]]]:
    for sigma in sigmas:
        yield sigma, [ndimage.gaussian_filter(m, sigma) if sigma else m for m in maps]


def local_deviation(samples: Samples) -> dict[str, float]:
    """Standard deviation of the grey levels in a square window."""
    figures = {}
    for window in (3, 5, 9, 15, 25, 41):
        maps = []
        for image in samples.test:
            mean = cv2.blur(image, (window, window))
            maps.append(np.sqrt(np.clip(cv2.blur(image * image, (window, window)) - mean**2, 0, None)))
        for sigma, smooth in _smoothed(maps, (0, 4, 8)):
            figures[f"window {window}, sigma {sigma}"] = pooled(smooth, samples)
    return figures


def _patches(image: Array, side: int, stride: int) -> Array:
    """(rows, columns, side * side) of all patches on a grid of that stride."""
    view = np.lib.stride_tricks.sliding_window_view(image, (side, side))[::stride, ::stride]
    return view.reshape(*view.shape[:2], -1)


def patch_gaussian(samples: Samples) -> dict[str, float]:
    """Mahalanobis distance of square patches from the mean and covariance of the training images' patches."""
    figures, stride = {}, 4
    for side in (8, 12, 16):
        normal = np.concatenate([_patches(image, side, 3).reshape(-1, side * side) for image in samples.train])
        mean = normal.mean(0)
        whiten = np.linalg.inv(np.linalg.cholesky(np.cov(normal.T) + 1e-5 * np.eye(side * side))).T.astype(np.float32)
        maps = []
        for image in samples.test:
            half = side // 2
            padded = np.pad(image, ((half, half + stride), (half, half + stride)), mode="reflect")
            distance = np.sqrt((((_patches(padded, side, stride) - mean) @ whiten) ** 2).sum(-1))
            large = cv2.resize(distance, None, fx=stride, fy=stride, interpolation=cv2.INTER_LINEAR)
            maps.append(large[: image.shape[0], : image.shape[1]])
        for sigma, smooth in _smoothed(maps, (0, 4, 8)):
            figures[f"patch {side}, sigma {sigma}"] = pooled(smooth, samples)
    return figures


def autoencoder(samples: Samples, steps: int = 400, seed: int = 0) -> dict[str, float]:
    """Squared residual of a small convolutional autoencoder trained on the squared error."""
    import torch
    from torch import nn

    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]

    def unblock(a: int, b: int) -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.2)]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            *(*block(1, 16), *block(16, 32), *block(32, 64), nn.Conv2d(64, 8, 3, padding=1)),
            *(*unblock(8, 64), *unblock(64, 32), *unblock(32, 16), nn.Conv2d(16, 1, 3, padding=1)),
        )
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    rng, side = np.random.default_rng(seed), 64
    for _ in range(steps):
        batch = np.empty((16, 1, side, side), np.float32)
        for n in range(16):
            image = samples.train[rng.integers(len(samples.train))]
            y, x = rng.integers(0, np.array(image.shape) - side + 1)
            batch[n, 0] = image[y : y + side, x : x + side]
        real = torch.from_numpy(batch)
        loss = (net(real) - real).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.inference_mode():
        maps = [(net(torch.from_numpy(i)[None, None])[0, 0].numpy() - i) ** 2 for i in samples.test]
    return {f"sigma {s}": pooled(smooth, samples) for s, smooth in _smoothed(maps, (0, 2, 4, 8))}


BASELINES: dict[str, Callable[[Samples], dict[str, float]]] = {
    "local standard deviation": local_deviation,
    "Gaussian model of patches": patch_gaussian,
    "L2 autoencoder, 400 steps": autoencoder,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="data set in MVTec layout")
    samples = load(parser.parse_args().folder)
    print("| method | best setting | pooled pixel AUROC |\n|---|---|---|")
    for name, method in BASELINES.items():
        figures = method(samples)
        best = max(figures, key=lambda setting: figures[setting])
        print(f"| {name} | {best} | {figures[best]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
