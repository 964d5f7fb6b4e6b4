"""The command `upscale`: a folder enlarged, and runs compared with interpolation."""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from test_cli import Cli
from test_laws import UPSCALING
from test_training import texture, write

from anomalib_gan.applying import Operator
from anomalib_gan.checkpoint import load_model
from anomalib_gan.nets_resolution import bicubic
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import open_image
from anomalib_gan.upscaling import compare, interpolated, psnr, reduced, ssim, table, upscaler
from pipelines.train import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images, runs that enlarge by 2 and by 4, and one that does not."""
    root = tmp_path_factory.mktemp("upscale")
    for i in range(3):
        write(root / f"normal/{i}.png", texture(i, 64, 96))
    for name, model, params in (
        ("two", "srgan", UPSCALING),
        ("resnet", "srgan", {**UPSCALING, "adversarial": 0.0}),
        ("four", "srgan", {**UPSCALING, "factor": 4, "adversarial": 0.0}),
        ("ae", "ae", {"width": 4, "code": 4, "patch": 32, "shrink": 1}),
    ):
        train(root / "normal", out=root / name, model=model, steps=3, params=params, device="cpu")
    return root


@pytest.fixture
def cli(monkeypatch, capsys):
    return Cli(monkeypatch, capsys)


def test_psnr_has_its_closed_form():
    image = np.full((8, 9, 1), 100, np.uint8)
    assert psnr(image + 5, image, 255.0) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(image, image, 255.0) == math.inf
    white = np.full_like(image, 255)
    assert psnr(white, np.zeros_like(image), 255.0) == pytest.approx(0)


def test_ssim_is_that_of_its_definition_on_the_range_of_the_type():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4096, (2, 40, 50, 1)).astype(np.uint16)

    def mean(a):
        return ndimage.gaussian_filter(a, 1.5, mode="nearest", radius=4)

    a, b = x[..., 0].astype(float), (0.5 * x + 0.5 * y)[..., 0].astype(np.uint16).astype(float)
    c1, c2 = (0.01 * 4095) ** 2, (0.03 * 4095) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    expected = ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
    assert ssim(a[..., None], b[..., None], 4095.0) == pytest.approx(expected, abs=1e-4)
    assert ssim(x, x, 4095.0) == pytest.approx(1, abs=1e-6)


def test_a_smaller_image_is_made_of_means_and_interpolation_is_that_which_the_model_adds_to():
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    small = reduced(image, 4, 255.0)
    assert small.shape == (2, 3, 3) and small[1, 2, 0] == round(float(image[4:8, 8:12, 0].mean()))
    large = interpolated(small, 4, 255.0)
    x = torch.from_numpy(np.moveaxis(small, -1, 0)[None].astype(np.float32))
    expected = bicubic(x, 4)[0].movedim(0, -1).numpy().clip(0, 255)
    assert large.shape == (8, 12, 3) and np.abs(large - expected).max() <= 0.51


@pytest.mark.parametrize("name", ["two", "four"])
def test_a_network_by_tiles_equals_the_network_on_the_whole(root, name):
    model, _ = load_model(root / name)
    torch.nn.init.normal_(model.G.tail.weight, std=0.05)  # more than three rounds taught it
    image = texture(5, 70, 90)[..., None]
    whole, tiled = (
        Operator(net=model.upscale, channels=1, halo=model.reach, factor=model.factor, tile=tile)(image, 255.0)
        for tile in (4096, 16)
    )
    assert np.abs(whole.astype(int) - tiled).max() <= 1 and (whole == tiled).mean() > 0.999
    assert np.abs(whole.astype(int) - interpolated(image, model.factor, 255.0)).max() > 5
    narrow = Operator(net=model.upscale, channels=1, halo=1, factor=model.factor, tile=16)(image, 255.0)
    assert np.abs(whole.astype(int) - narrow).max() > 1  # the reach is needed


def test_the_command_enlarges_a_folder_and_goes_on(root, cli, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write(folder / "a/0.png", texture(0, 40, 50))
    code, said, errors = cli("upscale", root / "two", folder, "--out", out, "--tile", 16)
    assert code == 0 and "1 made" in said, errors
    with open_image(out / "a/0.png") as picture:
        assert (picture.height, picture.width) == (80, 100)
        model = upscaler(root / "two", device="cpu")
        assert np.abs(picture.rows(0, 80).astype(int) - model(texture(0, 40, 50)[..., None], 255.0)).max() <= 1
    (folder / "bad.png").write_bytes(b"none")
    code, said, errors = cli("upscale", root / "two", folder, "--out", out)
    assert code == 1 and "1 invalid, 1 kept" in said and "1 could not be enlarged" in errors and "bad.png" in errors
    code, said, _ = cli("upscale", root / "four", folder, "--out", out)
    assert code == 1 and "1 made" in said  # another run is another image


def test_ctrl_c_says_how_to_go_on(root, cli, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.upscale.apply", stopped)
    code, _, errors = cli("upscale", root / "two", root / "normal", "--out", tmp_path / "out")
    assert code == 130 and "the same command goes on" in errors


def test_the_command_compares_runs_with_interpolation(root, cli, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- upscale -->\n<!-- /upscale -->\nafter\n")
    out = tmp_path / "out"
    runs = (root / "two", root / "resnet")
    code, said, errors = cli("upscale", *runs, root / "normal", "--out", out, "--compare", "--readme", page)
    assert code == 0, errors
    report = read_json(out / "compare.json")
    assert list(report["mean"]) == ["bicubic", "two", "resnet"] and len(report["images"]) == 3
    assert said.strip() == (out / "compare.md").read_text().strip() and said.strip() in page.read_text()
    assert f"| bicubic | {report['mean']['bicubic']['psnr']:.2f} |" in said
    image = texture(0, 64, 96)[..., None]
    plain = interpolated(reduced(image, 2, 255.0), 2, 255.0)
    (found,) = (one for one in report["images"] if one["path"] == "0.png")
    assert found["bicubic"] == pytest.approx({"psnr": psnr(plain, image, 255.0), "ssim": ssim(plain, image, 255.0)})


def test_a_network_that_adds_nothing_is_as_good_as_interpolation(tmp_path):
    write(tmp_path / "0.png", texture(0, 65, 97))
    write(tmp_path / "flat.png", np.full((32, 32), 77, np.uint8))
    (tmp_path / "dot.png").write_bytes(cv2.imencode(".png", np.zeros((1, 9), np.uint8))[1].tobytes())
    zero = Operator(net=lambda x: bicubic(x, 2), channels=1, halo=4, factor=2, tile=24)
    images = {path.name: path for path in sorted(tmp_path.glob("*.png"))}
    report = compare({"zero": zero}, images, opener=partial(open_image, info_bar=0))
    mean = report["mean"]
    assert mean["zero"]["psnr"] == pytest.approx(mean["bicubic"]["psnr"], abs=0.01)
    assert mean["zero"]["ssim"] == pytest.approx(mean["bicubic"]["ssim"], abs=1e-3)
    assert report["images"][1]["bicubic"]["psnr"] is None  # what has no detail loses none
    assert "cannot be made 2 times smaller" in report["invalid"]["dot.png"]
    assert "Means over 2 images" in table(report)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{0}/ae {0}/normal --out {1}", "ae is a run of ae, which enlarges nothing: train one with --model srgan"),
        ("{0}/nowhere {0}/normal --out {1}", "nowhere does not exist: train a model first"),
        ("{0}/two {0}/nowhere --out {1}", "nowhere is not a folder"),
        ("{0}/two {0}/normal --out {0}/normal", "choose another --out"),
        ("{0}/two {0}/four {0}/normal --out {1}", "2 runs are given, and one enlarges: give one, or --compare them"),
        ("{0}/two {0}/four {0}/normal --out {1} --compare", "compare runs of one factor"),
        ("{0}/two {0}/two {0}/normal --out {1} --compare", "two of the runs have the same name"),
        ("{0}/two {0}/normal --out {1} --readme {0}/x.md", "takes the table of --compare"),
        ("{0}/two {0}/normal --out {1} --device cuda:99", "cuda:99"),
    ],
)
def test_a_mistake_is_one_line_with_the_mend(root, cli, tmp_path, arguments, told):
    assert told in cli.refuses("upscale", *(word.format(root, tmp_path / "out") for word in arguments.split()))
    assert not (tmp_path / "out").exists()
