"""Does a generator make the material, or only noise of the right colour? Radial power spectrum, grey histogram, and
the clouds of features of many crops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.fidelity import crops_of, features, fidelity

Image = NDArray[np.floating]
CROPS = 8
BINS = 16  # rings; a 32 x 32 image still has frequencies in each


def radial_spectrum(image: Image) -> NDArray[np.float64]:
    """Log of the mean power in BINS rings of frequency up to 0.5 cycles per pixel, of a (H, W) image, Hann-windowed."""
    height, width = image.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2 / (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    ring = np.minimum((radius * 2 * BINS).astype(int), BINS)  # what lies beyond 0.5, in the corners, is left out
    total = np.bincount(ring.ravel(), power.ravel(), BINS + 1)[:BINS]
    return np.log(total / np.bincount(ring.ravel(), minlength=BINS + 1)[:BINS] + 1e-12)


def histogram(image: Image) -> NDArray[np.float64]:
    """Cumulative distribution of the grey levels of an image in [-1, 1], at 64 levels."""
    counts, _ = np.histogram(image, 64, (-1.0, 1.0))
    return np.cumsum(counts) / image.size


def distances(image: Image, normals: Sequence[Image]) -> dict[str, float]:
    """How far an image in [-1, 1] is from normal ones, on average over these.

    "spectrum": root mean square difference of the log spectra; "histogram": mean difference of the cumulative
    distributions (the earth mover's distance of grey levels, in units of half the range).
    """
    spectrum, grey = radial_spectrum(image), histogram(image)
    return {
        "spectrum": float(np.mean([np.sqrt(np.mean((spectrum - radial_spectrum(n)) ** 2)) for n in normals])),
        "histogram": float(np.mean([np.abs(grey - histogram(n)).mean() * 2 for n in normals])),
    }


def phase_shuffled(image: Image, seed: int = 0) -> Image:
    """An image with the power spectrum of `image` and random phases: noise that any judge of spectra alone would
    pass.
    """
    phase = np.fft.fft2(np.random.default_rng(seed).standard_normal(image.shape))
    spectrum = np.fft.fft2(image - image.mean())
    shuffled = np.fft.ifft2(np.abs(spectrum) * phase / np.maximum(np.abs(phase), 1e-12)).real + image.mean()
    return np.clip(shuffled, -1.0, 1.0)


def table(samples: Sequence[Image], normals: Sequence[Image]) -> dict[str, dict[str, float]]:
    """Mean `distances` of samples, of normal images and of these with their phases shuffled, from other normal images.

    All images are (H, W) in [-1, 1], at least two of them normal. All are cut to one size, the smallest height and
    width there is, since the ring of a frequency should hold as much in all; a normal image gives up to CROPS crops,
    which are compared with those of the others.
    """
    if len(normals) < 2:
        raise ValueError(f"{len(normals)} normal images cannot be compared with each other: at least 2 are needed")
    height, width = np.min([image.shape for image in (*samples, *normals)], axis=0)
    cut = [crops(normal, height, width) for normal in normals]
    found: dict[str, list[dict[str, float]]] = {"sample": [], "normal image": [], "normal image, phases shuffled": []}
    for i, mine in enumerate(cut):
        others = [crop for other in (*cut[:i], *cut[i + 1 :]) for crop in other]
        found["sample"] += [distances(image[:height, :width], others) for image in samples]
        found["normal image"] += [distances(crop, others) for crop in mine]
        found["normal image, phases shuffled"] += [distances(phase_shuffled(crop, i), others) for crop in mine]
    return {
        name: {term: float(np.mean([one[term] for one in each])) for term in each[0]} for name, each in found.items()
    }


def fidelities(samples: Sequence[Image], normals: Sequence[Image]) -> dict[str, dict[str, float]]:
    """`fidelity` of samples, of every other normal image and of these with their phases shuffled, each against the rest
    of the normal images; in rows as those of `table`, with as many crops. A row that is empty had too few.
    """
    mine, others = normals[::2], normals[1::2]
    shuffled = [phase_shuffled(image, i) for i, image in enumerate(mine)]
    real = features(crops_of(others))
    rows = {"sample": samples, "normal image": mine, "normal image, phases shuffled": shuffled}
    clouds = {name: features(crops_of(images)) for name, images in rows.items()}
    count = min(len(real), *(len(cloud) for cloud in clouds.values()))
    return {name: fidelity(cloud, real, count) for name, cloud in clouds.items()}


def crops(image: Image, height: int, width: int) -> list[Image]:
    """Up to CROPS crops of this size, evenly spread over the image; none overlapping another."""
    rows, columns = image.shape[0] // height, image.shape[1] // width
    places = [(i * height, j * width) for i in range(rows) for j in range(columns)]
    chosen = [places[k] for k in sorted({round(k) for k in np.linspace(0, len(places) - 1, min(CROPS, len(places)))})]
    return [image[top : top + height, left : left + width] for top, left in chosen]
