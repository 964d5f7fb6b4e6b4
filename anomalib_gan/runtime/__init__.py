"""What a factory PC needs: read an image, run a detector, decide. Nothing here imports torch.

    from anomalib_gan.runtime import Inspector

    inspector = Inspector.load("detector.bundle")
    found = inspector("part.png")
    print(found.verdict, found.score, found.defects)

The names below are the whole interface; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalib_gan.runtime.bundle import BundleError
    from anomalib_gan.runtime.calibration import Calibration
    from anomalib_gan.runtime.defects import Defect
    from anomalib_gan.runtime.image import ImageError, Picture, find_images, open_image
    from anomalib_gan.runtime.inspection import Inspection, InvalidImage
    from anomalib_gan.runtime.inspector import Inspector

__all__ = [
    "BundleError",
    "Calibration",
    "Defect",
    "ImageError",
    "Inspection",
    "Inspector",
    "InvalidImage",
    "Picture",
    "find_images",
    "open_image",
]
_HOMES = {"BundleError": "bundle", "Calibration": "calibration", "Defect": "defects", "Inspector": "inspector"} | {
    **dict.fromkeys(("ImageError", "Picture", "find_images", "open_image"), "image"),
    **dict.fromkeys(("Inspection", "InvalidImage"), "inspection"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
