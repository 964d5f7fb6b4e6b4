"""Does a generator make the material, or only noise of the right colour? Radial power spectrum, grey histogram, and
the clouds of features of many crops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

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


def apart(a: Sequence[Image], b: Sequence[Image]) -> dict[str, NDArray[np.float64]]:
    """How far each of the images a in [-1, 1] is from each of b, (len(a), len(b)).

    "spectrum": root mean square difference of the log spectra; "histogram": mean difference of the cumulative
    distributions (the earth mover's distance of grey levels, in units of half the range).
    """
    mine, theirs = (np.stack([radial_spectrum(x) for x in images]) for images in (a, b))
    grey, greys = (np.stack([histogram(x) for x in images]) for images in (a, b))
    return {
        "spectrum": cdist(mine, theirs) / np.sqrt(BINS),
        "histogram": cdist(grey, greys, "cityblock") * (2 / grey.shape[1]),
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
    """The energy distance of samples, and of normal images with their phases shuffled, from normal images:

        2 E d(X, Y) - E d(X, X') - E d(Y, Y')   (Szekely and Rizzo, 2013), with d each that is told `apart`.

    It is 0 where both are drawn alike. What two normal images differ by is taken off: the mean of d alone calls that
    set the nearest that is most like an average, and a shuffle makes it so, for it spreads contrast evenly.

    All images are (H, W) in [-1, 1], at least two of them samples and two normal. All are cut to one size, the smallest
    height and width there is, since the ring of a frequency should hold as much in all; a normal image gives up to
    CROPS crops, of which no two of the same image are compared.
    """
    for kind, images in (("samples", samples), ("normal images", normals)):
        if len(images) < 2:
            raise ValueError(f"{len(images)} {kind} cannot be compared with each other: at least 2 are needed")
    height, width = np.min([image.shape for image in (*samples, *normals)], axis=0)
    cut = [crops(normal, height, width) for normal in normals]
    origin = np.repeat(np.arange(len(cut)), [len(each) for each in cut])  # the image of each crop
    real = [crop for each in cut for crop in each]
    shuffled = [phase_shuffled(crop, int(i)) for crop, i in zip(real, origin, strict=True)]
    drawn = [image[:height, :width] for image in samples]
    own = np.arange(len(drawn))

    def mean(a: Sequence[Image], b: Sequence[Image], other: NDArray[np.bool_]) -> dict[str, float]:
        return {term: float(found[other].mean()) for term, found in apart(a, b).items()}

    foreign = origin[:, None] != origin
    within = mean(real, real, foreign)
    found = {
        "sample": (mean(drawn, real, np.ones((len(drawn), len(real)), bool)), mean(drawn, drawn, own[:, None] != own)),
        "normal image, phases shuffled": (mean(shuffled, real, foreign), mean(shuffled, shuffled, foreign)),
    }
    return {
        name: {term: 2 * across[term] - spread[term] - within[term] for term in within}
        for name, (across, spread) in found.items()
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
