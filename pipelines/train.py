"""The job `train`: a folder of normal images -> a run folder with a finished model, its curves, pictures and card."""

from __future__ import annotations

import inspect
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torchvision  # type: ignore[import-untyped]
import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

from anomalib_gan import __version__, checkpoint, data, models
from anomalib_gan.export import usable
from anomalib_gan.model import Model, Spec
from anomalib_gan.runtime.files import read_json, write_bytes, write_json
from anomalib_gan.training import READ_EVERY, Progress, Trainer, derive_seed
from pipelines import plots

MINUTES = 15.0
MEASURED = (5, 25)  # rounds between which the speed is measured that the plan rests on
RESERVE = (8.0, 0.05)  # kept free at the end for settling and pictures: seconds and share of the budget, the larger one
MOMENTS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the training at which a row of samples is drawn, besides step 1
SAMPLES = 8
LOOKED_AT = 16  # images on which the model is settled, and as many of those held back
LOOKED_SIDE = 2048  # px, the largest side that is taken of each
PICTURED = 256  # px, side of the patches in reconstructions.png
CARD, HISTORY = "card.json", "history.jsonl"

InfoBar = Literal["auto"] | int


def train(
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    model: str = "fcbigan",
    minutes: float = MINUTES,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    params: dict[str, Any] | None = None,
    info_bar: InfoBar = "auto",
    flips: bool = True,
    jitter: float = 0.1,
    checkpoint_every: float = 60.0,
) -> Path:
    """Trains `model` on the normal images of `folder` and returns the run's folder `out`.

    The length is `steps`, or else what fits into `minutes`: the speed is measured over the first rounds, then the
    number of steps is planned once and stays. With `resume` an interrupted run goes on with the settings it was started
    with; `folder` may have moved. `params` are keywords of the model's constructor, `info_bar` the rows at the bottom
    of every image that are no image. `checkpoint_every` is in seconds. Errors: ValueError, OSError.
    """
    began = time.monotonic()
    run = Path(out)
    settings: dict[str, Any] = {
        **{"model": model, "params": params or {}, "seed": seed, "minutes": None if steps else minutes, "steps": steps},
        **{"device": device, "threads": threads, "info_bar": info_bar, "flips": flips, "jitter": jitter},
    }
    exists = (run / CARD).exists() or (run / checkpoint.NAME).exists()
    if exists and resume:
        card = read_json(run / CARD)
        if card["duration_s"] is not None:
            Console(soft_wrap=True).print(f"{run} is finished: nothing to resume", markup=False)
            return run
        settings = card["settings"]
    elif exists and not dry_run:
        raise FileExistsError(f"{run} holds a run already: continue it with --resume, or choose another --out")
    elif run.exists() and not run.is_dir():
        raise FileExistsError(f"{run} is a file: choose another --out")
    elif steps is not None and steps < 1:
        raise ValueError(f"{steps} steps are not possible: give at least 1")
    elif minutes <= 0:
        raise ValueError(f"{minutes} minutes are not possible: give more than 0")
    with processes(settings["device"]) as place:
        job = Job.prepare(Path(folder), run, settings, place, began)
        if dry_run:
            job.describe()
            return run
        job.begin()
        job.play(checkpoint_every)
        if place.rank == 0:
            job.finish()
    return run


@dataclass(frozen=True)
class Place:
    """Where this process computes, and its number among how many."""

    device: torch.device
    rank: int = 0
    world: int = 1


@contextmanager
def processes(device: str) -> Iterator[Place]:
    """The device; under torchrun this process also joins the others."""
    kind = usable(device)
    if kind.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # patches have one size
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Place(torch.device(kind))
        return
    if kind == "cuda":
        kind = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(kind)
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    try:
        yield Place(torch.device(kind), dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@dataclass
class Job:
    """One training: what it works on and what it writes. Only rank 0 writes and prints."""

    run: Path
    settings: dict[str, Any]
    place: Place
    began: float
    images: list[data.Normal]
    held: list[data.Held]
    kept: list[Tensor]
    spec: Spec
    crops: data.Crops
    trainer: Trainer
    card: dict[str, Any]
    console: Console
    sheet: list[tuple[int, Tensor]] = field(default_factory=list)
    pace: float | None = None  # when the measurement of the speed began

    @classmethod
    def prepare(cls, folder: Path, run: Path, settings: dict[str, Any], place: Place, began: float) -> Job:
        """Reads the images, splits them, builds the model; writes nothing."""
        console = Console(soft_wrap=True, highlight=False, markup=False, quiet=place.rank != 0)
        if settings["threads"]:
            torch.set_num_threads(settings["threads"])
        settings = {**settings, "threads": torch.get_num_threads()}
        seed, started = settings["seed"], datetime.now(UTC).isoformat(timespec="seconds")
        files = data.normal_files(folder)
        images, warnings = data.read_normals(files, info_bar=settings["info_bar"])
        channels = images[0].grey.shape[0]
        spec = complete(settings["model"], settings["params"], channels)
        torch.manual_seed(derive_seed(seed, "weights"))
        net = models.build(spec.name, **spec.params).to(place.device)
        if channels > net.channels:
            raise ValueError(f"{images[0].path} is a colour image, {spec.name} has {net.channels} channel: convert it")
        held = data.hold_out(images, net.patch, seed)
        training, kept = data.regions(images, held)
        if not held:
            warnings.append("the images are too small to hold pixels back: calibrate with --good and other good images")
        crops = data.Crops(
            training,
            net.patch,
            net.batch,
            seed=seed,
            device=place.device,
            channels=net.channels,
            share=(place.rank, place.world),
            flips=settings["flips"],
            jitter=settings["jitter"],
        )
        trainer = Trainer(net, crops, settings["steps"], seed=seed)
        told = [
            {"path": str(i.path.absolute()), "sha256": i.sha256, "height": i.grey.shape[1], "width": i.grey.shape[2]}
            for i in images
        ]
        card = {
            "name": run.name,
            "spec": asdict(spec),
            "data": {
                **{"folder": str(folder.absolute()), "images": told, "fingerprint": data.fingerprint(images)},
                **{"pixel_size": data.pixel_size(images), "channels": channels, "white": images[0].white},
            },
            "settings": {**settings, "batch": net.batch * place.world, "processes": place.world},
            "versions": {
                **{"anomalib_gan": __version__, "python": platform.python_version(), "numpy": np.__version__},
                **{"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)},
            },
            "machine": machine(place.device),
            "started": started,
            "duration_s": None,
            "warnings": warnings,
            "oddest": data.oddest(images),
        }
        plain = json.loads(
            json.dumps(card, allow_nan=False)
        )  # the checkpoint holds it too, and takes plain values only
        return cls(run, settings, place, began, images, held, kept, spec, crops, trainer, plain, console)

    def begin(self) -> None:
        """Says what is about to happen; loads the checkpoint of an interrupted run; writes card and split."""
        stored = self.run / checkpoint.NAME
        if stored.exists():
            state = checkpoint.load(stored, self.place.device)
            if state["card"]["data"]["fingerprint"] != self.card["data"]["fingerprint"]:
                raise ValueError(
                    f"the images in {self.card['data']['folder']} are not those the run was started with: "
                    "give back the same files, or start a new run"
                )
            if state["card"]["settings"]["processes"] != self.place.world:
                raise ValueError(
                    f"the run was started with {state['card']['settings']['processes']} processes, "
                    f"not {self.place.world}: resume it with as many"
                )
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
            write_json(self.run / "split.json", data.write_split(self.settings["seed"], self.held))
            write_json(self.run / CARD, self.card)
        self.summary()
        if stored.exists():
            self.console.print(f"going on after step {self.trainer.step}")

    def summary(self) -> None:
        """What is trained on, and what the user should look at before."""
        net, say = self.trainer.model, self.console.print
        whole = [one for one in self.held if one.box is None]
        megapixels = sum(image.shape[1] * image.shape[2] for image in self.crops.images) / 1e6
        kept = f"{len(whole)} whole images" if whole else f"a strip of {len(self.held)} images"
        say(f"{len(self.images)} normal images; {megapixels:.3g} Mpx to train on, held back for calibration: {kept}")
        count = sum(parameter.numel() for parameter in net.parameters())
        say(f"{self.spec.name}: {count:,} parameters, {net.batch} patches of {net.patch}x{net.patch} px per batch")
        for warning in self.card["warnings"]:
            say(f"warning: {warning}")
        odd = [image for image in self.card["oddest"] if image["odd"]]
        if odd:
            say("these images look least like the rest; a defect among the normal images is learnt as normal:")
        for image in odd:
            say(f"  {image['path']}: {'; '.join(image['reasons'])}")

    def describe(self) -> None:
        """The dry run: the summary, and the time from the speed of a few rounds; nothing is written."""
        self.summary()
        say = self.console.print
        say(f"device {self.place.device}, {self.settings['threads']} threads, run folder {self.run} (not written)")
        if not self.trainer.players:
            say("the model has no game: it is fitted in closed form")
            return
        rounds = iter(self.trainer)
        next(rounds)
        begin = self._now()
        played = len(list(islice(rounds, 3)))
        if not played:
            say("1 step")
            return
        each = (self._now() - begin) / played
        if self.settings["steps"]:
            say(f"{self.settings['steps']} steps of {each:.3g} s: about {clock(self.settings['steps'] * each)}")
        else:
            steps = self._fitting(self.settings["minutes"] * 60, each)
            say(f"{self.settings['minutes']:g} minutes: about {steps} steps of {each:.3g} s")

    def play(self, checkpoint_every: float) -> None:
        """The training: every round is shown, some are written down, and a checkpoint is made now and then."""
        trainer, first = self.trainer, self.place.rank == 0
        saved = time.monotonic()
        with reporting(self.console) as report:
            for progress in trainer:
                planned = trainer.steps is None and self._plan()
                if not first:
                    continue
                report(Progress(trainer.step, trainer.steps, progress.losses, progress.seconds, progress.rate))
                self._write_down(progress)
                self._draw()
                if planned or (trainer.steps and time.monotonic() - saved >= checkpoint_every):
                    self._save()
                    saved = time.monotonic()
        if first:
            self._save()

    def _now(self) -> float:
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)
        return time.monotonic()

    def _fitting(self, left: float, each: float) -> int:
        """How many more rounds of `each` seconds fit into `left` seconds, with a reserve for the end."""
        reserve = min(left / 2, max(RESERVE[0], RESERVE[1] * self.settings["minutes"] * 60))
        cap = getattr(self.trainer.model, "max_steps", None)
        steps = self.trainer.step + max(1, int((left - reserve) / each))
        return steps if cap is None else max(self.trainer.step + 1, min(steps, cap))

    def _plan(self) -> bool:
        """Once the speed is known the number of steps is set for good, by rank 0 for all; was it now?"""
        step, budget = self.trainer.step, self.settings["minutes"] * 60
        if step < MEASURED[0]:
            return False
        if self.pace is None:
            self.pace = self._now()
            return False
        now = self._now()
        spent = now - self.pace
        steps = 0
        if step >= MEASURED[1] or spent > 0.05 * budget:
            steps = self._fitting(budget - (now - self.began), spent / (step - MEASURED[0]))
        if self.place.world > 1:
            common = torch.tensor([steps], device=self.place.device)
            dist.broadcast(common, 0)
            steps = int(common)
        if steps:
            self.trainer.steps = steps
            self.console.print(f"planned: {steps} steps")
        return steps > 0

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
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(derive_seed(self.settings["seed"], "sheet"))
            images = sample(SAMPLES, net.patch, net.patch) if model else sample_in_eval(net, sample)
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
        """Settles the model on normal images, takes the fixed scale of its maps; writes pictures and the final card."""
        net = self.trainer.model
        training = views(self.crops.images, net, self.place.device)
        model = self.trainer.finish(training)
        unseen = views(
            [data.fill(region, max(net.stride, net.smallest)) for region in self.kept], net, self.place.device
        )
        with torch.no_grad():
            maps = [model.anomaly_map(x).float().cpu() for x in [*unseen, *training]]
        values = torch.cat([one.flatten() for one in maps]).numpy()
        if not np.isfinite(values).all():
            raise FloatingPointError(
                "the map of a normal image is not finite: train with another seed or learning rate"
            )
        scale = [float(q) for q in np.percentile(values, (1, 99.9))]
        self._draw(model)
        settled = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        self._save(settled=settled, map_scale=scale)
        plots.curves(read_history(self.run / HISTORY), self.run / "curves.png")
        if self.sheet:
            plots.sheet([(step, data.signed(images)) for step, images in self.sheet], self.run / "samples.png")
        shown = [middle(x, maps[i], model) for i, x in enumerate((unseen or training)[:4])]
        plots.reconstructions(shown, scale, self.run / "reconstructions.png")
        self.card.update(duration_s=round(self.trainer.seconds, 3), map_scale=scale, steps=self.trainer.step)
        write_json(self.run / CARD, self.card)
        self.console.print(f"finished after {clock(time.monotonic() - self.began)}: {self.run}")


def sample_in_eval(net: Model, sample: Callable[[int, int, int], Tensor]) -> Tensor:
    """Samples of the weights that are in training, in eval mode; the trainer goes back to train mode."""
    net.eval()
    return sample(SAMPLES, net.patch, net.patch)


def views(regions: Sequence[Tensor], model: Model, device: torch.device) -> list[Tensor]:
    """At most LOOKED_AT of the regions, evenly spread, as (1, C, H, W) in [-1, 1]: the middle up to LOOKED_SIDE."""
    chosen = [
        regions[i] for i in sorted({round(k) for k in np.linspace(0, len(regions) - 1, min(LOOKED_AT, len(regions)))})
    ]
    found = []
    for region in chosen:
        _, height, width = region.shape
        tall, wide = (min(side, LOOKED_SIDE) // model.stride * model.stride for side in (height, width))
        top, left = (height - tall) // 2, (width - wide) // 2
        x = data.signed(region[:, top : top + tall, left : left + wide].to(device))
        found.append(x.expand(model.channels, -1, -1)[None].contiguous())
    return found


@torch.no_grad()
def middle(x: Tensor, found: Tensor, model: Model) -> tuple[Tensor, Tensor | None, Tensor]:
    """The middle PICTURED pixels of an image (C, h, w), of its reconstruction, where the model has one, and its map."""
    reconstruct = getattr(model, "reconstruct", None)
    again = None if reconstruct is None else reconstruct(x)
    height, width = x.shape[2:]
    top, left = max(0, height - PICTURED) // 2, max(0, width - PICTURED) // 2
    box = (..., slice(top, top + PICTURED), slice(left, left + PICTURED))
    return x[0][box], None if again is None else again[0][box], found[0, 0][box]


def complete(name: str, params: dict[str, Any], channels: int) -> Spec:
    """The model's spec with every constructor keyword written out, so that later defaults cannot change an old run."""
    known = keywords(name)
    if unknown := [key for key in params if key not in known]:
        raise ValueError(f"{name} has no parameter {unknown[0]!r}: choose from {', '.join(known)}")
    given = {"channels": channels, **params} if "channels" in known else params
    return Spec(name, {**{key: value for key, value in known.items() if value is not inspect.Parameter.empty}, **given})


def keywords(name: str) -> dict[str, Any]:
    """The keywords of a model's constructor with their defaults; a ValueError lists the models that exist."""
    if name not in models.MODELS:
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(sorted(models.MODELS))}")
    signature = inspect.signature(models.MODELS[name])
    return {key: one.default for key, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD}


def parse_params(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """["alpha=0.5", "norm=l1"] -> values of the types that the constructor's defaults have."""
    known, params = keywords(name), {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--param {pair}: write key=value")
        if key not in known:
            raise ValueError(f"--param {pair}: {name} has no parameter {key!r}; choose from {', '.join(known)}")
        default = known[key]
        try:
            value = (
                text if isinstance(default, str) else json.loads(text.lower() if text in ("True", "False") else text)
            )
        except ValueError:
            value = text
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        free = default is None or default is inspect.Parameter.empty
        if not free and type(value) is not type(default) and not (type(default) is tuple and type(value) is list):
            raise ValueError(f"--param {pair}: {key} is of type {type(default).__name__}, such as {default!r}")
        params[key] = value
    return params


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl; a last line that a kill left half written is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures of the card were reached on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss.

    >>> clock(75), clock(3600)
    ('0:01:15', '1:00:00')
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


@contextmanager
def reporting(console: Console, every: float = 10.0) -> Iterator[Callable[[Progress], None]]:
    """Shows the progress: a bar on a terminal, elsewhere a line every `every` seconds."""
    bar = Bar("{task.description}", BarColumn(24), TextColumn("{task.fields[text]}"), console=console, transient=True)
    task = bar.add_task("training", text="", total=None)
    last = -math.inf

    def report(progress: Progress) -> None:
        nonlocal last
        losses = "  ".join(
            f"{who} " + " ".join(f"{term} {value:.3g}" for term, value in terms.items())
            for who, terms in progress.losses.items()
        )
        left = "planning" if progress.left is None else f"{clock(progress.left)} left"
        of = f"{progress.step}/{progress.steps}" if progress.steps else f"{progress.step}"
        text = f"step {of}  {losses}  {progress.rate:.3g} steps/s  {left}"
        if console.is_terminal:
            bar.update(task, completed=progress.step, total=progress.steps, text=text)
        elif time.monotonic() - last >= every or progress.step == progress.steps:
            last = time.monotonic()
            console.print(text)

    if console.is_terminal:
        with bar:
            yield report
    else:
        yield report


def command(
    folder: Path = typer.Argument(
        ...,
        metavar="NORMAL_DIR",
        help="Folder of normal images, with sub-folders; of a data set in MVTec layout its train/good.",
    ),
    out: Path = typer.Option(..., "--out", help="New folder for the run: checkpoint, curves, pictures, card."),
    model: str = typer.Option("fcbigan", help=f"What to train: {', '.join(sorted(models.MODELS))}."),
    minutes: float = typer.Option(
        MINUTES, help="Length of the training in minutes; the number of steps is planned from the speed of the first."
    ),
    steps: int | None = typer.Option(None, help="Length of the training in steps, instead of minutes."),
    seed: int = typer.Option(
        0, help="Seed of everything random; with `--steps`, on a CPU and with as many threads, runs repeat."
    ),
    device: str = typer.Option("auto", help="`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."),
    threads: int | None = typer.Option(None, help="Processor threads of the network; default: as torch finds best."),
    resume: bool = typer.Option(False, "--resume", help="Continue an interrupted run with the settings it began with."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be done, and write nothing."),
    param: list[str] = typer.Option(
        [], "--param", help="`key=value` for the model, such as `alpha=0.5`; may be repeated."
    ),
    info_bar: str = typer.Option("auto", help="Rows at the bottom that are no image; `auto` reads or finds them."),
    flips: bool = typer.Option(True, help="Also train on mirrored patches; off where the texture has a direction."),
    jitter: float = typer.Option(0.1, help="Random change of brightness and contrast of the patches, as a share."),
    checkpoint_every: float = typer.Option(60.0, help="Seconds between checkpoints."),
) -> None:
    """Learn what normal images look like: train a model on a folder of normal images, one or thousands.

    The images show one material at one magnification, and no defect. Some of their pixels are held back, for
    `calibrate`, which is the next step. `--dry-run` says what would be done and lists the images that look least like
    the rest; look at reconstructions.png and curves.png in the run's folder afterwards.

    Exit code: 0 done, 2 an error, 130 stopped by Ctrl-C; `--resume` goes on with a run that was stopped.
    """
    if info_bar != "auto" and not info_bar.isdigit():
        raise ValueError(f"--info-bar {info_bar}: give auto or a number of rows")
    try:
        train(
            folder,
            out=out,
            model=model,
            minutes=minutes,
            steps=steps,
            seed=seed,
            device=device,
            threads=threads,
            resume=resume,
            dry_run=dry_run,
            params=parse_params(model, param),
            info_bar="auto" if info_bar == "auto" else int(info_bar),
            flips=flips,
            jitter=jitter,
            checkpoint_every=checkpoint_every,
        )
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{error}: start anew with smaller batches (--param batch=...), or with --device cpu"
        ) from error
    except KeyboardInterrupt:
        typer.echo(f"interrupted: continue with anomalib-gan train {folder} --out {out} --resume", err=True)
        raise typer.Exit(130) from None
