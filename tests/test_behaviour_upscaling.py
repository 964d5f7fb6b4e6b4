"""What super-resolution promises, on normal images that it has not seen: seeded, on one thread."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from anomalib_gan import data
from anomalib_gan.applying import Operator
from anomalib_gan.models import build
from anomalib_gan.runtime.image import open_image
from anomalib_gan.training import Trainer
from anomalib_gan.upscaling import compare

SAMPLES = Path(__file__).parents[1] / "data_samples"
SETTINGS = {"width": 16, "blocks": 2, "patch": 64, "batch": 8, "lr": 2e-3, "vgg": ""}
STEPS = 200


@cache
def figures():
    """Mean PSNR and SSIM, twice enlarged, of bicubic interpolation, SRResNet and SRGAN after a short training."""
    images, _ = data.read_normals(data.normal_files(SAMPLES))
    operators = {}
    for name, params in (("srresnet", {"adversarial": 0.0}), ("srgan", {})):
        torch.manual_seed(0)
        model = build("srgan", **SETTINGS, **params)
        crops = data.Crops([image.grey for image in images], model.patch, model.batch)
        trainer = Trainer(model, crops, STEPS, seed=0)
        for _ in trainer:
            pass
        model = trainer.finish([data.signed(images[0].grey)[None]])
        operators[name] = Operator(net=model.upscale, channels=1, halo=model.reach, factor=2)
    unseen = {path.name: path for path in sorted((SAMPLES / "test/good").glob("*.png"))}
    return compare(operators, unseen, opener=open_image)["mean"]


@pytest.mark.slow
def test_srresnet_and_srgan_restore_normal_images_better_than_interpolation_does():
    found = figures()
    for name in ("srresnet", "srgan"):
        assert found[name]["ssim"] > found["bicubic"]["ssim"]
    assert found["srresnet"]["psnr"] > found["bicubic"]["psnr"] + 1


@pytest.mark.slow
def test_a_critic_costs_signal_to_noise_for_the_means_that_srresnet_draws_have_the_least_error():
    found = figures()
    assert found["srresnet"]["psnr"] > found["srgan"]["psnr"]
