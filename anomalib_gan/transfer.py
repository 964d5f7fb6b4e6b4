"""What a network that learnt normal images is worth to a classifier of defects with few labels.

The encoder, or the critic, becomes a classifier twice: its features stay as they are and a logistic regression learns
on them, and from there all of it is trained a little further (a head first, then the rest: Fine-Tuning can Distort
Pretrained Features, Kumar et al., 2022). Beside it the same network goes the same two ways untrained, with new random
weights for each draw of labels. Both get the same labels and are tested on the same crops.

Unsupervised pre-training for few labels: Adversarial Feature Learning (Donahue et al., 2017), section 4.3; the critic's
features: Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks (Radford et al.,
2016), section 5.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anomalib_gan.data import read_normals, signed
from anomalib_gan.model import Labelled, Model, Move, Player
from anomalib_gan.nets import shrink
from anomalib_gan.runtime.image import find_images
from anomalib_gan.training import Trainer, derive_seed

COUNTS = (5, 10, 20)
REPEATS = 10
STEPS = 60  # of the fine-tuning
BATCH = 32
RATE = 1e-3  # of the fine-tuning
TOGETHER = 64  # crops at once where nothing is trained
FEWEST = 5  # crops of each class that are left to test on
CONFIDENCE = 0.95
FROZEN, TUNED = "frozen", "fine-tuned"


@dataclass(frozen=True)
class Crops:
    """Crops of defects x (M, C, side, side) in [-1, 1], and the number y (M,) of each one's class among `names`."""

    x: Tensor
    y: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """Shares of test crops that are named right, one for each draw of `labels` labels a class: by the network as it was
    trained, and by the same untrained.
    """

    network: str
    features: str
    labels: int
    trained: tuple[float, ...]
    scratch: tuple[float, ...]

    @property
    def gain(self) -> tuple[float, float]:
        """Mean of trained - scratch, and half the width of its confidence interval over draws (Student's t)."""
        gains = [a - b for a, b in zip(self.trained, self.scratch, strict=True)]
        n = len(gains)
        width = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(gains) / n**0.5
        return mean(gains), width

    @property
    def beats(self) -> str:
        """ "yes" or "no" where the interval leaves no doubt which of the two is better, else "not decided"."""
        middle, width = self.gain
        return "not decided" if abs(middle) <= width else "yes" if middle > 0 else "no"


def read_crops(folder: str | os.PathLike[str], model: Model, **levels: Any) -> Crops:
    """The images in the class folders of `folder`, cut to the middle square that all have, a multiple of the model's
    stride. `levels`: bits and white, see `open_image`.

    ValueError: there are no two classes, an image lies beside their folders, or one is smaller than the model takes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give one with a folder of crops for each class of defects")
    files = find_images(root)
    if loose := [path for path in files if path.parent == root]:
        raise ValueError(f"{loose[0]} lies beside the class folders of {root}: move it into the one of its class")
    kinds = [path.relative_to(root).parts[0] for path in files]
    names = tuple(sorted(set(kinds)))
    if len(names) < 2:
        raise ValueError(f"{root} has crops of {len(names)} classes: give folders of at least two")
    images, _ = read_normals(files, info_bar=0, **levels)
    if len(images) < len(files):
        raise ValueError(f"the {len(files)} crops in {root} do not fit into memory: give fewer, or smaller ones")
    smallest = min(images, key=lambda image: min(image.grey.shape[1:]))
    side = min(smallest.grey.shape[1:]) // model.stride * model.stride
    if side < max(model.stride, model.smallest):
        least = max(model.stride, model.smallest)
        raise ValueError(
            f"{smallest.path} has {smallest.size} px, and this model takes {least} at least: cut it larger"
        )
    cut = []
    for image in images:
        top, left = ((size - side) // 2 for size in image.grey.shape[1:])
        x = signed(image.grey[:, top : top + side, left : left + side])
        if x.shape[0] > model.channels:
            raise ValueError(f"{image.path} is a colour image, the model has {model.channels} channel: convert it")
        cut.append(x.expand(model.channels, -1, -1))
    return Crops(torch.stack(cut), torch.tensor([names.index(kind) for kind in kinds]), names)


def trunks_of(model: Model) -> dict[str, nn.Module]:
    """The model's networks that see images, by what they are in the game; see `Model`. ValueError without any."""
    found: dict[str, nn.Module] = getattr(model, "trunks", dict)()
    if not found:
        raise ValueError(
            f"{type(model).__name__} has neither an encoder nor a critic that sees images alone: "
            "give a run of fcbigan, ae, vae or gan"
        )
    return found


def pooled(field: Tensor) -> Tensor:
    """A field of features (N, f, h, w) as 2 f numbers for each image: mean and deviation over the middle half of its
    rows and columns, for a crop is named after what lies in its middle, and the material around that dilutes it.
    """
    rows, columns = (slice((n - max(1, n // 2)) // 2, (n + max(1, n // 2)) // 2) for n in field.shape[-2:])
    middle = field[..., rows, columns].float()
    return torch.cat((middle.mean((2, 3)), (middle.var((2, 3), correction=0) + 1e-6).sqrt()), 1)


class Classifier(Model):
    """A trunk and a linear head on its pooled features, standardised; the head begins as a logistic regression.

    The norm layers keep their statistics in training: a few labels would give them poor ones. No map: it is never a
    detector.
    """

    batch = BATCH
    mean: Tensor
    spread: Tensor

    def __init__(self, trunk: nn.Module, factor: int, head: LogisticRegression, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.trunk, self.factor = deepcopy(trunk).requires_grad_(True), factor
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        weight, bias = (torch.from_numpy(one).float() for one in (head.coef_, head.intercept_))
        if len(weight) == 1:  # of two classes scikit-learn keeps the odds of the second
            weight, bias = torch.cat((-weight, weight)) / 2, torch.cat((-bias, bias)) / 2
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        self.trunk.eval()
        return self

    def players(self) -> dict[str, Player]:
        return {"classifier": Player((self.trunk, self.head), RATE, (0.9, 0.99))}

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> the logits of its classes, (N, K)."""
        return self.head((pooled(self.trunk(shrink(x, self.factor))) - self.mean) / self.spread)

    def play(self, batches: Iterator[Any], progress: float) -> Iterator[Move]:
        x, y = next(batches)
        yield "classifier", {"surprise": cross_entropy(self(x), y)}


def compare(
    model: Model,
    fresh: Callable[[int], Model],
    crops: Crops,
    *,
    counts: Sequence[int] = COUNTS,
    repeats: int = REPEATS,
    steps: int = STEPS,
    seed: int = 0,
    flips: bool = True,
    progress: Callable[[Sequence[int]], Any] = iter,
) -> list[Row]:
    """Rows for each of the model's trunks, frozen and fine-tuned, with each number of labels a class.

    `fresh(seed)` is the same model untrained. `flips`: fine-tuning also shows crops flipped. A draw's labels are those
    of its smaller numbers and more; it is tested on what no number of labels of that draw contains. Randomness outside
    is left alone. ValueError where a class has too few crops.
    """
    number = Counter(crops.y.tolist())
    if lacking := [name for k, name in enumerate(crops.names) if number[k] < max(counts) + FEWEST]:
        raise ValueError(
            f"class {lacking[0]!r} has {number[crops.names.index(lacking[0])]} crops, and {max(counts)} labels with "
            f"{FEWEST} to test on need {max(counts) + FEWEST}: give more crops, or fewer labels"
        )
    if repeats < 2:
        raise ValueError(f"{repeats} draws of labels have no spread: give at least 2")
    factor = int(getattr(model, "shrink", 1))
    found: dict[tuple[str, str, int], tuple[list[float], list[float]]] = {}
    with torch.random.fork_rng(devices=[]):
        for draw in progress(range(repeats)):
            pools, test = drawn(crops.y, counts, derive_seed(seed, "labels", draw))
            nets = trunks_of(model), trunks_of(fresh(derive_seed(seed, "scratch", draw)))
            for name, count in ((name, count) for name in nets[0] for count in counts):
                x, y = crops.x[pools[count]], crops.y[pools[count]]
                for place, net in enumerate(one[name] for one in nets):
                    trunk = deepcopy(net).eval().requires_grad_(False)
                    if place:
                        accustom(trunk, shrink(x, factor))
                    shares = learnt(trunk, factor, Labelled(x, y), crops, test, steps, derive_seed(seed, draw), flips)
                    for features, share in zip((FROZEN, TUNED), shares, strict=True):
                        found.setdefault((name, features, count), ([], []))[place].append(share)
    return [Row(*key, *map(tuple, shares)) for key, shares in found.items()]


def drawn(y: Tensor, counts: Sequence[int], seed: int) -> tuple[dict[int, Tensor], Tensor]:
    """Which crops are labelled, by the number of labels a class, and which are tested on: the first of each class in a
    random order, and what the largest number leaves.
    """
    generator = torch.Generator().manual_seed(seed)
    orders = [here[torch.randperm(len(here), generator=generator)] for here in per_class(y)]
    pools = {count: torch.cat([order[:count] for order in orders]) for count in counts}
    return pools, torch.cat([order[max(counts) :] for order in orders])


def per_class(y: Tensor) -> list[Tensor]:
    """Which of y (M,) are of each class."""
    return [torch.nonzero(y == kind)[:, 0] for kind in range(int(y.max()) + 1)]


@torch.no_grad()
def accustom(trunk: nn.Module, s: Tensor) -> None:
    """The statistics of an untrained trunk's norm layers become those of the labelled crops s, lest it be judged by
    ones that no image gave.
    """
    norms = [one for one in trunk.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average of all batches
    trunk.train()
    for some in s.split(TOGETHER):
        trunk(some)
    trunk.eval()


def learnt(
    trunk: nn.Module, factor: int, labelled: Labelled, crops: Crops, test: Tensor, steps: int, seed: int, flips: bool
) -> tuple[float, float]:
    """The share of the test crops that is named right on frozen features, and after fine-tuning."""

    def features(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([pooled(trunk(shrink(some, factor))) for some in x.split(TOGETHER)])

    z = features(labelled.x)
    middle, spread = z.mean(0), z.std(0)
    spread = torch.where(spread < 1e-6, 1.0, spread)  # a feature that says the same of all crops
    head = LogisticRegression(max_iter=10_000).fit(((z - middle) / spread).numpy(), labelled.y.numpy())
    net = Classifier(trunk, factor, head, middle, spread)

    def share(net: nn.Module) -> float:
        with torch.no_grad():
            said = torch.cat([net(some).argmax(1) for some in crops.x[test].split(TOGETHER)])
        return float((said == crops.y[test]).float().mean())

    frozen = share(net.eval())
    trainer = Trainer(net, Batches(labelled, seed, flips), steps, seed=seed)
    for _ in trainer:
        pass
    return frozen, share(trainer.ema.eval())


@dataclass(frozen=True)
class Batches:
    """Batch n of labelled crops, a pure function of (seed, n): each class as often, flipped at random."""

    labelled: Labelled
    seed: int
    flips: bool

    def __call__(self, n: int) -> Labelled:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batch", n))
        kinds = per_class(self.labelled.y)
        chosen = torch.stack(
            [
                kinds[k % len(kinds)][torch.randint(len(kinds[k % len(kinds)]), (), generator=generator)]
                for k in range(BATCH)
            ]
        )
        x, (across, down) = self.labelled.x[chosen], torch.rand(2, BATCH, 1, 1, 1, generator=generator) < 0.5
        if self.flips:
            x = torch.where(across, x.flip(-1), x)
            x = torch.where(down, x.flip(-2), x)
        return Labelled(x, self.labelled.y[chosen])


def markdown(rows: Sequence[Row], crops: Crops) -> str:
    """One table, and what it says of each network."""
    lines = [
        "| network | features | labels a class | pre-trained | from scratch | gain | pre-trained beats scratch |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        middle, width = row.gain
        cells = [row.network, row.features, str(row.labels), spoken(row.trained), spoken(row.scratch)]
        lines.append("| " + " | ".join([*cells, f"{middle:+.3f} ± {width:.3f}", row.beats]) + " |")
    lines += [
        "",
        f"Shares of test crops named right, of {len(crops.names)} classes ({', '.join(crops.names)}): mean (deviation) "
        f"over {len(rows[0].trained)} draws of labels, for each of which the untrained network had other weights.",
        f"Gain: its mean over draws, with the {CONFIDENCE:.0%} interval of Student's t.",
        "",
    ]
    for name in dict.fromkeys(row.network for row in rows):
        for features in (FROZEN, TUNED):
            here = [row for row in rows if (row.network, row.features) == (name, features)]
            won = [str(row.labels) for row in here if row.beats == "yes"]
            told = (
                "at every number of labels"
                if len(won) == len(here)
                else f"with {', '.join(won) or 'no number of'} labels"
            )
            lines.append(f"- {name}, {features}: the pre-trained network beat the same from scratch {told}.")
    return "\n".join(lines) + "\n"


def spoken(shares: Sequence[float]) -> str:
    return f"{mean(shares):.3f} ({stdev(shares):.3f})"


def to_json(rows: Sequence[Row], crops: Crops) -> dict[str, Any]:
    """The rows with what each says, and of how many crops."""
    number = Counter(crops.y.tolist())
    return {
        "classes": {name: number[k] for k, name in enumerate(crops.names)},
        "side": crops.x.shape[-1],
        "rows": [asdict(row) | {"gain": row.gain, "beats": row.beats} for row in rows],
    }
