"""Restoration and inversion: degradations are what they say, the generator's own images come back, edits are exact."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import cli  # noqa: F401
from test_training import write

from anomalib_gan import explore, restoring
from anomalib_gan.checkpoint import load_model
from anomalib_gan.degrading import APART, STRENGTH, Degradation, degradation, filters, holes, wiener
from anomalib_gan.editing import edited, inverted
from anomalib_gan.models import build
from anomalib_gan.properties import PROPERTIES
from anomalib_gan.residuals import gaussian, smooth
from anomalib_gan.restoring import (
    BOTH,
    DEGRADED,
    FILTER,
    GENERATOR,
    Outcome,
    Settings,
    applied,
    begun,
    best,
    outcome,
    psnr,
    restore,
    search,
    table,
    tune,
    windows,
)
from anomalib_gan.runtime.files import read_json, write_json
from pipelines.train import train

SMALL = {"width": 8, "code": 4, "patch": 32, "steps": 20}


def generator(name="dcgan", seed=0, **params):
    """A model whose generator was not trained, but has contrast: what it can draw is known by drawing it."""
    torch.manual_seed(seed)
    model = build(name, **{**SMALL, **params}).eval().requires_grad_(False)
    model.G[-2].weight.mul_(8)
    return model


def own(model, height=64, width=64, seed=1):
    """An image that the model itself draws."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return model.generate(torch.randn(1, model.code, height // 16, width // 16))  # 16 px to a code


def texture(height=96, width=96, seed=0):
    """Smooth stripes with some noise, (1, 1, H, W)."""
    torch.manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (0.6 * torch.sin(0.3 * x + 0.1 * y) + 0.05 * torch.randn(height, width)).float()[None, None]


# --- degradations and filters ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(STRENGTH)), st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 99))
def test_a_degradation_is_linear_but_for_its_noise(kind, a, b, seed):
    torch.manual_seed(seed)
    x, y = torch.rand(2, 1, 1, 24, 31, dtype=torch.float64) * 2 - 1
    A = degradation(kind, 1.5, holes(24, 31, 8, seed) if kind == "hole" else None)
    assert torch.allclose(A(a * x + b * y), a * A(x) + b * A(y), atol=1e-9)


def test_noise_has_its_spread_blur_its_kernel_and_a_hole_hides_all_in_it():
    x = torch.zeros(1, 1, 200, 200)
    noisy = degradation("noise", 0.1).spoilt(x, 3)
    assert float(noisy.mean()) == pytest.approx(0, abs=0.005) and float(noisy.std()) == pytest.approx(0.2, rel=0.02)
    assert psnr(noisy, x) == pytest.approx(20, abs=0.1)  # -20 log10 of the share of white
    assert torch.equal(degradation("noise", 0.1)(noisy), noisy)

    x[..., 100, 100] = 1
    A = degradation("blur", 1.5)
    line = gaussian(1.5, x)
    edge = len(line) // 2
    around = A(x)[0, 0, 100 - edge : 101 + edge, 100 - edge : 101 + edge]
    assert torch.allclose(around, torch.outer(line, line), atol=1e-7)
    assert float(A(x).sum()) == pytest.approx(1, abs=1e-5)

    hole = holes(200, 200, 24, 0)
    A, x, other = degradation("hole", 24, hole), torch.rand(1, 1, 200, 200), torch.rand(1, 1, 200, 200)
    mixed = torch.where(hole, other, x)
    assert torch.equal(A.spoilt(x, 0), A.spoilt(mixed, 0)) and torch.equal(A(A(x)), A(x))
    assert torch.equal(A(x)[~hole], x[~hole])


def test_the_same_seed_degrades_alike_and_another_does_not():
    x = texture()
    for kind in STRENGTH:
        made = [
            degradation(kind, 2.0, holes(96, 96, 24, seed) if kind == "hole" else None).spoilt(x, seed)
            for seed in (5, 5, 6)
        ]
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_holes_are_of_the_size_and_number_asked_for():
    mask = holes(4 * APART, 4 * APART, 20, 0)
    assert float(mask.sum()) == pytest.approx(16 * np.pi * 10**2, rel=0.15)  # some overlap, or hang over the edge
    assert holes(10, 10, 4, 0).any()


def test_a_part_of_an_image_is_degraded_as_in_the_whole():
    x, hole = texture(), holes(96, 96, 24, 0)
    A = Degradation(blur=1.0, hole=hole)
    window = restoring.Box(16, 8, 80, 72)
    part = A.within(window)(x[..., 16:80, 8:72])
    assert torch.allclose(part[..., 4:-4, 4:-4], A(x)[..., 20:76, 12:68], atol=1e-6)


@pytest.mark.parametrize("kind", STRENGTH)
def test_a_plain_filter_leaves_a_flat_picture_and_the_best_one_helps(kind):
    hole = holes(96, 96, 16, 0) if kind == "hole" else None
    A = degradation(kind, 0.1 if kind == "noise" else 2.0, hole)
    flat = np.full((96, 96, 1), 51 / 127.5 - 1, np.float32)
    mask = None if hole is None else hole[0, 0].numpy()
    for one in filters(kind, A):
        assert np.abs(one.apply(flat, mask) - flat).max() < 2.5 / 127.5, one.name  # OpenCV's rounding
    x = texture()
    y = A.spoilt(x, 0)
    chosen = best(filters(kind, A), y, x, A)
    assert psnr(applied(chosen, y, A), x, A) > psnr(y, x, A) + 1
    both = applied(chosen, torch.cat((y, y)), A)
    assert torch.equal(both[1:], applied(chosen, y, A))


def test_wiener_undoes_a_blur_that_has_no_noise():
    x = torch.zeros(1, 1, 96, 96, dtype=torch.float64)
    x[..., 24:72, 24:72] = texture(48, 48)
    x = smooth(x, 1.0)
    y, x = (one[0].permute(1, 2, 0).numpy() for one in (smooth(x, 1.5), x))
    assert np.abs(wiener(y, 1.5, 1e-8) - x).max() < 0.01 < 0.1 < np.abs(y - x).max()


# --- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "strength", "gain"), [("noise", 0.1, 12), ("hole", 16.0, 40), ("blur", 2.0, 8)])
def test_what_the_generator_drew_comes_back_from_its_degraded_image(kind, strength, gain):
    model = generator()
    x = own(model)
    A = degradation(kind, strength, holes(64, 64, strength, 2) if kind == "hole" else None)
    y = A.spoilt(x, 0)
    image = restore(model, y, A, y, mu=1e-4, steps=300)
    assert psnr(image, x, A) > psnr(y, x, A) + gain


def test_the_search_repeats_itself_to_the_last_bit_and_comes_nearer_than_it_began():
    model, x = generator(), texture(50, 71)
    A = degradation("noise", 0.05)
    y, start = A.spoilt(x, 1), begun(model, x)
    found = [search(model, y, A, start, mu=0.01, steps=30) for _ in range(2)]
    assert torch.equal(found[0].z, found[1].z) and torch.equal(found[0].image, found[1].image)
    assert found[0].image.shape == x.shape == start.image.shape
    assert float((found[0].image - y).square().mean()) < float((start.image - y).square().mean())


def test_under_a_heavy_prior_the_codes_are_its_mean():
    model, x = generator(), texture(64, 64)
    found = search(model, x, Degradation(), begun(model, x), mu=1e7, steps=300)
    assert float(found.z.abs().max()) < 0.02
    with torch.no_grad():
        still = model.generate(torch.zeros_like(found.z))
    assert torch.allclose(found.image, still[(..., *found.place)], atol=0.02)


def test_a_class_is_no_matter_of_degree():
    model = generator("cgan", classes=["a", "b"])
    x = texture(64, 64)
    start = begun(model, x)
    found = search(model, x, Degradation(), start, mu=0.01, steps=10)
    assert torch.equal(found.z[:, -2:], start.z[:, -2:]) and not torch.equal(found.z[:, :-2], start.z[:, :-2])


def test_the_search_moves_nothing_but_codes():
    model, x = generator().requires_grad_(True).train(), texture(64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        search(model, x, Degradation(), begun(model, x), mu=0.01, steps=3)
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["fcbigan", "fcbigan_source", "bigan", "vae", "vae_gan", "dcgan"])
@pytest.mark.parametrize("size", [(64, 64), (75, 141)])
def test_every_image_of_any_size_has_codes_that_draw_one_of_its_size(name, size):
    small = {"dcgan": SMALL, "fcbigan_source": {"width": 4, "code": 4}}.get(name, {"width": 8, "code": 4})
    torch.manual_seed(0)
    model = build(name, **small).eval()
    found = begun(model, texture(*size))
    assert found.image.shape == (1, 1, *size) and found.z.shape[:2] == (1, model.code)


def test_a_model_that_draws_nothing_is_refused_by_name():
    with pytest.raises(ValueError, match=r"PCA draws no image from codes.*such as fcbigan or dcgan"):
        begun(build("pca"), texture())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2500), st.integers(1, 2500))
def test_tiles_cover_each_pixel_once_and_stay_within_the_image(height, width):
    model = generator()
    seen = np.zeros((height, width), np.uint8)
    for core, window in windows(model, height, width):
        assert 0 <= window.top <= core.top < core.bottom <= window.bottom <= height
        assert 0 <= window.left <= core.left < core.right <= window.right <= width
        seen[core.top : core.bottom, core.left : core.right] += 1
    assert (seen == 1).all()


def test_a_large_image_is_restored_tile_by_tile(monkeypatch):
    monkeypatch.setattr(restoring, "TILE", 64)
    monkeypatch.setattr(restoring, "HALO", 32)
    model = generator()
    x = own(model, 64, 128)
    A = degradation("hole", 12, holes(64, 128, 12, 0))
    y, steps = A.spoilt(x, 0), []

    def counted(some):
        for step in some:
            steps.append(step)
            yield step

    image = restore(model, y, A, y, mu=1e-4, steps=150, progress=counted)
    assert len(steps) == 150 * len(windows(model, 64, 128)) == 150 * 2
    assert image.shape == x.shape and psnr(image, x, A) > psnr(y, x, A) + 10


# --- what is told ----------------------------------------------------------------------------------------------------


def test_settings_are_those_that_come_nearest_on_normal_pixels():
    model = generator()
    normals = [own(model, seed=seed) for seed in (3, 4)]
    chosen = tune(model, normals, "noise", 0.1, steps=60, mus=(1e-3, 1e4))
    assert chosen.mu == 1e-3 and chosen.filter.name in ("Gaussian", "median", "non-local means")
    assert chosen.rest.name == "nothing"  # what G does not draw of its own images is noise
    for kind, strength in (("noise", 0.02), ("hole", 8)):
        strange = tune(model, [texture(64, 64)], kind, strength, steps=10, mus=(1e4,))
        assert strange.rest.name != "nothing"  # at z = 0 all of the image is in the rest


@pytest.mark.parametrize("kind", STRENGTH)
def test_outcomes_have_all_pictures_and_figures_in_range(kind):
    model, x = generator(), texture(64, 64)
    A = degradation(kind, 0.1 if kind == "noise" else 1.5, holes(64, 64, 12, 0) if kind == "hole" else None)
    chosen = Settings(filters(kind, A)[0], 0.01, 5, filters(kind, A)[-1])
    found = outcome(model, A.spoilt(x, 0), A, chosen, x=x)
    assert list(found.pictures) == ["original", DEGRADED, FILTER, GENERATOR, BOTH]
    assert all(one.shape == x.shape and torch.isfinite(one).all() for one in found.pictures.values())
    assert all(found.pictures[name].abs().max() <= 1 for name in (FILTER, GENERATOR, BOTH))
    assert found.figures[FILTER] == {"psnr": psnr(found.pictures[FILTER], x, A), "ssim": found.figures[FILTER]["ssim"]}
    assert all(one["ssim"] <= 1 for one in found.figures.values())
    assert outcome(model, x, A, chosen).figures == {}
    if A.hole is not None:  # what is known stays, and continues into the hole
        assert all(torch.equal(found.pictures[name][~A.hole], x[~A.hole]) for name in (FILTER, GENERATOR, BOTH))
        assert found.figures[BOTH]["psnr"] > found.figures[GENERATOR]["psnr"]


def told(filter, generator, both):
    values = {DEGRADED: 20.0, FILTER: filter, GENERATOR: generator, BOTH: both}
    one = Outcome({}, {name: {"psnr": value, "ssim": 0.5} for name, value in values.items()}, 1.0)
    A = degradation("noise", 0.1)
    return table("noise", [one, one], Settings(filters("noise", A)[0], 0.1, 300, filters("noise", A)[-1]))


def test_where_the_filter_wins_the_table_says_so():
    assert "The plain filter wins, by 2.00 dB" in told(30.0, 22.0, 28.0)
    assert "The generator + filter wins over the plain filter, by 1.50 dB" in told(26.0, 22.0, 27.5)
    assert "The generator wins over the plain filter, by 3.00 dB" in told(26.0, 29.0, 27.5)
    assert "| generator | mu 0.1, 300 steps | 29.00 dB | 0.500 | 2 of 2 |" in told(26.0, 29.0, 27.5)


# --- editing ---------------------------------------------------------------------------------------------------------


def test_an_edit_of_no_length_leaves_the_image_as_it_is_and_a_transferred_one_adds_what_the_drawn_one_does():
    model, x = generator(), 0.5 * texture(64, 80)
    _, found = inverted(model, x, steps=20)
    still, transferred = edited(model, x, found, torch.zeros(model.code))
    assert torch.equal(still, found.image) and torch.allclose(transferred, x, atol=1e-6)
    torch.manual_seed(0)
    moved, transferred = edited(model, x, found, 0.3 * torch.randn(model.code))
    assert not torch.equal(moved, still)
    assert torch.allclose(transferred, (x + moved - still).clamp(-1, 1), atol=1e-6)


def test_an_image_too_large_to_be_inverted_as_a_whole_is_refused():
    with pytest.raises(ValueError, match="5000x4000 px is too large"):
        inverted(generator(), torch.zeros(1, 1, 1, 1).expand(1, 1, 5000, 4000))


# --- the commands ----------------------------------------------------------------------------------------------------


def stripes(seed, height, width):
    return np.rint((texture(height, width, seed)[0, 0].numpy().clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def signed(path):
    """The image in a file, (1, 1, H, W) in [-1, 1]."""
    return torch.from_numpy(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) / 127.5 - 1).float()[None, None]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short training of a generator, of a model without one, and images: one with other names for what is wrong."""
    root = tmp_path_factory.mktemp("restoring")
    for i in range(3):
        write(root / f"normal/{i}.png", stripes(i, 96, 160))
    write(root / "colour.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    write(root / "mask.png", 255 * np.pad(np.ones((12, 12), np.uint8), ((40, 44), (60, 88))))
    write(root / "black.png", np.zeros((96, 160), np.uint8))
    small = {"width": 4, "code": 6, "patch": 64, "shrink": 2, "steps": 5}
    train(root / "normal", out=root / "run", model="dcgan", params=small, steps=2, device="cpu", threads=1)
    train(
        root / "normal", out=root / "ae", model="ae", params={"width": 4, "patch": 64}, steps=2, device="cpu", threads=1
    )
    return root


QUICK = ("--steps", 4, "--mu", 0.1, "--threads", 1, "--device", "cpu")


@pytest.mark.parametrize("kind", STRENGTH)
def test_the_command_restores_what_was_held_back_and_tells_how_well(runs, cli, tmp_path, kind):  # noqa: F811
    asked = ("explore", "restore", runs / "run", "--degradation", kind, *QUICK, "--out")
    code, out, err = cli(*asked, tmp_path / "a", "--progress", tmp_path / "far.json")
    assert code == 0, err
    assert "| degraded |" in out and "plain filter" in out and (tmp_path / "a/restore.md").read_text() in out
    told = read_json(tmp_path / "a/restore.json")
    assert len(told["images"]) == 3 and told["degradation"] == kind and told["mu"] == 0.1
    for name, one in told["images"].items():
        assert set(one["figures"]) == {DEGRADED, FILTER, GENERATOR, BOTH}
        assert cv2.imread(str(tmp_path / f"a/{name}.png"), cv2.IMREAD_GRAYSCALE).shape[0] > 96
    far = read_json(tmp_path / "far.json")
    assert far["state"] == "finished" and far["step"] == far["steps"] == 4 * (1 + 3)
    code, _, err = cli(*asked, tmp_path / "b")
    again = read_json(tmp_path / "b/restore.json")
    assert code == 0 and [one["figures"] for one in again["images"].values()] == [
        one["figures"] for one in told["images"].values()
    ]


def test_an_image_that_is_degraded_already_is_restored_and_known_pixels_stay(runs, cli, tmp_path):  # noqa: F811
    code, out, err = cli(
        "explore", "restore", runs / "run", runs / "normal/1.png", "--degradation", "hole", "--mask", runs / "mask.png",
        "--as-is", *QUICK, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    assert "PSNR" not in out
    before = cv2.imread(str(runs / "normal/1.png"), cv2.IMREAD_GRAYSCALE)
    after = cv2.imread(str(tmp_path / "0-1-restored.png"), cv2.IMREAD_GRAYSCALE)
    hole = cv2.imread(str(runs / "mask.png"), cv2.IMREAD_GRAYSCALE) > 0
    assert (after == before)[~hole].all() and (after != before)[hole].mean() > 0.5


def test_the_command_inverts_an_image_moves_its_codes_and_stores_them(runs, cli, tmp_path):  # noqa: F811
    image = runs / "normal/0.png"
    asked = ("explore", "invert", runs / "run", image, "--steps", 4, "--threads", 1, "--device", "cpu", "--out")
    code, out, err = cli(*asked, tmp_path / "a", "--progress", tmp_path / "far.json")
    assert code == 0, err
    assert "G(z*), after 4 steps" in out and read_json(tmp_path / "far.json")["steps"] == 4
    told, codes = read_json(tmp_path / "a/invert.json"), np.load(tmp_path / "a/codes.npz")
    model, _ = load_model(runs / "run")
    top, bottom, left, right = codes["place"]
    with torch.no_grad():
        again = model.generate(torch.from_numpy(codes["z"]))[..., top:bottom, left:right]
    drawn = cv2.imread(str(tmp_path / "a/drawn.png"), cv2.IMREAD_GRAYSCALE)
    assert drawn.shape == (96, 160) and np.abs((again[0, 0].numpy() + 1) * 127.5 - drawn).max() <= 0.51
    assert told["psnr"]["found"] == pytest.approx(psnr(again, signed(image)), abs=0.01)

    vectors = np.eye(6)[:4].tolist()
    write_json(tmp_path / "d.json", {"vectors": {"orthogonal": dict(zip(PROPERTIES, vectors, strict=True))}})
    code, _, err = cli(*asked, tmp_path / "b", "--move", "density", "--by", -1.5, "--directions", tmp_path / "d.json")
    assert code == 0, err
    step = torch.zeros_like(torch.from_numpy(codes["z"]))
    step[:, 1] = -1.5
    with torch.no_grad():
        moved = model.generate(torch.from_numpy(codes["z"]) + step)[..., top:bottom, left:right]
    edit, transferred = (
        cv2.imread(str(tmp_path / f"b/{name}.png"), cv2.IMREAD_GRAYSCALE) for name in ("edited", "transferred")
    )
    assert np.abs((moved[0, 0].numpy() + 1) * 127.5 - edit).max() <= 0.51
    onto = (signed(image) + moved - again).clamp(-1, 1)
    assert np.abs((onto[0, 0].numpy() + 1) * 127.5 - transferred).max() <= 0.51


def test_a_direction_is_found_from_samples_where_no_file_is_given(runs, cli, tmp_path, monkeypatch):  # noqa: F811
    of = explore.Pool.of
    monkeypatch.setattr(explore.Pool, "of", lambda canvas: of(canvas, 12))
    monkeypatch.setattr(explore, "SAMPLES", 12)
    monkeypatch.setattr(explore, "SIDE", 64)
    asked = ("explore", "invert", runs / "run", runs / "normal/0.png", "--steps", 2, "--threads", 1, "--device", "cpu")
    code, _, err = cli(*asked, "--move", "brightness", "--out", tmp_path, "--progress", tmp_path / "far.json")
    assert code == 0, err
    assert read_json(tmp_path / "far.json")["steps"] == 14 and (tmp_path / "transferred.png").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("restore {0}/ae --degradation noise", "AE draws no image from codes"),
        ("restore {0}/run --degradation rain", "no degradation is called 'rain': choose one of noise, blur, hole"),
        ("restore {0}/run --degradation blur --strength 0", "strength 0"),
        ("restore {0}/run --degradation blur --mask {0}/mask.png", "is of a hole, and --degradation is blur"),
        ("restore {0}/run --degradation noise --as-is", "--as-is needs the degraded images"),
        ("restore {0}/run {0}/nowhere --degradation noise", "nowhere"),
        ("restore {0}/run {0}/colour.png --degradation noise", "is a colour image, the model has 1 channel"),
        ("restore {0}/run {0}/normal --degradation hole --mask {0}/black.png", "is nowhere white"),
        ("restore {0}/run {0}/mask.png --degradation hole --mask {0}/colour.png", "64x64 px for an image of 96x160"),
        ("invert {0}/run {0}/normal/0.png --move colour", "no property is called 'colour': choose from thickness"),
        ("invert {0}/run {0}/normal/0.png --move density --directions {0}/ae/card.json", "holds no directions"),
        ("invert {0}/ae {0}/normal/0.png", "AE draws no image from codes"),
        ("invert {0}/run {0}/nowhere.png", "nowhere.png"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(arguments, told, runs, cli):  # noqa: F811
    words = [word.format(runs) for word in arguments.split()]
    assert told in cli.refuses("explore", *words, "--out", runs / "x", "--threads", 1)
    assert not (runs / "x").exists()
