"""What a trained model is, beyond its maps: what its codes hold, what its critic still says, what its generator draws.

Each finding asks the model for optional methods, which `Model` documents, and is left out where it has them not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from anomalib_gan.diagnosis_samples import copies, coverage, drawn_by, scale_of
from anomalib_gan.dimension import SHARE, linear, two_nn
from anomalib_gan.fidelity import spread
from anomalib_gan.findings import Bars, Finding, Lines, Panel
from anomalib_gan.model import Model
from anomalib_gan.nets import shrink

ACTIVE = 0.01  # variance of a unit's mean code over images from which it counts as active (Burda et al., 2016)
FAR = 0.1  # nats by which a unit's aggregate posterior may differ from the prior
NASH = 0.05  # distance of D from 1/2 within which it says nothing
WINDOW = 16  # px, side of the windows in which local variance is taken
LOOKED, LOOKED_SIDE = 8, 512  # images, and px of them, that a model looks at
POINTS = 4000  # patches, and codes, whose dimension is estimated


@dataclass(frozen=True)
class View:
    """A normal image x (1, C, H, W) as the model sees it: the mean and variance of its codes, (M, code) each, and its
    reconstruction; None where it has none.
    """

    x: Tensor
    code: tuple[Tensor, Tensor] | None
    again: Tensor | None

    @classmethod
    def of(cls, model: Model, x: Tensor) -> View:
        parts: dict[str, Tensor] = getattr(model, "parts", lambda x: {})(x)
        again = parts.get("reconstruction")
        if again is None and hasattr(model, "reconstruct"):
            again = model.reconstruct(x)  # type: ignore[operator]
        code = None
        if hasattr(model, "posterior"):
            q = model.posterior(shrink(x, scale_of(model)))  # type: ignore[operator]
            code = (columns(q.mean), columns(q.variance))
        elif "code" in parts:
            code = (columns(parts["code"]), torch.zeros_like(columns(parts["code"])))
        return cls(x, code, again)


def columns(field: Tensor) -> Tensor:
    """(N, units, h, w) -> (N h w, units)."""
    return field.movedim(1, -1).flatten(0, -2).float().cpu()


@torch.no_grad()
def diagnose(
    model: Model, training: Sequence[Tensor], unseen: Sequence[Tensor], history: Sequence[dict[str, Any]]
) -> list[Finding]:
    """All that can be told of a settled model from normal images (1, C, H, W) in [-1, 1], multiples of its stride, that
    training saw and did not see, and from the lines of history.jsonl. Randomness outside is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normals = [*unseen, *training]
        views = [View.of(model, middle(normals[i], model)) for i in spread(len(normals), LOOKED)]
        found = [balance(history), units(model, views), blur(views), critic(model, views)]
        if hasattr(model, "sample"):
            drawn = drawn_by(model)
            found += [coverage(drawn, training, unseen), copies(drawn, training, unseen, scale_of(model))]
        found.append(dimension(model, views))
    return [one for one in found if one is not None]


def middle(x: Tensor, model: Model) -> Tensor:
    """The middle of an image, up to about LOOKED_SIDE high and wide; some models take half a minute for a whole one."""
    side = max(LOOKED_SIDE, model.smallest, model.stride) // model.stride * model.stride
    top, left = (max(0, size - side) // 2 for size in x.shape[-2:])
    return x[..., top : top + side, left : left + side]


def balance(history: Sequence[dict[str, Any]]) -> Finding | None:
    """Both terms of a bound on log p(x) over the training: how well the code tells the image, and what it costs."""
    who = next((who for row in history for who, terms in row["losses"].items() if "kl" in terms), None)
    if who is None:
        return None
    rows = [row for row in history if who in row["losses"]]
    terms = {name: [row["losses"][who][name] for row in rows] for name in rows[-1]["losses"][who]}
    last = max(1, len(rows) // 10)
    figures = {f"{name}, last tenth": float(np.mean(values[-last:])) for name, values in terms.items()}
    return Finding(
        "Likelihood and KL",
        figures,
        panels=[Lines(f"Terms of {who}", [row["step"] for row in rows], terms, "step")],
    )


def units(model: Model, views: Sequence[View]) -> Finding | None:
    """Which units of the code tell images apart, and whether codes lie where the prior is, for codes that have one.

    A unit is active where its mean code varies over images (Importance Weighted Autoencoders, Burda et al., 2016). The
    aggregate posterior is the mixture of the posteriors of all images: samples come from the prior, and where that
    differs, the decoder meets codes that it never learnt.
    """
    if not (hasattr(model, "posterior") or hasattr(model, "generate")) or getattr(model, "prior", "") == "uniform":
        return None
    found = [view.code for view in views if view.code is not None]
    if not found:
        return None
    mean, variance = (torch.cat(part) for part in zip(*found, strict=True))
    activity = mean.var(0)
    middle, width = mean.mean(0), activity + variance.mean(0)
    apart = (width + middle.square() - 1 - width.clamp_min(1e-12).log()) / 2  # KL of N(middle, spread) from N(0, I)
    active, count = int((activity > ACTIVE).sum()), len(activity)
    figures = {
        "units": float(count),
        "active units": float(active),
        "aggregate posterior: mean farthest from 0": float(middle.abs().max()),
        "aggregate posterior: smallest spread": float(width.sqrt().min()),
        "aggregate posterior: largest spread": float(width.sqrt().max()),
        "aggregate posterior: KL from the prior, nats per unit": float(apart.mean()),
    }
    if variance.any():
        each = (variance + mean.square() - 1 - variance.clamp_min(1e-12).log()).mean(0) / 2
        figures["KL of the posteriors, nats per code"] = float(each.sum())
    says = []
    if active < count:
        says.append(
            f"{count - active} of {count} units are collapsed: they say the same of every image. Where that is too "
            "many, lower the KL's weight or warm it up for longer; else a narrower code would do"
        )
    if apart.mean() > FAR:
        says.append(
            f"codes of images are not spread as the prior ({apart.mean():.2f} nats per unit apart): samples start from "
            "codes that no image has"
        )
    shown = (mean + variance.sqrt() * torch.randn_like(mean))[:, activity > ACTIVE].flatten()
    edges = np.linspace(-4, 4, 41)
    centres = (edges[1:] + edges[:-1]) / 2
    panels: list[Panel] = [
        Bars(
            f"Variance of the mean code, by unit; active above {ACTIVE:g}",
            [str(i) for i in range(count)],
            {"variance": activity.sort(descending=True).values.tolist()},
            "unit, the most active first",
        )
    ]
    if len(shown):
        density = np.histogram(shown.numpy(), edges)[0] / len(shown) / (edges[1] - edges[0])
        curves = {"codes of images": density.tolist(), "prior": (np.exp(-(centres**2) / 2) / 2.5066282746).tolist()}
        panels.append(Lines("Aggregate posterior of the active units", centres.tolist(), curves, "code"))
    return Finding("Units of the code", figures, says, panels)


def blur(views: Sequence[View]) -> Finding | None:
    """How much of the images' local variance is left in reconstructions, where there is little and where much of it.

    A code that cannot tell where each blade of grass stands gives the mean of all that could be there.
    """
    pairs = [(local_variance(view.x), local_variance(view.again)) for view in views if view.again is not None]
    if not pairs:
        return None
    before, after = (np.concatenate(part) for part in zip(*pairs, strict=True))
    fifths = np.array_split(np.argsort(before), 5)
    kept = [float(after[part].sum() / max(before[part].sum(), 1e-12)) for part in fifths]
    whole = float(after.sum() / max(before.sum(), 1e-12))
    says = []
    if whole < 0.5:
        says.append(
            f"reconstructions keep {whole:.0%} of the local variance: what is fine and irregular is averaged away, so "
            "a residual is large on normal texture too"
        )
    return Finding(
        "Blur",
        {
            "local variance kept": whole,
            "kept in the flattest fifth": kept[0],
            "kept in the busiest fifth": kept[-1],
        },
        says,
        [
            Bars(
                f"Local variance kept, in windows of {WINDOW} px",
                ["flattest", "2", "3", "4", "busiest"],
                {"reconstruction / image": kept},
                "fifths of the windows by their variance",
            )
        ],
    )


def local_variance(x: Tensor) -> NDArray[np.floating]:
    """Variance in windows of (N, C, H, W), at any place of a grid, mean over channels."""
    side = min(WINDOW, *x.shape[-2:])
    found = avg_pool2d(x.square(), side) - avg_pool2d(x, side).square()
    return found.clamp_min(0).mean(1).flatten().float().cpu().numpy()


def critic(model: Model, views: Sequence[View]) -> Finding | None:
    """What D says on normal images and on generated ones, against 1/2."""
    if not hasattr(model, "answers"):
        return None
    scaled: Callable[[Tensor], Tensor] | None = getattr(getattr(model, "objective", None), "probability", None)
    both = [[one.flatten().float().cpu() for one in model.answers(view.x)] for view in views]  # type: ignore[operator]
    real, fake = (torch.cat(part) for part in zip(*both, strict=True))
    name = "D" if scaled else "answer"
    if scaled:
        real, fake = scaled(real), scaled(fake)
    figures = {f"mean {name} on normal images": float(real.mean()), f"mean {name} on generated": float(fake.mean())}
    says = []
    if scaled and max(abs(float(one.mean()) - 0.5) for one in (real, fake)) < NASH:
        says.append(
            "D is 1/2 on normal and generated images alike, the game's equilibrium: there it says nothing of what is "
            "normal, and a map made of it alone is chance. A critic that also sees spoilt images keeps something to say"
        )
    elif scaled and real.mean() > 1 - NASH and fake.mean() < NASH:
        says.append(
            "D tells every generated image: the generator has lost the game, and hears little of how to do better. "
            "Give it more rounds, or D a lower learning rate"
        )
    low, high = (float(np.quantile(torch.cat((real, fake)).numpy(), q)) for q in (0.001, 0.999))
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    curves = {
        what: (np.histogram(one.numpy(), edges)[0] / len(one)).tolist()
        for what, one in (("normal images", real), ("generated", fake))
    }
    centres = ((edges[1:] + edges[:-1]) / 2).tolist()
    marks = {"1/2": 0.5} if scaled else {}
    return Finding("Critic", figures, says, [Lines("Answers of the critic", centres, curves, name, marks)])


def dimension(model: Model, views: Sequence[View]) -> Finding | None:
    """Intrinsic dimension of the patches that one code stands for and of the codes, and how wide these should be."""
    scale = scale_of(model)
    codes = [view.code[0] for view in views if view.code is not None]
    apart = round((views[0].x[0, 0].numel() / len(codes[0])) ** 0.5 / scale) if codes else model.stride // scale
    side = int(getattr(model, "side", apart))
    rng = np.random.default_rng(0)
    patches = []
    for x in (shrink(view.x, scale) for view in views):
        if min(x.shape[-2:]) >= side:
            tops, lefts = (rng.integers(0, size - side + 1, -(-POINTS // len(views))) for size in x.shape[-2:])
            whole = x[0].float().cpu().numpy()
            patches += [whole[:, i : i + side, j : j + side].ravel() for i, j in zip(tops, lefts, strict=True)]
    if len(np.unique(patches, axis=0)) < 20:
        return None
    figures = {f"patch of {side} x {side} working px": float(len(patches[0])), **sizes("patches", np.array(patches))}
    says = [
        "noise fills all dimensions a little: of patches, take TwoNN as a bound from above where the image is noisy"
    ]
    if codes:
        every = torch.cat(codes).numpy()
        every = every[rng.permutation(len(every))[:POINTS]]
        width = every.shape[1]
        figures["numbers of a code"] = float(width)
        if len(np.unique(every, axis=0)) >= 20:
            figures |= sizes("codes", every)
            says.insert(0, advice(width, figures))
        else:
            says.insert(0, "all codes are nearly the same: the code tells nothing of the image")
    return Finding("Intrinsic dimension", figures, says)


def sizes(what: str, points: NDArray[np.floating]) -> dict[str, float]:
    return {
        f"{what}: principal components for {SHARE:.0%} of the variance": float(linear(points)),
        f"{what}: TwoNN": two_nn(points),
    }


def advice(width: int, figures: Mapping[str, float]) -> str:
    """On the width of the code."""
    needed, used = figures["patches: TwoNN"], figures[f"codes: principal components for {SHARE:.0%} of the variance"]
    if width < needed:
        return (
            f"a code of {width} is narrower than the patches' intrinsic dimension ({needed:.0f}): what it leaves out "
            f"is left out of every reconstruction; {needed:.0f} to {2 * needed:.0f} would not"
        )
    if used < width / 2:
        return f"codes fill {used:.0f} of their {width} dimensions: {max(used, needed):.0f} would do"
    return f"a code of {width} suits patches of intrinsic dimension {needed:.0f}; codes fill {used:.0f} of it"
