"""A training of a translator: as any other, but from two folders; at its end what its translations are worth on pairs
that were held back, and a picture of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from anomalib_gan import data, holding, models, plots
from anomalib_gan.model import Model, Pair
from anomalib_gan.pairs import PairCrops, hold_pairs_out, read_domains
from anomalib_gan.run_card import begun, described, now
from anomalib_gan.run_settings import Place, Settings
from anomalib_gan.run_views import PICTURED, spread, views
from anomalib_gan.running import HISTORY, Job, initialised, megapixels, read_history, told_held
from anomalib_gan.specs import complete, keywords
from anomalib_gan.training import Trainer

KEYWORD = "translator"  # of a constructor, which makes a translator of the model
PICTURE = "translations.png"
ROWS = 4  # of the picture


@dataclass
class Translation(Job):
    """A `Job` from two folders: `images` and `kept` are what is to be translated, `wanted` and `wanted_kept` what it is
    to become; `held` is of both.
    """

    crops: PairCrops  # type: ignore[assignment]
    wanted: list[data.Normal] = field(default_factory=list)
    wanted_kept: list[Tensor] = field(default_factory=list)

    @classmethod
    def prepare(
        cls, folder: Path, run: Path, settings: Settings, place: Place, say: Callable[[str], None]
    ) -> Translation:
        """As that of a `Job`. ValueError where the model is no translator, or the folders do not suit it."""
        began, started = time.monotonic(), now()
        settings = settings.threaded()
        assert settings.to is not None  # else it is no translation
        if KEYWORD not in keywords(settings.model):
            able = " or ".join(name for name in models.MODELS if KEYWORD in keywords(name))
            raise ValueError(f"{settings.model} is no translator: choose --model {able}, or leave --to out")
        params, to = {**settings.params, KEYWORD: True}, Path(settings.to)
        paired = models.build(settings.model, **complete(settings.model, params, 1).params).pairs == "paired"
        x, y, warnings = read_domains(
            folder, to, paired=paired, info_bar=settings.info_bar, bits=settings.bits, white=settings.white
        )
        colour = max((x[0], y[0]), key=lambda image: image.grey.shape[0])
        spec = complete(settings.model, params, colour.grey.shape[0])
        net = initialised(spec, settings.seed, place.device)
        if colour.grey.shape[0] > net.channels:
            raise ValueError(f"{colour.path} is a colour image, {spec.name} has {net.channels} channel: convert it")
        held = hold_pairs_out(x, y, net.patch, settings.seed, paired=paired)
        if not held:
            warnings.append("the images are too small to hold pixels back, so nothing tells how good translations are")
        (seen, kept), (aims, wanted_kept) = holding.regions(x, held), holding.regions(y, held)
        crops = PairCrops(
            seen,
            aims,
            net.patch,
            net.batch,
            paired=paired,
            channels=net.channels,
            seed=settings.seed,
            device=place.device,
            share=(place.rank, place.world),
            flips=settings.flips,
            zoom=settings.zoom,
        )
        about = described(to, y)
        if paired:  # the same files as partners of others are other pairs
            about["fingerprint"] = data.fingerprint(y, [image.sha256 for image in x])
        card = begun(
            run, spec, place.told(settings, net), place.device,
            data={**described(folder, x), "to": about}, init_from=None, started=started, warnings=warnings,
            oddest=[], found={},
        )  # fmt: skip
        trainer = Trainer(net, crops, settings.steps, seed=settings.seed)
        return cls(
            run, settings, place, began, x, held, kept, spec, crops, trainer, card, say,
            wanted=y, wanted_kept=wanted_kept,
        )  # fmt: skip

    def headline(self) -> str:
        here = {str(image.path.absolute()) for image in self.images}
        kept = told_held([one for one in self.held if one.path in here])
        both = f"{len(self.images)} images and {len(self.wanted)} of what they are to become"
        told = f"{len(self.images)} pairs of images" if self.crops.paired else both
        return f"{told}; {megapixels(self.crops.images):.3g} Mpx to train on, held back of them: {kept}"

    def finish(self) -> None:
        """Settles the translator; writes curves, the picture and the final card, with what translations are worth."""
        if self.place.rank:
            return
        net = self.trainer.model
        training = self._pairs(self.crops.images, self.crops.wanted)
        model = self.trainer.finish(training)
        settled = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        self._save(settled=settled)
        plots.curves(read_history(self.run / HISTORY), self.run / "curves.png")
        least = max(net.stride, net.smallest)
        filled = ([data.fill(region, least) for region in regions] for regions in (self.kept, self.wanted_kept))
        unseen = self._pairs(*filled)
        titles = ("input", "translated", "wanted" if self.crops.paired else "some that are wanted")
        rows = [shown(model, one) for one in spread(unseen or training, ROWS)]
        plots.side_by_side(rows, titles, self.run / PICTURE)
        if unseen and self.crops.paired:
            self.card["translation"] = found = worth(model, unseen)
            told = {
                name: f"{one['l1']:.2%} of the range on average, PSNR {one['psnr']:.1f} dB"
                for name, one in found.items()
            }
            self.say(
                f"on pairs that were held back, translations differ from what is wanted by {told['translated']}; "
                f"the images as they are, by {told['input']}"
            )
        self._close()

    def _pairs(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> list[Pair]:
        """`views` of both; of unpaired ones all, whatever goes with which."""
        here, there = (views(regions, self.trainer.model, self.place.device) for regions in (x, y))
        count = max(len(here), len(there)) if here and there else 0
        return [Pair(here[k % len(here)], there[k % len(there)]) for k in range(count)]


@torch.no_grad()
def worth(model: Model, pairs: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """How far x "translated", and the "input" x itself, is from y, over the pixels of all pairs.

    "l1": mean difference as a share of the range of grey levels. "psnr": peak signal to noise ratio in dB, at most 100.
    """
    found = {}
    for name in ("translated", "input"):
        gaps = [((model.translate(x) if name == "translated" else x) - y).flatten() / 2 for x, y in pairs]  # type: ignore[operator]
        gap = torch.cat(gaps).double()
        square = max(float(gap.square().mean()), 1e-10)
        found[name] = {"l1": float(gap.abs().mean()), "psnr": -10 * math.log10(square)}
    return found


@torch.no_grad()
def shown(model: Model, pair: Pair) -> list[plots.Pixels]:
    """The middle PICTURED pixels of x, of its translation and of y."""
    found = []
    for image in (pair.x, model.translate(pair.x), pair.y):  # type: ignore[operator]
        top, left = (max(0, side - PICTURED) // 2 for side in image.shape[2:])
        found.append(image[0, :, top : top + PICTURED, left : left + PICTURED].float().cpu().numpy())
    return found
