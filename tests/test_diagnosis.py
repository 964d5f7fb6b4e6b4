"""A diagnosis tells what is wrong with models that were made wrong on purpose, and is silent on those that are not."""

from __future__ import annotations

import pytest
import torch
from test_cli import cli, place, trained  # noqa: F401  # fixtures
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import avg_pool2d, interpolate

from anomalib_gan.diagnosis import diagnose
from anomalib_gan.diagnosis_page import page
from anomalib_gan.findings import markdown, to_json
from anomalib_gan.model import Model
from anomalib_gan.objectives import OBJECTIVES
from anomalib_gan.runtime.files import read_json, write_json


def material(n, height, width, kinds=(0, 1, 2, 3), seed=None):
    """Images of gratings of so many kinds, one kind to each quarter of the width."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = []
    for _ in range(n):
        waves = []
        for kind in kinds:
            slant = (1.0, 0.3, -0.4, 0.0)[kind], (0.0, 0.7, 1.0, 0.25)[kind]
            phase = 6.28 * float(torch.rand((), generator=generator))
            waves.append((0.3 + 0.2 * kind) * torch.sin(slant[0] * rows + slant[1] * columns + phase))
        which = (columns * len(kinds) // width).clamp_max(len(kinds) - 1)
        x = torch.stack(waves).gather(0, which[None])[0]
        found.append(x + 0.05 * torch.randn(height, width, generator=generator))
    return torch.stack(found)[:, None].clamp(-1, 1)


class Fake(Model):
    """A model without networks, of which a test sets the methods that it is about."""

    channels, stride, halo, patch, batch = 1, 8, 8, 64, 1

    def __init__(self, **methods):
        super().__init__()
        for name, method in methods.items():
            setattr(self, name, method)


TRAINING = list(material(4, 128, 512, seed=0).split(1))
UNSEEN = list(material(2, 128, 512, seed=1).split(1))


def told(history=(), **methods):
    """The findings by their titles."""
    return {one.title: one for one in diagnose(Fake(**methods), TRAINING, UNSEEN, list(history))}


def test_a_model_is_told_only_what_it_has():
    assert list(told()) == ["Intrinsic dimension"]
    state = torch.random.get_rng_state()
    told(sample=lambda n, h, w: torch.randn(n, 1, h, w))
    assert torch.equal(state, torch.random.get_rng_state())


def coded(spread, variance):
    """q(z|s) whose mean has the given spread over images, by unit: random numbers that depend on the image."""

    def posterior(s):
        grey = avg_pool2d(s, 8).flatten(1)
        generator = torch.Generator().manual_seed(int(1e6 * float(s.mean().abs())))
        noise = torch.randn(len(s), len(spread), s.shape[-2] // 8, s.shape[-1] // 8, generator=generator)
        mean = noise * torch.tensor(spread)[:, None, None] + 0 * grey.sum()
        return Normal(mean, torch.tensor(variance)[:, None, None].sqrt().expand_as(mean))

    return posterior


def test_collapsed_units_are_counted_and_a_healthy_code_is_left_in_peace():
    found = told(posterior=coded((0.8, 0.8, 0.001), (0.36, 0.36, 1.0)))["Units of the code"]
    assert found.figures["active units"] == 2 and found.figures["units"] == 3
    assert found.figures["aggregate posterior: KL from the prior, nats per unit"] < 0.01
    assert len(found.says) == 1 and found.says[0].startswith("1 of 3 units are collapsed")
    expected = 2 * (0.36 + 0.64 - 1 - torch.tensor(0.36).log()) / 2
    assert found.figures["KL of the posteriors, nats per code"] == pytest.approx(float(expected), rel=0.05)
    assert told(posterior=coded((0.8, 0.8), (0.36, 0.36)))["Units of the code"].says == []


def test_codes_that_are_not_where_the_prior_is_are_told():
    found = told(posterior=coded((0.1, 0.2), (0.01, 0.01)))["Units of the code"]
    assert any("not spread as the prior" in text for text in found.says)


def test_both_terms_of_a_bound_are_followed_over_the_training():
    history = [{"step": i, "losses": {"e": {"kl": 1.0 + i, "nll": 5.0}, "d": {"adv": 0.0}}} for i in range(20)]
    found = told(history)["Likelihood and KL"]
    assert found.figures == {"kl, last tenth": 19.5, "nll, last tenth": 5.0}
    assert found.panels[0].y["kl"][-1] == 20


def test_blur_is_measured_where_it_is():
    kept = told(reconstruct=lambda x: x)["Blur"]
    assert kept.figures["local variance kept"] == pytest.approx(1) and kept.says == []

    def flat(x):
        return interpolate(avg_pool2d(x, 16), scale_factor=16.0)

    lost = told(reconstruct=flat)["Blur"]
    assert lost.figures["local variance kept"] < 0.01 and "averaged away" in lost.says[0]
    half = told(reconstruct=lambda x: x * 0.5**0.5)["Blur"].figures
    assert half["local variance kept"] == pytest.approx(0.5) == half["kept in the busiest fifth"]


@pytest.mark.parametrize(
    ("objective", "real", "fake", "said"),
    [
        ("non-saturating", 0.0, 0.0, "the game's equilibrium"),
        ("least-squares", 0.5, 0.5, "the game's equilibrium"),
        ("minimax", 6.0, -6.0, "lost the game"),
        ("least-squares", 0.8, 0.2, None),
        ("wasserstein", 0.5, 0.5, None),
    ],
)
def test_a_critic_at_its_equilibrium_says_nothing_and_that_is_said(objective, real, fake, said):
    def answers(x):
        noise = 0.01 * torch.randn(len(x), 1, 4, 4)
        return real + noise, fake - noise

    found = told(answers=answers, objective=OBJECTIVES[objective])["Critic"]
    assert [said in text for text in found.says] == ([True] if said else [])
    if objective == "non-saturating":
        assert found.figures["mean D on normal images"] == pytest.approx(0.5, abs=0.01)


def cut_from(images):
    """A generator that draws crops of these images."""

    def sample(n, height, width):
        rows = []
        for _ in range(n):
            x = images[int(torch.randint(len(images), ()))]
            top, left = (int(torch.randint(a - b + 1, ())) for a, b in zip(x.shape[-2:], (height, width), strict=True))
            rows.append(x[..., top : top + height, left : left + width])
        return torch.cat(rows)

    return sample


def test_a_generator_that_copies_is_told_from_one_that_has_learnt():
    copied = told(sample=cut_from(TRAINING))["Nearest training neighbours"]
    assert copied.figures["samples: median correlation with the training"] > 0.999
    assert "remembers" in copied.says[0]
    learnt = told(sample=cut_from(list(material(4, 128, 512, seed=2).split(1))))["Nearest training neighbours"]
    assert learnt.says == []


def test_kinds_of_the_material_that_a_generator_never_draws_are_told():
    whole = told(sample=cut_from(list(material(4, 128, 512, seed=2).split(1))))["Mode coverage"]
    less = told(sample=cut_from(list(material(4, 128, 512, (0, 1), seed=2).split(1))))["Mode coverage"]
    count = whole.figures["clusters of training crops"]
    assert whole.figures["clusters that samples cover"] >= 0.8 * count
    assert less.figures["clusters that samples cover"] <= 0.7 * count and "modes are missing" in less.says[0]
    assert less.figures["samples: recall"] < 0.7 < whole.figures["samples: recall"]
    assert less.figures["samples: frechet"] > 2 * whole.figures["samples: frechet"]


def test_a_code_narrower_than_the_patches_and_one_far_too_wide_are_told():
    def code(width, used):
        torch.manual_seed(0)
        mix = torch.randn(used, width)

        def parts(x: Tensor) -> dict[str, Tensor]:
            found = torch.randn(len(x), x.shape[-2] // 8, x.shape[-1] // 8, used) @ mix
            return {"code": found.movedim(-1, 1)}

        return parts

    narrow = told(parts=code(1, 1))["Intrinsic dimension"]
    assert narrow.figures["numbers of a code"] == 1 and "narrower than the patches" in narrow.says[0]
    wide = told(parts=code(64, 3))["Intrinsic dimension"]
    assert wide.figures["codes: TwoNN"] == pytest.approx(3, rel=0.2) and "codes fill" in wide.says[0]
    assert (
        told(parts=lambda x: {"code": torch.zeros(1, 4, 3, 3)})["Intrinsic dimension"].says[0].startswith("all codes")
    )


def test_everything_found_goes_into_the_text_and_on_the_page(tmp_path):
    found = diagnose(
        Fake(sample=cut_from(TRAINING), reconstruct=lambda x: x, posterior=coded((0.8, 0.8), (0.36, 0.36))),
        TRAINING,
        [],
        [{"step": 1, "losses": {"e": {"kl": 1.0, "nll": 5.0}}}],
    )
    text = markdown("x", found)
    for one in found:
        assert f"## {one.title}" in text and all(f"| {name} |" in text for name in one.figures)
    assert to_json(found)["Blur"]["figures"]["local variance kept"] == pytest.approx(1)
    page(found, "x", tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_is_diagnosed_from_the_images_of_its_training(cli, place):  # noqa: F811
    code, out, err = cli("diagnose", place / "run", "--out", place / "x")
    assert code == 0, err
    assert {"Critic", "Intrinsic dimension", "Blur"} <= set(read_json(place / "x/diagnosis.json"))
    assert "mean D on generated" in out and (place / "x/diagnosis.png").stat().st_size > 10_000
    card = read_json(place / "run/card.json")
    card["data"]["images"][1]["sha256"] = "0" * 64
    write_json(place / "run/card.json", card)
    assert "1.png is not the file of the training" in cli.refuses("diagnose", place / "run", "--out", place / "y")
