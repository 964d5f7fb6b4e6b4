"""What the codes of a trained generator are good for: ways between them, sums of them, and directions in them along
which a property of the image moves.

Any model goes that has `generate`. A code z is a field (N, code, rows, columns), one vector of `code` numbers for each
place; an image of any size is drawn from it. A **direction** is one vector in R^`code` and is added at every place
alike, for a texture has its properties everywhere and not somewhere. So properties are regressed on codes' means over
places. Codes that are independent at every place all have the same mean, nearly, and nothing to be learnt from: hence
samples for that have a part in common (`Canvas.draw`).

Sampling: Sampling Generative Networks (White, 2016). Arithmetic: Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks (Radford et al., 2016). Directions, and orthogonal ones: Interpreting the
Latent Space of GANs for Semantic Face Editing (InterFaceGAN, Shen et al., 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

from anomalib_gan.model import Model
from anomalib_gan.properties import PROPERTIES, table
from anomalib_gan.proxy import device_of

MARGIN = 2  # codes around a picture that are drawn and cut off: what lies along a padded G's edge is drawn otherwise
BATCH = 16  # pictures at once
COMMON = 0.5  # share of a code's variance that all places of a sample have in common, where directions are looked for
ALPHAS = np.logspace(-2, 4, 13)  # ridges that are tried
FOLDS = 5
SAMPLES = 256  # whose properties are measured, for sets and regressions
TAIL = 0.2  # share of them that are the highest, or the lowest, in a property
SIDE = 192  # px of a sample that is measured
LEFT = 1e-3  # length of a unit vector outside the others' span below which it lies in it

Pictures = NDArray[np.float32]  # (N, H, W) in [-1, 1]
Values = NDArray[np.float64]  # (N, properties)
Way = Callable[[Tensor, Tensor, float], Tensor]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All that is drawn within is a function of the seed; randomness outside is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# --- codes and their pictures -----------------------------------------------------------------------------------------


class Canvas:
    """Pictures of height x width px, and the codes that a model draws them from.

    `tell` is called with the number of pictures that were drawn.
    """

    def __init__(self, model: Model, height: int, width: int, tell: Callable[[int], object] = lambda n: None) -> None:
        self.model = cast(Any, model)
        self.size, self.tell = (height, width), tell
        self.device = device_of(model)
        self.code: int = self.model.code
        # From one code to the next it is `unit` px; a generator that does not pad draws less, one that overlaps more.
        with torch.no_grad():
            drawn = [self.model.generate(torch.zeros(1, self.code, k, k, device=self.device)) for k in (8, 9)]
        first, second = (one.shape[-1] for one in drawn)
        unit = second - first
        lost = 8 * unit - first
        self.rows, self.columns = (-(-(size + lost) // unit) + 2 * MARGIN for size in (height, width))
        self.middle = getattr(model, "middle", torch.zeros(self.code, device=self.device))[:, None, None]

    def prior(self, n: int, rows: int, columns: int) -> Tensor:
        """(n, code, rows, columns): the model's own prior or, where it tells of none, N(0, I)."""
        if hasattr(self.model, "codes"):
            return self.model.codes(n, rows, columns)
        return torch.randn(n, self.code, rows, columns, device=self.device)

    def draw(self, n: int, common: float = 0.0) -> Tensor:
        """n codes for pictures of this size. All places of one share the part `common` of the variance.

        By itself each place's code has the prior's distribution whatever `common` is, so that G knows it. What the
        prior itself makes equal everywhere, such as a class, stays as it is.
        """
        z = self.prior(n, self.rows, self.columns)
        if not common:
            return z
        own, shared = z - self.middle, self.prior(n, 1, 1) - self.middle
        mixed = self.middle + math.sqrt(1 - common) * own + math.sqrt(common) * shared
        return torch.where(local(z), mixed, z)

    def around(self, vector: Tensor, n: int, jitter: float) -> Tensor:
        """n codes that are the vector (code,) everywhere, with so much of the prior added to what is local in it."""
        z = self.prior(n, self.rows, self.columns)
        still = vector[:, None, None].expand_as(z)
        return torch.where(local(z), still + jitter * (z - self.middle), still)

    @torch.no_grad()
    def pictures(self, z: Tensor) -> Pictures:
        """The middle of what is drawn from (N, code, rows, columns), as large as the canvas or as it is."""
        found = []
        for some in z.split(BATCH):
            x = self.model.generate(some).float().mean(1).cpu()
            (height, width), (tall, wide) = self.size, x.shape[1:]
            top, left = max(0, tall - height) // 2, max(0, wide - width) // 2
            found.append(x[:, top : top + height, left : left + width])
            self.tell(len(some))
        return torch.cat(found).numpy()


def local(z: Tensor) -> Tensor:
    """Which channels of codes differ from place to place, (code, 1, 1)."""
    return (z != z[..., :1, :1]).movedim(1, 0).flatten(1).any(1)[:, None, None]


def sampled(model: Model, height: int, width: int) -> NDArray[np.float32]:
    """A sample of any size by the model's own `sample`, which may know of more than codes: (C, height, width)."""
    tall, wide = (-(-max(side, model.smallest) // model.stride) * model.stride for side in (height, width))
    with torch.no_grad():
        drawn: Tensor = model.sample(1, tall, wide)  # type: ignore[operator]
    return drawn[0, :, :height, :width].float().cpu().numpy()


@torch.no_grad()
def encoded(model: Model, x: Tensor) -> Tensor:
    """The code of an image (N, C, H, W), sides multiples of the stride: E(x) or, without an encoder, by inversion."""
    return model.parts(x)["code"]  # type: ignore[operator]


def mean_code(z: Tensor) -> Tensor:
    """(N, code, rows, columns) -> (N, code): means over places."""
    return z.mean((2, 3))


# --- ways between codes -----------------------------------------------------------------------------------------------


def lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b."""
    return torch.lerp(a, b, t)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation of (N, code, h, w), at each place by itself: the direction goes along the great circle
    (Animating Rotation with Quaternion Curves, Shoemake, 1985), the length from |a| to |b| in proportion to t.

        |z| (sin((1 - t) W) a / |a| + sin(t W) b / |b|) / sin W,   |z| = (1 - t) |a| + t |b|,   W: the angle of a and b

    Codes of N(0, I) all have nearly one length, and so has what lies between them; on the straight way it is shorter,
    a code that G seldom saw. Numbers that are the same at all places of a and b, such as a class, stay. Where a and b
    are parallel, opposite or 0 the way is the straight one.
    """
    same = (a == b).flatten(2).all(2)[..., None, None]
    u, v = a.masked_fill(same, 0), b.masked_fill(same, 0)
    p, q = (one.norm(dim=1, keepdim=True) for one in (u, v))
    tiny = torch.finfo(a.dtype).tiny
    here, there = u / p.clamp_min(tiny), v / q.clamp_min(tiny)
    # As exact for small angles as for any, which the arc cosine of the product is not (Kahan).
    angle = 2 * torch.atan2((here - there).norm(dim=1, keepdim=True), (here + there).norm(dim=1, keepdim=True))
    sine, length = angle.sin(), torch.lerp(p, q, t)
    round_ = (sine > 1e-4) & (p > 0) & (q > 0)
    safe = torch.where(round_, sine, 1.0)
    first = torch.where(round_, ((1 - t) * angle).sin() / safe * length / p.clamp_min(tiny), 1 - t)
    second = torch.where(round_, (t * angle).sin() / safe * length / q.clamp_min(tiny), t)
    return torch.where(same, a, first * u + second * v)


WAYS: dict[str, Way] = {"linear": lerp, "spherical": slerp}


def chain(a: Tensor, b: Tensor, count: int = 9, way: Way = slerp) -> Tensor:
    """`count` codes from a to b, (1, code, h, w) both, ends included: (count, code, h, w)."""
    return torch.cat([way(a, b, i / (count - 1)) for i in range(count)])


def corners(four: Tensor, side: int = 5, way: Way = slerp) -> Tensor:
    """side x side codes between (4, code, h, w): upper left, upper right, lower left and lower right, row by row."""
    a, b, c, d = four.split(1)
    edges = zip(chain(a, b, side, way).split(1), chain(c, d, side, way).split(1), strict=True)
    columns = torch.stack([chain(up, down, side, way) for up, down in edges], 1)  # (side down, side across, ...)
    return columns.flatten(0, 1)


def arithmetic(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """mean of A - mean of B + mean of C, over codes and places of (n, code, h, w) each: (code,)."""
    first, second, third = (mean_code(one).mean(0) for one in (a, b, c))
    return first - second + third


def traversed(z: Tensor, channel: int, values: Sequence[float]) -> Tensor:
    """(1, code, h, w) with one channel set to each of the values at all places: (values, code, h, w)."""
    if not 0 <= channel < z.shape[1]:
        raise ValueError(f"the code has no channel {channel}: choose one from 0 to {z.shape[1] - 1}")
    found = z.repeat(len(values), 1, 1, 1)
    found[:, channel] = torch.tensor(values, dtype=z.dtype, device=z.device)[:, None, None]
    return found


# --- directions -------------------------------------------------------------------------------------------------------


def difference(a: Tensor, b: Tensor) -> Tensor:
    """The unit vector (code,) from the mean of the codes B to that of the codes A, both (n, code, h, w)."""
    return unit(mean_code(a).mean(0) - mean_code(b).mean(0))


def unit(vector: Tensor) -> Tensor:
    length = vector.norm()
    if not length > 0:
        raise ValueError("the direction has no length: both sets have the same mean code, or nothing moves with it")
    return vector / length


def regressed(codes: Tensor, values: Values, names: Sequence[str]) -> tuple[Tensor, list[float]]:
    """For each of the properties, or labels, `values` (n, k) of samples the direction in which it rises, from the mean
    codes (n, code) by ridge regression: unit vectors (k, code), and the share of the variance that the regression
    tells of samples it was not fitted to (R^2; 0 or less: nothing).

    The ridge is the one of ALPHAS that predicts best with each sample left out.
    """
    if len(values) < 2 * FOLDS:
        raise ValueError(f"{len(values)} samples are too few for a regression: give at least {2 * FOLDS}")
    x, found, told = codes.double().cpu().numpy(), [], []
    for name, column in zip(names, values.T, strict=True):
        spread = column.std()
        if not spread > 0:
            raise ValueError(f"{name} is the same in all samples, so nothing is known to move it: train longer")
        y = (column - column.mean()) / spread
        held = cross_val_predict(RidgeCV(ALPHAS), x, y, cv=KFold(FOLDS, shuffle=True, random_state=0))
        told.append(float(1 - np.mean((y - held) ** 2)))
        found.append(unit(torch.from_numpy(RidgeCV(ALPHAS).fit(x, y).coef_)))
    return torch.stack(found).to(codes), told


def orthogonalised(directions: Tensor) -> Tensor:
    """Of each of the unit vectors (k, code) what is at right angles to all others (Gram-Schmidt), of length 1 again.

    Where properties rise evenly with the code, each along its own direction, nothing but the wanted one then moves.
    ValueError for a direction that lies in the span of the others.
    """
    found = []
    for i, one in enumerate(directions):
        others = torch.cat((directions[:i], directions[i + 1 :])).T.double()  # (code, k - 1)
        rest = one.double() - others @ (torch.linalg.pinv(others) @ one.double())
        if rest.norm() < LEFT:
            raise ValueError(
                f"direction {i + 1} of {len(directions)} lies in the span of the others, in a code of {len(one)} "
                "numbers: train with a wider one"
            )
        found.append(rest / rest.norm())
    return torch.stack(found).to(directions)


@dataclass(frozen=True)
class Pool:
    """Samples with a part in common (`Canvas.draw`) and their properties (n, PROPERTIES)."""

    z: Tensor
    values: Values

    @classmethod
    def of(cls, canvas: Canvas, n: int = SAMPLES) -> Pool:
        z = canvas.draw(n, COMMON)
        return cls(z, table(canvas.pictures(z)))

    @property
    def spread(self) -> NDArray[np.float64]:
        """The standard deviation of each property."""
        return np.maximum(self.values.std(0), np.finfo(np.float64).tiny)

    def end(self, name: str, high: bool) -> Tensor:
        """The codes of the TAIL that is highest, or lowest, in a property."""
        order = np.argsort(self.values[:, list(PROPERTIES).index(name)], kind="stable")
        tail = max(1, round(TAIL * len(order)))
        return self.z[torch.from_numpy(order[-tail:] if high else order[:tail]).to(self.z.device)]

    def directions(self) -> tuple[Tensor, list[float]]:
        """Of each property the direction, and how much it tells: see `regressed`."""
        return regressed(mean_code(self.z), self.values, list(PROPERTIES))


def direction(model: Model, name: str, seed: int = 0, tell: Callable[[int], object] = lambda n: None) -> Tensor:
    """The unit vector (code,) along which one of PROPERTIES rises in what a model draws, and as little as can be of the
    others moves: found as by the command `explore directions`, at right angles to the others. `tell`: see `Canvas`; it
    hears of SAMPLES pictures. ValueError for another name.
    """
    if name not in PROPERTIES:
        raise ValueError(f"no property is called {name!r}: choose from {', '.join(PROPERTIES)}")
    with seeded(seed):
        found, _ = Pool.of(Canvas(model, SIDE, SIDE, tell)).directions()
    return orthogonalised(found)[list(PROPERTIES).index(name)]


@dataclass(frozen=True)
class Entanglement:
    """How far each property moves for a step of length 1 along each direction: `slope` (k, properties), in units of the
    property's spread over samples, a mean over codes; its standard `error`; and how far the image moves, `change` (k,),
    the root mean square of its difference in units of its contrast.
    """

    slope: NDArray[np.float64]
    error: NDArray[np.float64]
    change: NDArray[np.float64]

    def leak(self) -> NDArray[np.float64]:
        """Where direction i is that of property i: the share of all movement along it that is not this property's, 0
        for a pure one, (properties,). Directions beyond the properties have none.
        """
        size = np.abs(self.slope[: self.slope.shape[1]])
        return 1 - np.diagonal(size) / np.maximum(size.sum(1), np.finfo(np.float64).tiny)


def entanglement(
    canvas: Canvas,
    z: Tensor,
    directions: Tensor,
    measured: Callable[[Pictures], Values],
    spread: NDArray[np.float64],
    step: float = 1.0,
) -> Entanglement:
    """From the codes z (n, code, h, w) a step forwards and one back along each of (k, code), measured on the pictures.

    `spread` (properties,): the standard deviation of each property over samples. The same codes go along every
    direction, so that their own differences do not count.
    """
    still = canvas.pictures(z)
    contrast = max(float(still.std((1, 2)).mean()), float(np.finfo(np.float32).tiny))
    slopes, changes = [], []
    for one in directions:
        there, back = (canvas.pictures(z + sign * step * one[:, None, None]) for sign in (1, -1))
        slopes.append((measured(there) - measured(back)) / (2 * step) / spread)
        apart = np.concatenate((there - still, back - still))
        changes.append(float(np.sqrt(np.square(apart).mean((1, 2))).mean()) / contrast)
    each = np.array(slopes)  # (k, n, properties)
    error = each.std(1, ddof=1) / math.sqrt(len(z)) if len(z) > 1 else np.full(each[:, 0].shape, np.nan)
    return Entanglement(each.mean(1), error, np.array(changes))


def free(directions: Tensor, count: int) -> Tensor:
    """`count` random unit vectors (count, code) at right angles to all of (k, code): where nothing is controlled.

    (0, code) where the directions leave no room.
    """
    rank = int(torch.linalg.matrix_rank(directions))
    basis = torch.linalg.svd(directions.double().cpu(), full_matrices=True)[2][rank:]
    mixed = torch.randn(count if len(basis) else 0, len(basis), dtype=torch.float64) @ basis
    return (mixed / mixed.norm(dim=1, keepdim=True)).to(directions)
