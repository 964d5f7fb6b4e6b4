"""What the codes of a generator are good for, on generators whose factors are known; and the commands on a real run."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import geometric_slerp
from test_cli import cli  # noqa: F401  # a fixture
from test_laws import small
from test_training import texture, write

from anomalib_gan import explore, models
from anomalib_gan.explore import Canvas, corners, entanglement, free, lerp, orthogonalised, regressed, slerp, traversed
from anomalib_gan.model import Model
from anomalib_gan.models import MODELS
from anomalib_gan.properties import PROPERTIES, table
from anomalib_gan.runtime.files import read_json
from anomalib_gan.sheets import Row, markdown, sheet
from pipelines import latent
from pipelines.cli import build
from pipelines.exploring import draws
from pipelines.train import train

DOCS = Path(__file__).parents[1] / "docs"
DRAWING = [name for name, kind in MODELS.items() if draws(kind)]
SEEDS = st.integers(0, 2**31 - 1)
CELL, CODE = 16, 6
BRIGHT, DENSE = (
    torch.nn.functional.normalize(torch.tensor(one), dim=0)
    for one in ((1.0, 0.6, 0, 0, 0, 0.3), (0.2, 1, 0, 0, 0.4, 0))
)


class Known(Model):
    """Fibres along the rows, one to a code: as wide as DENSE in the code says, as bright as BRIGHT says, and slanted
    and uneven as other numbers of it say, which neither density nor brightness hears of.
    """

    channels, stride, halo, patch, batch, code = 1, CELL, CELL, 64, 1, CODE

    def generate(self, z):
        rows = z.shape[2]
        wide, light = (torch.einsum("nchw,c->nhw", z, one) for one in (DENSE, BRIGHT))
        wide, light, slant = (
            one.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2) for one in (6 + wide, 0.08 * light, 2 * z[:, 3])
        )
        y = torch.arange(rows * CELL)[:, None] % CELL - (CELL - 1) / 2
        fibre = (wide / 2 - (y - slant.tanh()).abs() + 0.5).clamp(0, 1)  # (n, H, W)
        return (0.8 * (fibre - wide / CELL) + light)[:, None]  # the mean is that of the light, whatever the width


WANTED = [list(PROPERTIES).index(name) for name in ("density", "brightness")]


def both(pictures):
    return table(pictures)[:, WANTED]


@pytest.fixture(scope="module")
def known():
    """Canvas, samples, their properties, and the directions found."""
    canvas = Canvas(Known(), 96, 96)
    with explore.seeded(0):
        z = canvas.draw(160, explore.COMMON)
    values = both(canvas.pictures(z))
    directions, told = regressed(explore.mean_code(z), values, ("density", "brightness"))
    return canvas, z, values, directions, told


# --- ways ------------------------------------------------------------------------------------------------------------


def fields(seed, n=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, 5, 3, 4, generator=generator, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(0, 1))
def test_on_the_spherical_way_lengths_go_from_one_to_the_other_evenly(seed, t):
    a, b = fields(seed)
    z = slerp(a, b, t)
    assert torch.allclose(z.norm(dim=1), (1 - t) * a.norm(dim=1) + t * b.norm(dim=1), rtol=1e-9)
    assert torch.allclose(z, slerp(b, a, 1 - t), atol=1e-9)
    if 0.01 < t < 0.99:
        assert (lerp(a, b, t).norm(dim=1) < z.norm(dim=1)).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0, 1))
def test_the_spherical_way_is_the_great_circle(seed, t):
    u, v = (one / one.norm() for one in fields(seed)[:, 0, :, 0, 0])
    found = slerp(u[None, :, None, None], v[None, :, None, None], t).flatten()
    assert np.allclose(found, geometric_slerp(u.numpy(), v.numpy(), t), atol=1e-9)


@pytest.mark.parametrize("way", explore.WAYS.values(), ids=explore.WAYS)
def test_ways_begin_and_end_exactly_where_they_should(way):
    a, b = fields(0)
    nine = explore.chain(a, b, 9, way)
    assert len(nine) == 9 and torch.equal(nine[:1], a) and torch.equal(nine[-1:], b)
    four = fields(1, 2).flatten(0, 1)
    grid = corners(four, 5, way).unflatten(0, (5, 5))
    for one, (i, j) in zip(four, ((0, 0), (0, 4), (4, 0), (4, 4)), strict=True):
        assert torch.equal(grid[i, j], one)
    assert torch.equal(grid[0], explore.chain(four[:1], four[1:2], 5, way))
    assert torch.allclose(corners(four, 5, lerp)[12], four.mean(0))


def test_parallel_opposite_and_zero_codes_have_a_way_too():
    a = fields(0)[0]
    for b in (2 * a, -a, 0 * a):
        assert torch.allclose(slerp(a, b, 0.25), lerp(a, b, 0.25))
    near = a + 1e-7 * fields(1)[0]
    assert torch.allclose(slerp(a, near, 0.5), lerp(a, near, 0.5), atol=1e-8)


def test_what_both_codes_share_everywhere_such_as_a_class_stays():
    a, b = fields(0)
    a[:, 4], b[:, 4] = 1.0, 1.0
    assert (slerp(a, b, 0.5)[:, 4] == 1).all() and not torch.allclose(slerp(a, b, 0.5), lerp(a, b, 0.5))


# --- canvases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWING)
def test_every_generator_draws_pictures_of_any_size_from_codes_that_a_seed_gives(name):
    model = small(name).eval()
    canvas = Canvas(model, 70, 101)
    with explore.seeded(3):
        z = canvas.draw(2, 0.5)
        sample = explore.sampled(model, 70, 101)
    with explore.seeded(3):
        again = canvas.draw(2, 0.5)
    assert torch.equal(z, again) and z.shape[:2] == (2, model.code)
    pictures = canvas.pictures(z)
    assert pictures.shape == (2, 70, 101) and np.isfinite(pictures).all() and np.abs(pictures).max() <= 1
    assert sample.shape == (1, 70, 101)


def test_samples_with_a_part_in_common_have_the_priors_codes_at_every_place():
    canvas = Canvas(Known(), 64, 64)
    with explore.seeded(0):
        z = canvas.draw(4000, 0.5)
    assert z.var(0).mean() == pytest.approx(1, abs=0.02)
    assert explore.mean_code(z).var(0).mean() == pytest.approx(0.5 + 0.5 / z[0, 0].numel(), rel=0.05)


def test_a_detector_draws_codes_like_those_of_its_normal_images_and_mixes_them_about_their_mean():
    torch.manual_seed(0)
    model = models.build("fcbigan", width=8, code=4, patch=64).eval()
    with torch.no_grad():
        model.code_mean.copy_(torch.tensor([5.0, -3.0, 0.0, 1.0]))
        model.field.mul_(torch.tensor([0.5, 1.0, 2.0, 0.1])[:, None, None, None])
        canvas = Canvas(model, 96, 96)
        for common in (0.0, 0.5):
            z = canvas.draw(400, common).transpose(0, 1).flatten(1)
            assert torch.allclose(z.mean(1), model.code_mean, atol=0.15)
            assert torch.allclose(z.std(1), torch.tensor([0.5, 1.0, 2.0, 0.1]), rtol=0.1)
        found = canvas.around(torch.tensor([1.0, 2.0, 3.0, 4.0]), 400, 0.5).transpose(0, 1).flatten(1)
    assert torch.allclose(found.mean(1), torch.tensor([1.0, 2.0, 3.0, 4.0]), atol=0.15)
    assert torch.allclose(found.std(1), torch.tensor([0.25, 0.5, 1.0, 0.05]), rtol=0.1)


def test_a_class_is_no_part_of_what_is_mixed_or_jittered():
    canvas = Canvas(small("cgan known").eval(), 64, 64)
    z = canvas.draw(5, 0.5)
    assert (z[:, -2:] == torch.tensor([0.0, 1.0])[:, None, None]).all()
    around = canvas.around(explore.mean_code(z).mean(0), 5, 0.7)
    assert torch.allclose(around[:, -2:], torch.tensor([0.0, 1.0])[:, None, None]) and (around[0] != around[1]).any()


def test_a_traversal_moves_one_channel_and_no_other():
    z = fields(0)[0]
    moved = traversed(z, 2, [-1.0, 0.5])
    assert (moved[0, 2] == -1).all() and (moved[1, 2] == 0.5).all()
    assert torch.equal(moved[:, [0, 1, 3, 4]], z.expand(2, -1, -1, -1)[:, [0, 1, 3, 4]])
    with pytest.raises(ValueError, match="no channel 5: choose one from 0 to 4"):
        traversed(z, 5, [0.0])


# --- arithmetic and directions ---------------------------------------------------------------------------------------


def test_sums_of_codes_are_sums_of_what_they_control(known):
    canvas, z, values, _, _ = known
    light = values[:, 1]
    high, low = (z[torch.from_numpy(np.argsort(sign * light)[:30])] for sign in (-1, 1))
    with explore.seeded(1):
        summed = canvas.pictures(canvas.around(explore.arithmetic(high, low, low), 24, 0.7))
        upper = canvas.pictures(canvas.around(explore.mean_code(high).mean(0), 24, 0.7))
    assert both(summed)[:, 1].mean() == pytest.approx(both(upper)[:, 1].mean(), abs=0.2 * light.std())
    assert both(upper)[:, 1].mean() > light.mean() + light.std()


def test_directions_that_are_found_are_the_true_ones(known):
    _, z, values, directions, told = known
    for found, true in zip(directions, (DENSE, BRIGHT), strict=True):
        assert float(found @ true) > 0.95
    assert min(told) > 0.8
    order = np.argsort(values[:, 1])
    assert float(explore.difference(z[order[-40:]], z[order[:40]]) @ BRIGHT) > 0.9


def test_directions_at_right_angles_to_the_others_move_nothing_else(known):
    canvas, z, values, directions, _ = known
    spread = values.std(0)
    before, after = (
        entanglement(canvas, z[:24], one, both, spread) for one in (directions, orthogonalised(directions))
    )
    assert before.leak().min() > 0.25  # the truth: each moves the other by the cosine of both, some 0.6
    assert after.leak().max() < 0.1
    assert (np.diagonal(after.slope) > 5 * np.diagonal(after.error)).all()


def test_what_is_at_right_angles_to_all_directions_changes_the_image_and_not_the_properties(known):
    canvas, z, values, directions, _ = known
    spread = values.std(0)
    with explore.seeded(0):
        others = free(directions, 4)
    assert others.shape == (4, CODE) and (others @ directions.T).abs().max() < 1e-5
    along, nowhere = (entanglement(canvas, z[:16], one, both, spread) for one in (directions, others))
    assert np.abs(nowhere.slope).max() < 0.15 * np.abs(along.slope).max() and nowhere.change.mean() > 0.1
    assert len(free(torch.eye(3), 4)) == 0


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_an_orthogonalised_direction_is_at_right_angles_to_every_other(seed, k):
    directions = torch.randn(k, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    found = orthogonalised(directions)
    product = found @ directions.T
    assert torch.allclose(found.norm(dim=1), torch.ones(k, dtype=torch.float64))
    assert (product - torch.diag(product.diagonal())).abs().max() < 1e-9 and (product.diagonal() > 0).all()


def test_what_cannot_be_found_is_refused():
    one = torch.eye(3)[:1]
    with pytest.raises(ValueError, match="direction 1 of 2 lies in the span of the others, in a code of 3 numbers"):
        orthogonalised(torch.cat((one, -one)))
    with pytest.raises(ValueError, match="same mean code"):
        explore.difference(fields(0)[0], fields(0)[0])
    codes = torch.randn(20, 3)
    with pytest.raises(ValueError, match="density is the same in all samples"):
        regressed(codes, np.ones((20, 1)), ("density",))
    with pytest.raises(ValueError, match="4 samples are too few"):
        regressed(codes[:4], np.ones((4, 1)), ("density",))
    rng = np.random.default_rng(0)
    assert (
        regressed(torch.randn(60, 3), rng.normal(size=(60, 1)), ("noise",))[1][0] < 0.2
    )  # of nothing it tells nothing


def test_a_sheet_holds_its_pictures_pixel_for_pixel():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (3, 20, 30))
    found = sheet([Row("above", list(images[:2]), ["a", "b"]), Row("", [images[2]])])
    assert found.dtype == np.uint8
    for image in images:
        grey = np.rint((image + 1) * 127.5).astype(np.uint8)
        assert (np.lib.stride_tricks.sliding_window_view(found, grey.shape) == grey).all((2, 3)).any()
    assert markdown(["a", "b"], [[1, 0.12345]]) == "| a | b |\n| --- | --- |\n| 1 | 0.123 |\n"


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Normal images, a small run of dcgan on them, and one of a model that draws nothing."""
    root = tmp_path_factory.mktemp("explore")
    for i in range(3):
        write(root / f"normal/{i}.png", texture(i, 96, 128))
    write(root / "tiny.png", texture(0, 20, 20))
    params = {"width": 8, "code": 6, "patch": 32, "shrink": 1, "steps": 2}
    train(root / "normal", out=root / "run", model="dcgan", steps=4, params=params, device="cpu")
    ae = {"width": 4, "code": 4, "patch": 32, "shrink": 1}
    train(root / "normal", out=root / "ae", model="ae", steps=1, params=ae, device="cpu")
    return root


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(latent, "MOVED", 3)
    monkeypatch.setattr(latent, "SAMPLES", 12)


SMALL = ("--size", "40x48", "--device", "cpu")
JOBS = {
    "sample": ("sample", "--count", 3, "--against", "{0}/normal"),
    "interpolate": ("interpolation", "--count", 3, "--side", 2),
    "arithmetic": ("arithmetic", "--samples", 12, "--c", "{0}/normal", "--count", 2),
    "traverse": ("traversal", "--channel", 1, "--channel", 4, "--count", 3),
    "directions": ("directions", "--property", "density", "--samples", 12, "--count", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_every_job_writes_its_sheet_figures_and_page_and_the_same_again(job, runs, cli, quick, tmp_path):  # noqa: F811
    name, *words = JOBS[job]
    words = [str(word).format(runs) for word in words]
    for place in ("one", "two"):
        told = ("--out", tmp_path / place, "--progress", tmp_path / place / "progress.json")
        code, out, err = cli("explore", job, runs / "run", *words, *SMALL, *told)
        assert code == 0, err
    assert read_json(tmp_path / "one/progress.json")["state"] == "finished"
    count = read_json(tmp_path / "one/progress.json")
    assert count["step"] == count["steps"] > 0
    for suffix in ("png", "json", "md"):
        one, two = ((tmp_path / place / f"{name}.{suffix}").read_bytes() for place in ("one", "two"))
        assert one == two
    assert (tmp_path / f"one/{name}.md").read_text().strip() == out.strip() and "| --- |" in out
    found = read_json(tmp_path / f"one/{name}.json")
    assert found["model"] == "dcgan" and found["seed"] == 0
    picture = cv2.imread(str(tmp_path / f"one/{name}.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None and min(picture.shape) > 40


def test_a_sample_of_any_size_is_written_by_itself(runs, cli, tmp_path):  # noqa: F811
    code, _, err = cli("explore", "sample", runs / "run", "--out", tmp_path, "--count", 2, "--size", "75x141")
    assert code == 0, err
    pictures = [cv2.imread(str(tmp_path / f"samples/00{i}.png"), cv2.IMREAD_GRAYSCALE) for i in range(2)]
    assert all(one.shape == (141, 75) for one in pictures) and (pictures[0] != pictures[1]).any()


def test_the_way_between_images_begins_and_ends_with_what_inversion_found_of_them(runs, cli, tmp_path):  # noqa: F811
    ends = [word for i in range(2) for word in ("--image", runs / f"normal/{i}.png")]
    code, _, err = cli(
        "explore", "interpolate", runs / "run", *ends, "--out", tmp_path, "--size", "64x70", "--count", 2
    )
    assert code == 0, err
    found = read_json(tmp_path / "interpolation.json")
    assert found["size"] == [64, 64] and found["ways"]["linear"] == found["ways"]["spherical"]


@pytest.mark.slow
def test_images_with_and_without_something_give_one_more_direction(runs, cli, quick, tmp_path):  # noqa: F811
    for i in range(3):
        write(tmp_path / f"dark/{i}.png", texture(i, 96, 128) // 4)
    folders = ("--having", runs / "normal", "--lacking", tmp_path / "dark")
    code, out, err = cli(
        "explore", "directions", runs / "run", "--out", tmp_path / "x", "--samples", 12, "--count", 2, *folders, *SMALL
    )
    assert code == 0, err
    found = read_json(tmp_path / "x/directions.json")
    assert list(found["told"]) == [*PROPERTIES, "normal"] == list(found["own"]) and "| normal | label |" in out
    vectors, others = (torch.tensor(list(found["vectors"][kind].values())) for kind in ("orthogonal", "regression"))
    assert vectors.shape == (5, 6)
    product = vectors @ others.T
    assert (product - torch.diag(product.diagonal())).abs().max() < 1e-4


def test_the_page_names_options_that_the_commands_have_and_pictures_that_are_there():
    text = (DOCS / "explore.md").read_text(encoding="utf-8")
    lines = [line.split() for line in re.findall(r"^    anomalib-gan explore (.+)$", text, re.M)]
    assert [name for name, *_ in lines] == ["sample", "interpolate", "arithmetic", "traverse", "directions"]
    commands = typer.main.get_command(build(["explore"])).commands["explore"].commands
    for name, *words in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, name
    pictures = re.findall(r"\((explore/.+?\.png)\)", text)
    assert len(pictures) == 5 and all((DOCS / one).stat().st_size < 100_000 for one in pictures)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            "directions {0}/ae --out {0}/x",
            "is a run of ae, which has no generator that draws from codes: give a run of",
        ),
        ("sample {0}/ae --out {0}/x", "is a run of ae, which draws no samples: give a run of one of"),
        ("directions {0}/nowhere --out {0}/x", "does not exist: train a model first"),
        ("directions {0}/run --out {0}/x --property colour", "no property is called 'colour': choose from thickness"),
        ("directions {0}/run --out {0}/x --having {0}/normal", "give both --having and --lacking"),
        ("traverse {0}/run --out {0}/x --channel 6", "no channel 6: choose one from 0 to 5"),
        ("arithmetic {0}/run --out {0}/x --a dense --samples 12", "'dense' is no set: give all, PROPERTY:high"),
        ("interpolate {0}/run --out {0}/x --image {0}/normal/0.png", "1 images have no way between them"),
        ("sample {0}/run --out {0}/x --against {0}/normal --size 200x90", "128x96 px is smaller than 200x90"),
        ("interpolate {0}/run --out {0}/x --image {0}/tiny.png --image {0}/tiny.png", "20x20 px is smaller than 32x32"),
        ("sample {0}/run --out {0}/x --against {0}/x", "holds no image: give a folder of images"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(arguments, told, runs, cli, quick):  # noqa: F811
    assert told in cli.refuses("explore", *(word.format(runs) for word in arguments.split()))
    assert not (runs / "x").exists()
