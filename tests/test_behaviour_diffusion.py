"""What is known in closed form of diffusion: its schedule, and what its samplers make of a Gaussian.

For data N(mu, Sigma) the best x^ is linear, so every step of a sampler is affine in x_t and in its noise. Here the
samplers run on a batch of unit vectors, one for each number of the start and of each draw of noise. That gives the mean
and the covariance of what they draw exactly, without drawing anything.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from anomalib_gan.diffusion import backwards, cosine, spaced
from anomalib_gan.models import build
from anomalib_gan.residuals import smooth
from anomalib_gan.training import Trainer

MU = torch.tensor([0.6, -1.1], dtype=torch.float64)
ROUND = 0.3 * torch.eye(2, dtype=torch.float64)
SLANTED = torch.tensor([[0.5, 0.3], [0.3, 0.25]], dtype=torch.float64)  # variances 0.70 and 0.05 along its axes


def drawn(abar, times, cov, *, eta=0.0, error=lambda t: 0.0, begin=None):
    """Mean (2,) and covariance (2, 2) of what the sampler makes of N(mu, cov) data, from the covariance `begin`.

    Without that it begins with N(0, I), as samplers do; with it, around the mean that q(x_t) has.
    """

    def denoised(x, t):
        gain = math.sqrt(abar[t]) * cov @ torch.linalg.inv(abar[t] * cov + (1 - abar[t]) * torch.eye(2))
        return (MU + (x.flatten(1) - math.sqrt(abar[t]) * MU) @ gain.T).view_as(x)

    rows = 1 + 2 * len(times)
    x = torch.zeros(rows, 2, 1, 1, dtype=torch.float64)
    if begin is not None:
        x += math.sqrt(abar[times[0]]) * MU[:, None, None]
    x[1:3, :, 0, 0] += torch.eye(2) if begin is None else torch.linalg.cholesky(begin).T
    draws = iter(range(3, rows, 2))

    def noise(like):
        z = torch.zeros_like(like)
        first = next(draws)
        z[first : first + 2, :, 0, 0] = torch.eye(2, dtype=torch.float64)
        return z

    found = backwards(denoised, x, abar, times, eta=eta, error=error, noise=noise).flatten(1)
    columns = found[1:] - found[0]
    return found[0], columns.T @ columns


def along_axes(cov, function):
    """`function` of each variance, a matrix with the axes of `cov`."""
    values, axes = torch.linalg.eigh(cov)
    return axes @ torch.diag(torch.tensor([function(float(v)) for v in values], dtype=torch.float64)) @ axes.T


@pytest.mark.parametrize("steps", [10, 1000])
def test_the_cosine_schedule_is_its_closed_form_but_for_the_last_steps_limit(steps):
    abar = cosine(steps)
    f = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
    assert len(abar) == steps + 1 and abar[0] == 1
    assert abar[:-1] == pytest.approx([one / f[0] for one in f[:-1]], rel=1e-9)
    assert abar[-1] == pytest.approx(0.001 * abar[-2])  # the formula's is 0, and nothing can be divided by that
    assert all(0 < now < before for before, now in pairwise(abar))


@torch.no_grad()
def test_training_shows_images_with_the_moments_of_q_and_every_degree_of_noise_as_often():
    torch.manual_seed(0)
    model, seen = build("ddpm", width=4, patch=64, shrink=1, batch=16), []
    U = model.U.forward
    model.U.forward = lambda x, e: (seen.append((x, e)), U(x, e))[1]
    s = 0.5 * torch.ones(16, 1, 64, 64)
    for _ in model.play(iter([s]), 0.0):
        pass
    ((x, e),) = seen
    degrees = [int((model.told - one).abs().flatten(1).sum(1).argmin()) for one in e]
    assert sorted((t - 1) * 16 // 1000 for t in degrees) == pytest.approx(list(range(16)), abs=1)
    for one, t in zip(x, degrees, strict=True):
        abar, n = model.abar[t], one.numel()
        assert float(one.mean()) == pytest.approx(0.5 * math.sqrt(abar), abs=5 * math.sqrt((1 - abar) / n))
        assert float(one.var()) == pytest.approx(1 - abar, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_of_a_known_image_each_step_back_gives_exactly_its_noisy_version(eta, steps):
    abar, nothing = cosine(1000), torch.zeros(2, 2, dtype=torch.float64)
    times = [t + 40 for t in spaced(960, steps)]  # not to the end, where nothing but the image is left
    begin = (1 - abar[times[0]]) * torch.eye(2, dtype=torch.float64)
    mean, cov = drawn(abar, times, nothing, eta=eta, begin=begin)
    assert torch.allclose(mean, math.sqrt(abar[40]) * MU, atol=1e-12)
    assert torch.allclose(cov, (1 - abar[40]) * torch.eye(2, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("cov", [ROUND, SLANTED], ids=["round", "slanted"])
@pytest.mark.parametrize("steps", [4, 50, 1000])
def test_ddim_draws_a_gaussian_whose_deviations_are_short_by_the_cosines_of_its_steps(cov, steps):
    """Along an axis of variance v a step takes (sqrt(abar v), sqrt(1 - abar)) to its projection on the next of these
    vectors. The length of the vector is the deviation of q(x_t), so every step loses the cosine of the angle between
    two of them; as many steps go to ever smaller angles, the deviation becomes that of the data.
    """
    abar = cosine(1000)
    times = spaced(1000, steps)

    def shrunk(v):
        u = [torch.tensor([math.sqrt(abar[t] * v), math.sqrt(1 - abar[t])], dtype=torch.float64) for t in times]
        cosines = [float(torch.nn.functional.cosine_similarity(a, b, 0)) for a, b in pairwise(u)]
        return math.sqrt(v) * math.prod(cosines) / float(u[0].norm())

    mean, found = drawn(abar, times, cov)
    assert torch.allclose(found, along_axes(cov, lambda v: shrunk(v) ** 2), atol=1e-9)
    assert torch.allclose(mean, MU - math.sqrt(abar[-1]) * along_axes(cov, shrunk) @ MU, atol=1e-9)
    assert torch.allclose(mean, MU, atol=1e-3)


def test_what_ddim_is_short_by_halves_as_its_steps_double():
    abar = cosine(4000)
    short = [float(SLANTED.trace() - drawn(abar, spaced(4000, steps), SLANTED)[1].trace()) for steps in (50, 100, 200)]
    assert 0 < short[2] < 0.02 * float(SLANTED.trace())
    assert all(b / a == pytest.approx(0.5, abs=0.05) for a, b in pairwise(short))


@pytest.mark.parametrize("cov", [ROUND, SLANTED], ids=["round", "slanted"])
def test_ancestral_sampling_is_algorithm_2_and_its_gaussian_is_the_datas_up_to_the_schedules_steps(cov):
    """The recursion of the paper in its letters: x_(t-1) = (x_t - beta eps / sqrt(1 - abar)) / sqrt(alpha) + sigma z
    with sigma^2 = beta (1 - abar_(t-1)) / (1 - abar_t). At every step its variance misses how x_0 varies given x_t.
    """

    def paper(v, abar):
        variance = 1.0
        for t in range(len(abar) - 1, 0, -1):
            alpha = abar[t] / abar[t - 1]
            eps = math.sqrt(1 - abar[t]) / (abar[t] * v + 1 - abar[t])  # E[eps|x_t], for each unit of x_t
            slope = (1 - (1 - alpha) / math.sqrt(1 - abar[t]) * eps) / math.sqrt(alpha)
            variance = slope**2 * variance + (1 - alpha) * (1 - abar[t - 1]) / (1 - abar[t])
        return variance

    short = []
    for steps in (250, 1000):
        abar = cosine(steps)
        mean, found = drawn(abar, spaced(steps, steps), cov, eta=1.0)
        assert torch.allclose(found, along_axes(cov, lambda v, abar=abar: paper(v, abar)), atol=1e-9)
        assert torch.allclose(mean, MU, atol=2e-3)
        short.append(along_axes(cov, lambda v, abar=abar: 1 - paper(v, abar) / v).diagonal().amax())
    assert 0 < short[1] < 0.02 and float(short[1] / short[0]) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 1000])
def test_with_the_error_of_what_is_known_added_any_sampler_draws_the_gaussian_exactly(eta, steps):
    abar, v = cosine(1000), float(ROUND[0, 0])

    def error(t):
        return v * (1 - abar[t]) / (abar[t] * v + 1 - abar[t])  # E|x_0 - x^|^2 for each number

    _, found = drawn(abar, spaced(1000, steps), ROUND, eta=eta, error=error)
    assert torch.allclose(found, ROUND, atol=1e-7)  # it begins with N(0, I) for q(x_T), whose abar_T is not quite 0


def field(n, side):
    """A stationary Gaussian texture, (n, 1, side, side): mean 0.2, deviation 0.3, blurred white noise."""
    white = smooth(torch.randn(n, 1, side + 12, side + 12), 1.0)[..., 6:-6, 6:-6]
    return 0.2 + 0.3 * white * (2 * math.sqrt(math.pi) * 1.0)  # a blur by sigma leaves 1 / (4 pi sigma^2)


def moments(x):
    """Mean, deviation, and the correlation with the next pixel and the one after that."""
    off = x - x.mean()
    along = [float((off[..., k:] * off[..., : off.shape[-1] - k]).mean() / off.square().mean()) for k in (1, 2)]
    return float(x.mean()), float(x.std()), *along


@pytest.mark.slow
@torch.no_grad()
def test_a_net_that_was_trained_a_little_draws_a_gaussian_texture():
    torch.manual_seed(0)
    model = build("ddpm", width=16, patch=48, shrink=1, batch=6, target="velocity")  # "noise" learns the mean late

    def batch(n):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(n)
            return field(6, 48)

    trainer = Trainer(model, batch, 400, seed=0)
    with torch.enable_grad():
        for _ in trainer:
            pass
    model = trainer.finish([batch(1000 + n)[:1] for n in range(8)])
    torch.manual_seed(1)
    mean, deviation, *along = moments(field(64, 48))
    for given in ({"steps": 100}, {"steps": 100, "eta": 1.0}, {"steps": 10, "analytic": True}):
        found = moments(model.sample(12, 48, 48, **given))
        assert found[0] == pytest.approx(mean, abs=0.05)
        assert found[1] == pytest.approx(deviation, rel=0.2)
        if "analytic" not in given:  # what it adds is white
            assert found[2:] == pytest.approx(along, abs=0.2)
