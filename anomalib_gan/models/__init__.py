"""The zoo: one file per paper."""

from __future__ import annotations

from typing import Any

from anomalib_gan.model import Model
from anomalib_gan.models.ac_gan import ACGAN
from anomalib_gan.models.ae import AE
from anomalib_gan.models.beta_tc_vae import BetaTCVAE
from anomalib_gan.models.bigan import BiGAN
from anomalib_gan.models.cgan import CGAN
from anomalib_gan.models.cycle_gan import CycleGAN
from anomalib_gan.models.dcgan import DCGAN
from anomalib_gan.models.ddpm import DDPM
from anomalib_gan.models.denoising_ae import DenoisingAE
from anomalib_gan.models.ebgan import EBGAN
from anomalib_gan.models.fcbigan import FCBiGAN
from anomalib_gan.models.fcbigan_source import SourceFCBiGAN
from anomalib_gan.models.gan import GAN
from anomalib_gan.models.gan3d import GAN3D
from anomalib_gan.models.ganomaly import GANomaly
from anomalib_gan.models.gaussian import Gaussian
from anomalib_gan.models.geo_gan import GeoGAN
from anomalib_gan.models.info_gan import InfoGAN
from anomalib_gan.models.lsgan import LSGAN
from anomalib_gan.models.mask_gan import MaskGAN
from anomalib_gan.models.pca import PCA
from anomalib_gan.models.pix2pix import Pix2Pix
from anomalib_gan.models.pro_gan import ProGAN
from anomalib_gan.models.sn_gan import SNGAN
from anomalib_gan.models.sparse_ae import SparseAE
from anomalib_gan.models.sparse_coding import SparseCoding
from anomalib_gan.models.srgan import SRGAN
from anomalib_gan.models.vae import VAE
from anomalib_gan.models.vae_gan import VAEGAN
from anomalib_gan.models.wgan import WGAN
from anomalib_gan.models.wgan_gp import WGANGP

MODELS: dict[str, type[Model]] = {
    "fcbigan": FCBiGAN,
    "fcbigan_source": SourceFCBiGAN,
    "gaussian": Gaussian,
    "pca": PCA,
    "sparse_coding": SparseCoding,
    "ae": AE,
    "sparse_ae": SparseAE,
    "denoising_ae": DenoisingAE,
    "vae": VAE,
    "beta_tc_vae": BetaTCVAE,
    **{"gan": GAN, "dcgan": DCGAN, "lsgan": LSGAN, "wgan": WGAN, "wgan_gp": WGANGP, "sn_gan": SNGAN, "ebgan": EBGAN},
    **{"cgan": CGAN, "ac_gan": ACGAN, "info_gan": InfoGAN, "geo_gan": GeoGAN, "pro_gan": ProGAN},
    "vae_gan": VAEGAN,
    "bigan": BiGAN,
    "ganomaly": GANomaly,
    "cycle_gan": CycleGAN,
    "pix2pix": Pix2Pix,
    "mask_gan": MaskGAN,
    "srgan": SRGAN,
    "ddpm": DDPM,
    "gan3d": GAN3D,
}


def build(name: str, **params: Any) -> Model:
    """The model `name` with its constructor's keywords; a ValueError lists the names and keywords that exist."""
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(sorted(MODELS))}")
    return MODELS[name](**params)
