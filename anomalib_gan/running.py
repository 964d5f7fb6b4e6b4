"""A run: one training, from a folder of normal images to its card, checkpoint, curves and pictures in one folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from anomalib_gan import augmenting, checkpoint, data, holding, models, monitor, oddness, painting, plots
from anomalib_gan.model import Labelled, Model, Spec
from anomalib_gan.run_card import begun, described, folders, now
from anomalib_gan.run_settings import Place, Settings
from anomalib_gan.run_views import LOOKED_SIDE, maps_of, middle, sliced, spread, views
from anomalib_gan.runtime.calibrating import SPLIT
from anomalib_gan.runtime.card import CARD
from anomalib_gan.runtime.files import write_bytes, write_json
from anomalib_gan.specs import complete
from anomalib_gan.starting import Reviewed, Start
from anomalib_gan.training import READ_EVERY, Progress, Trainer, derive_seed
from anomalib_gan.volumes import read_stack

MEASURED = (10, 30)  # rounds between which, at least, the speed is measured that the plan rests on
MEASURING = (0.02, 0.05)  # share of the budget that this takes at least and at most: the pace varies
REVISED = (0.1, 0.25, 0.5)  # shares of the training at which the plan is made anew, by the pace since the last one
CHANGED = 0.05  # least share of the steps by which a new plan differs
RESERVE = (12.0, 0.05)  # kept free at the end for settling and pictures: seconds and share, the larger one
MOMENTS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the training at which a row of samples is drawn, besides step 1
SAMPLES = 8
LISTED = 10  # reviewed images that are named one by one
HISTORY = "history.jsonl"


class Pace(NamedTuple):
    """Where the measurement of the speed began."""

    step: int
    time: float
    progress: float


@dataclass
class Job:
    """One training: what it works on and what it writes. Only rank 0 writes and says something."""

    run: Path
    settings: Settings
    place: Place
    began: float
    images: list[data.Normal]
    held: list[holding.Held]
    kept: list[Tensor]
    spec: Spec
    crops: data.Crops
    trainer: Trainer
    card: dict[str, Any]
    say: Callable[[str], None]
    sheet: list[tuple[int, Tensor]] = field(default_factory=list)
    pace: Pace | None = None  # since when the speed is measured

    @classmethod
    def prepare(cls, folder: Path, run: Path, settings: Settings, place: Place, say: Callable[[str], None]) -> Job:
        """Reads the images, splits them, builds the model; writes nothing. `say` is what tells the user a line."""
        began, started = time.monotonic(), now()
        settings = settings.threaded()
        start = None if settings.init_from is None else Start.load(settings.init_from)
        reviewed = Reviewed("", [], []) if settings.reviewed is None else Reviewed(**settings.reviewed)
        files = data.normal_files(folder)
        added = reviewed.beside(files) if reviewed.normal else []
        known = models.MODELS.get(settings.model)
        if known is not None and known.dim == 3 and added:
            raise ValueError(f"{settings.model} plays with stacks, and reviews are of images: leave --add-reviewed out")
        images, warnings = data.read_normals(
            [*files, *added],
            info_bar=settings.info_bar,
            bits=settings.bits,
            white=settings.white,
            read=read_stack if known is not None and known.dim == 3 else None,
        )
        warnings += reviewed.check(images)
        channels = images[0].grey.shape[0]
        spec, found = specified(settings, images, start)
        groups: list[list[data.Normal]] = [images]
        kinds: list[str] | None = None
        if spec.params.get("classes"):  # it tells materials apart
            if added:
                raise ValueError(f"{spec.name} tells classes apart, and reviews name none: leave --add-reviewed out")
            kinds = data.classes_of(folder, [image.path for image in images])
            given = settings.params.get("classes") if start is None else spec.params["classes"]
            classes = list(given or sorted(set(kinds)))
            groups = data.grouped(images, kinds, classes)
            spec = replace(spec, params={**spec.params, "classes": classes})
        net = initialised(spec, settings.seed, place.device)
        if net.pairs:
            raise ValueError(f"{spec.name} is to translate: give the folder of what its images are to become, by --to")
        if start is not None:
            net.load_state_dict(start.weights)
        warnings += net.prepare()
        if channels > net.channels:
            raise ValueError(f"{images[0].path} is a colour image, {spec.name} has {net.channels} channel: convert it")
        before = start.before if start else holding.NOTHING
        held = [one for group in groups for one in holding.hold_out(group, net.patch, settings.seed, before)]
        training: list[Tensor] = []
        kept: list[Tensor] = []
        labels: list[int] = []
        for number, group in enumerate(groups):
            seen, unseen = holding.regions(group, held)
            training, kept, labels = training + seen, kept + unseen, labels + [number] * len(seen)
        if not held:
            warnings.append("the images are too small to hold pixels back: calibrate with --good and other good images")
        crops = data.Crops(
            training,
            net.patch,
            net.batch,
            seed=settings.seed,
            device=place.device,
            channels=net.channels,
            share=(place.rank, place.world),
            flips=settings.flips,
            jitter=settings.jitter,
            zoom=settings.zoom,
            labels=labels if net.classes else None,
        )
        feed = augmenting.feed(settings, net, crops, held)
        warnings += feed.warnings
        trainer = Trainer(net, feed.batches, settings.steps, seed=settings.seed)
        about = described(folder, images, kinds)
        about["images"] = [
            one | ({"reviewed": True} if image.path in added else {})
            for one, image in zip(about["images"], images, strict=True)
        ]
        card = begun(
            run, spec, place.told(settings, net), place.device,
            data=about, init_from=start and start.told(), **feed.told, started=started, warnings=warnings,
            oddest=[odd for group in groups for odd in oddness.oddest(group)], found=found,
        )  # fmt: skip
        if settings.compare_with is not None:
            augmenting.check_comparable(settings.compare_with, card, held)
        return cls(run, settings, place, began, images, held, kept, spec, crops, trainer, card, say)

    def begin(self) -> None:
        """Says what is about to happen; loads the checkpoint of an interrupted run; writes card and split."""
        stored = self.run / checkpoint.NAME
        if stored.exists():
            state = checkpoint.load(stored, self.place.device)
            for before, here in zip(folders(state["card"]), folders(self.card), strict=True):
                if before["fingerprint"] != here["fingerprint"]:
                    raise ValueError(
                        f"the images in {here['folder']} are not those the run was started with: "
                        "give back the same files, in the same class folders, or start a new run"
                    )
            if state["card"]["settings"]["processes"] != self.place.world:
                raise ValueError(
                    f"the run was started with {state['card']['settings']['processes']} processes, "
                    f"not {self.place.world}: resume it with as many"
                )
            for key in ("init_from", "augmented", "defects"):
                if state["card"].get(key) != self.card.get(key):
                    place = {**asdict(self.settings), "augmented": self.settings.augment_with}[key]
                    raise ValueError(f"{place} is not what the run began with: give that one back")
            self.trainer.load_state_dict(state)
            self.card["started"] = state["card"]["started"]
            self.sheet = [(step, images.cpu()) for step, images in state["sheet"]]
        if self.place.world > 1:
            dist.barrier()  # nobody writes before everybody has looked
        if self.place.rank == 0:
            for torn in self.run.glob(".tmp-*.part"):  # what a kill left of an atomic write
                torn.unlink(missing_ok=True)
            kept = [line for line in read_history(self.run / HISTORY) if line["step"] <= self.trainer.step]
            write_bytes(self.run / HISTORY, "".join(json.dumps(line) + "\n" for line in kept).encode())
            write_json(self.run / SPLIT, holding.write_split(self.settings.seed, self.held))
            write_json(self.run / CARD, self.card)
        self.summary()
        if stored.exists():
            self.say(f"going on after step {self.trainer.step}")

    def headline(self) -> str:
        """What is trained on and what is held back."""
        things, million = ("images", "Mpx") if self.trainer.model.dim == 2 else ("stacks", "million voxels")
        return (
            f"{len(self.images)} normal {things}; {megapixels(self.crops.images):.3g} {million} to train on, "
            f"held back for calibration: {told_held(self.held, things)}"
        )

    def summary(self) -> None:
        """What is trained on, and what the user should look at before."""
        net = self.trainer.model
        self.say(self.headline())
        if self.settings.reviewed is not None:
            added = sorted(image["path"] for image in self.card["data"]["images"] if image.get("reviewed"))
            self.say(f"{len(added)} of them are normal by their reviews in {self.settings.reviewed['database']}:")
            for path in added[:LISTED]:
                self.say(f"  {path}")
            if len(added) > LISTED:
                self.say(f"  and {len(added) - LISTED} more; the run's card has all of them")
        if self.settings.init_from is not None:
            self.say(f"beginning with the weights of {self.settings.init_from}")
        count = sum(parameter.numel() for parameter in net.parameters())
        if net.classes:
            self.say("classes: " + ", ".join(f"{name} ({n})" for name, n in self.card["data"]["classes"].items()))
        patch = "x".join([str(net.patch)] * net.dim) + (" px" if net.dim == 2 else " voxels")
        self.say(f"{self.spec.name}: {count:,} parameters, {net.batch} patches of {patch} per batch")
        for warning in self.card["warnings"]:
            self.say(f"warning: {warning}")
        odd = [image for image in self.card["oddest"] if image["odd"]]
        if odd:
            self.say("these images look least like the rest; a defect among the normal images is learnt as normal:")
        for image in odd:
            self.say(f"  {image['path']}: {'; '.join(image['reasons'])}")

    def describe(self) -> None:
        """The dry run: the summary, and the time from the speed of a few rounds; nothing is written."""
        self.summary()
        self.say(f"device {self.place.device}, {self.settings.threads} threads, run folder {self.run} (not written)")
        if not self.trainer.players:
            self.say("the model has no game: it is fitted in closed form")
            return
        rounds = iter(self.trainer)
        next(rounds)
        begin = self._now()
        played = len(list(islice(rounds, 3)))
        if not played:
            self.say("1 step")
            return
        each, steps = (self._now() - begin) / played, self.settings.steps
        if steps:
            self.say(f"{steps} steps of {each:.3g} s: about {timedelta(seconds=round(steps * each))}")
        else:
            self.say(
                f"{self._minutes:g} minutes: about {self._fitting(self._minutes * 60, each)} steps of {each:.3g} s"
            )

    def play(self, checkpoint_every: float) -> Iterator[Progress]:
        """The training, round by round: some are written down, and every `checkpoint_every` seconds a checkpoint is.

        The rounds of other processes than the first are played too, but not told.
        """
        trainer, saved = self.trainer, time.monotonic()
        for progress in trainer:
            planned = self._plan()
            if self.place.rank:
                continue
            self._write_down(progress)
            self._draw()
            if planned or (trainer.steps and time.monotonic() - saved >= checkpoint_every):
                self._save()
                saved = time.monotonic()
            yield replace(progress, steps=trainer.steps)  # it may have been planned just now
        if self.place.rank == 0:
            self._save()

    @property
    def _minutes(self) -> float:
        assert self.settings.minutes is not None  # else there are steps, and nothing is planned
        return self.settings.minutes

    def _now(self) -> float:
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)
        return time.monotonic()

    def _fitting(self, left: float, each: float) -> int:
        """How many more rounds of `each` seconds fit into `left` seconds, with a reserve for the end."""
        reserve = min(left / 2, max(RESERVE[0], RESERVE[1] * self._minutes * 60))
        steps = self.trainer.step + max(1, int((left - reserve) / each))
        return max(self.trainer.step + 1, int(min(steps, self._cap)))

    @property
    def _cap(self) -> float:
        """The number of steps after which the model's training ends by itself."""
        return float(getattr(self.trainer.model, "max_steps", math.inf))

    def _plan(self) -> bool:
        """Sets the number of steps once the speed is known, by rank 0 for all, and anew where the speed has changed,
        for others work on a machine as well; was it set now? A run that goes on keeps the plan that it had.
        """
        trainer, pace = self.trainer, self.pace
        step, old = trainer.step, trainer.steps
        if pace is None:
            if old is None and step >= MEASURED[0]:
                self.pace = Pace(step, self._now(), 0.0)
            return False
        rounds = step - pace.step
        passed = any(pace.progress < part <= trainer.progress for part in REVISED)
        if old and (rounds < MEASURED[0] or not passed):
            return False
        now, budget = self._now(), self._minutes * 60
        spent, steps = now - pace.time, 0
        if old or spent > budget * MEASURING[step < MEASURED[1]] or step + 1 >= self._cap:
            steps = self._fitting(budget - (now - self.began), spent / rounds)
        if self.place.world > 1:
            common = torch.tensor([steps], device=self.place.device)
            dist.broadcast(common, 0)
            steps = int(common)
        new = steps > 0 and (old is None or abs(steps - old) > CHANGED * old)
        if new:
            trainer.steps = steps
            self.say(f"planned{' anew' if old else ''}: {steps} steps")
        if steps:
            self.pace = Pace(step, now, trainer.progress)
        return new

    def _write_down(self, progress: Progress) -> None:
        steps = self.trainer.steps
        if progress.step % READ_EVERY == 0 or (steps and (steps <= 200 or progress.step == steps)):
            line = {"step": progress.step, "seconds": round(progress.seconds, 3), "losses": progress.losses}
            with open(self.run / HISTORY, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    @torch.no_grad()
    def _draw(self, model: Model | None = None) -> None:
        """Adds a row to the sheet of samples: always the same codes, and no effect on the training's randomness."""
        net, steps = model or self.trainer.model, self.trainer.steps
        due = self.trainer.step == 1 or (steps and self.trainer.step in {math.ceil(part * steps) for part in MOMENTS})
        sample = getattr(net, "sample", None)
        if not due or sample is None:
            return
        cuda = [self.place.device] if self.place.device.type == "cuda" else []
        net.eval()  # the trainer goes back to train mode
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(derive_seed(self.settings.seed, "sheet"))
            images = sample(SAMPLES, *[net.patch] * net.dim)
        levels = ((images.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        self.sheet = [*(row for row in self.sheet if row[0] != self.trainer.step), (self.trainer.step, levels)]

    def _save(self, **finished: Any) -> None:
        checkpoint.save(
            self.run / checkpoint.NAME,
            {
                **self.trainer.state_dict(),
                "spec": self.card["spec"],
                "card": self.card,
                "pixel_size": self.card["data"]["pixel_size"],
                "sheet": self.sheet,
                "settled": None,
                "map_scale": None,
                **finished,
            },
        )

    def finish(self) -> None:
        """Settles the model, takes the fixed scale of its maps, if it gives any; writes pictures and the final card.

        FloatingPointError where a map is not finite. Other processes than the first have nothing to do.
        """
        if self.place.rank:
            return
        net = self.trainer.model
        training = views(self.crops.images, net, self.place.device)
        model = self.trainer.finish(self._labelled(training) if net.mapped is True else self._played())
        filled = [data.fill(region, max(net.stride, net.smallest)) for region in self.kept]
        unseen = views(filled, net, self.place.device)
        shown, scale = unseen or training, None
        if model.mapped is True:
            maps, scale = maps_of(model, [*unseen, *training])
        self._draw(model)
        settled = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        self._save(settled=settled, map_scale=scale)
        plots.curves(read_history(self.run / HISTORY), self.run / "curves.png")
        if self.sheet:
            rows = [(step, sliced(data.signed(images), net.dim).numpy()) for step, images in self.sheet]
            plots.sheet(rows, self.run / "samples.png")
        if scale is not None:
            rebuilt = [middle(x, maps[i], model) for i, x in enumerate(shown[:4])]
            plots.reconstructions(rebuilt, (scale[0], scale[1]), self.run / "reconstructions.png")
        if hasattr(model, "paint") and (painted := painting.examples(model, [*unseen, *training])):
            plots.grid(painted, ("normal patch", "mask"), self.run / "painted.png")
        for trouble in monitor.troubles(model, training, unseen) if model.mapped is True else ():
            self.card["warnings"].append(trouble)
            self.say(f"warning: {trouble}")
        self.card["found"] |= getattr(model, "found", {})
        if self.card["found"]:
            told = ", ".join(f"{name} {value:g}" for name, value in self.card["found"].items())
            self.say(f"found from the normal images: {told}")
        if fed := self.card["augmented"]:
            fed["proxy"] = augmenting.compared(model, self.kept, self.settings.compare_with)
            self.say(augmenting.verdict(fed["proxy"], fed, self.settings.compare_with))
        self._close(map_scale=scale)

    def _close(self, **found: Any) -> None:
        """Writes the final card."""
        self.card.update(duration_s=round(self.trainer.seconds, 3), steps=self.trainer.step, **found)
        write_json(self.run / CARD, self.card)
        self.say(f"finished after {timedelta(seconds=round(time.monotonic() - self.began))}: {self.run}")

    def _played(self) -> list[Any]:
        """Patches of the training as the model played with them, one by one."""
        net, found = self.trainer.model, []
        for n in range(-(-net.looked_at // net.batch)):
            batch = self.trainer.batches(n)
            fields = [field.split(1) for field in (batch if isinstance(batch, tuple) else (batch,))]
            found += [type(batch)(*one) if isinstance(batch, tuple) else one[0] for one in zip(*fields, strict=True)]
        return found

    def _labelled(self, looked: list[Tensor]) -> Sequence[Any]:
        """`views` of the training images, for a model with classes together with these."""
        if self.crops.labels is None:
            return looked
        labels = spread(list(self.crops.labels[:, None].to(self.place.device)), len(looked))
        return [Labelled(x, y) for x, y in zip(looked, labels, strict=True)]


def specified(settings: Settings, images: Sequence[data.Normal], start: Start | None) -> tuple[Spec, dict[str, Any]]:
    """The model's spec, and what of it was found from the images: now, or by the run that the training begins with."""
    if start is not None:
        spec = start.spec_for(settings.model, settings.params, settings.flips)
        return spec, {key: value for key, value in start.card["found"].items() if spec.params.get(key) == value}
    looked = [data.signed(image.grey[:, :LOOKED_SIDE, :LOOKED_SIDE])[None] for image in spread(images, 8)]
    known = models.MODELS.get(settings.model)
    suggested = known.suggest(looked, settings.flips) if known else {}
    spec = complete(settings.model, {**suggested, **settings.params}, images[0].grey.shape[0])
    return spec, {key: value for key, value in suggested.items() if key not in settings.params}


def initialised(spec: Spec, seed: int, device: torch.device) -> Model:
    """The model as the training begins, its weights drawn."""
    torch.manual_seed(derive_seed(seed, "weights"))
    return models.build(spec.name, **spec.params).to(device)


def megapixels(images: Sequence[Tensor]) -> float:
    """Million pixels, or of volumes voxels."""
    return sum(image[0].numel() for image in images) / 1e6


def told_held(held: Sequence[holding.Held], things: str = "images") -> str:
    """What is held back, in words."""
    whole = [one for one in held if one.box is None]
    return f"{len(whole)} whole {things}" if whole else f"a strip of {len(held)} {things}"


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl; a last line that a kill left half written is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]
