"""What the codes of a run's generator are good for: the jobs of `explore sample | interpolate | arithmetic | traverse |
directions`. Each writes a sheet of pictures, its figures as JSON and a page of tables, and gives back the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalib_gan import explore
from anomalib_gan.explore import COMMON, SAMPLES, WAYS, Canvas, Entanglement, Pool, Values
from anomalib_gan.properties import PROPERTIES, table
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.sheets import Row, markdown
from pipelines.exploring import How, Place, exploring, written

MOVED = 32  # codes that go along a direction
FREE = 6  # random directions where nothing is controlled
SHOWN = 6  # channels, and samples, on a sheet
LEGEND = "Below each picture: thickness of the fibres in px, share of it that they cover, orientation, brightness.\n"


def summary(values: Values) -> dict[str, dict[str, float]]:
    """Mean and spread of each property over images, (n, properties)."""
    return {
        name: {"mean": float(column.mean()), "spread": float(column.std())}
        for name, column in zip(PROPERTIES, values.T, strict=True)
    }


def words(values: NDArray[np.float64]) -> str:
    """What is measured on one picture (properties,), in short."""
    found = dict(zip(PROPERTIES, values, strict=True))
    told = [f"{found['thickness']:.1f}", f"{found['density']:.0%}", f"{found['orientation']:+.1f}"]
    return " ".join((*told, f"{found['brightness']:.0%}"))


# --- samples and ways -------------------------------------------------------------------------------------------------


def sample(run: Place, how: How, *, count: int = 16, against: Place | None = None) -> str:
    """Draws `count` samples into OUT/samples and measures them, and the images of the folder `against`, if any."""
    with exploring(run, how, "sample") as (opened, begin):
        real = [] if against is None else [x[0].mean(0).cpu().numpy() for x in opened.pieces(against, how.size, True)]
        done, pictures = begin(count), []
        for number in range(count):
            drawn = explore.sampled(opened.model, *how.size)
            levels = np.clip(np.rint((drawn.transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8)
            png = cv2.imencode(".png", levels[..., ::-1])[1]  # OpenCV has colours in the other order
            write_bytes(Path(how.out) / "samples" / f"{number:03d}.png", png.tobytes())
            pictures.append(drawn.mean(0))
            done(1)
        values = {"samples": table(pictures), **({"images": table(real)} if real else {})}
        found = {who: summary(of) for who, of in values.items()}
        pairs = [(who, what) for who in found for what in ("mean", "spread")]
        text = (
            f"{' and '.join(f'{len(of)} {who}' for who, of in values.items())} of {how.size[1]}x{how.size[0]} px.\n\n"
            + markdown(
                ["property", *(f"{who}: {what}" for who, what in pairs)],
                [
                    [f"{name}, {unit}", *(found[who][name][what] for who, what in pairs)]
                    for name, unit in PROPERTIES.items()
                ],
            )
            + f"\n{LEGEND}"
        )
        rows = [Row("samples", pictures[:SHOWN], [words(one) for one in values["samples"][:SHOWN]])]
        if real:
            rows.append(Row("images", real[:SHOWN], [words(one) for one in values["images"][:SHOWN]]))
        return written(how, "sample", opened, rows, {"measured": found}, text)


def interpolate(run: Place, how: How, *, images: Sequence[Place] = (), count: int = 9, side: int = 5) -> str:
    """`count` codes on the straight and on the spherical way between two, and a grid of side x side between four:
    samples, or the codes of two or four images, of which the middle is taken.
    """
    if len(images) not in (0, 2, 4):
        raise ValueError(f"{len(images)} images have no way between them: give 2, or 4 for a grid, or none for samples")
    if min(count, side) < 2:
        raise ValueError("a way has two ends: give a --count and a --side of at least 2")
    with exploring(run, how) as (opened, begin):
        originals = [opened.image(Path(one), how.size) for one in images]
        if len({x.shape for x in originals}) > 1:
            raise ValueError("the images give pieces of unequal size: give a --size that all of them have")
        if originals:
            how = replace(how, size=(originals[0].shape[2], originals[0].shape[3]))
        canvas = Canvas(opened.model, *how.size)
        canvas.tell = begin(len(WAYS) * count + (len(images) != 2) * side**2)
        z = torch.cat([explore.encoded(opened.model, x) for x in originals]) if images else canvas.draw(4)
        rows = [Row("images", [x[0].mean(0).cpu().numpy() for x in originals])] if images else []
        found: dict[str, dict[str, list[float]]] = {}
        shares = [f"{i / (count - 1):.3g}" for i in range(count)]
        for name, way in WAYS.items():
            codes = explore.chain(z[:1], z[1:2], count, way)
            pictures = canvas.pictures(codes)
            found[name] = {
                "length": codes.norm(dim=1).mean((1, 2)).tolist(),
                "contrast": pictures.std((1, 2)).tolist(),
                "change": [0.0, *np.sqrt(np.square(np.diff(pictures, axis=0)).mean((1, 2))).tolist()],
            }
            rows.append(Row(f"{name} way", list(pictures), shares))
        if len(z) == 4:
            grid = canvas.pictures(explore.corners(z, side)).reshape(side, side, *canvas.size)
            rows += [Row("" if i else "four corners, spherical", list(one)) for i, one in enumerate(grid)]
        pairs = [(name, what) for name in found for what in found[name]]
        text = (
            "From one code to another: mean length of a place's code, standard deviation of the grey levels in half "
            "ranges, and root mean square change since the picture before.\n\n"
            + markdown(
                ["t", *(f"{name}: {what}" for name, what in pairs)],
                [[share, *(found[name][what][i] for name, what in pairs)] for i, share in enumerate(shares)],
            )
        )
        told = {"images": [str(one) for one in images], "ways": found}
        return written(how, "interpolation", opened, rows, told, text)


# --- sums -------------------------------------------------------------------------------------------------------------


def named(pool: Pool, what: str) -> Tensor | None:
    """The codes of "all" samples, of "PROPERTY:high" or of "PROPERTY:low"; None for another word."""
    name, _, end = what.partition(":")
    if what == "all":
        return pool.z
    return pool.end(name, end == "high") if name in PROPERTIES and end in ("high", "low") else None


def arithmetic(
    run: Place, how: How, *, a: str, b: str, c: str, jitter: float | None = None, count: int = 5, samples: int = SAMPLES
) -> str:
    """mean of A - mean of B + mean of C, each "all", "PROPERTY:high", "PROPERTY:low" or a folder of images.

    `jitter`: how much of the prior is added to a mean code at every place; a code that is the same everywhere would be
    drawn as a pattern that repeats itself. By default as much as the samples have beside what is common to them.
    """
    jitter = (1 - COMMON) ** 0.5 if jitter is None else jitter
    with exploring(run, how) as (opened, begin):
        canvas = Canvas(opened.model, *how.size)
        number = max(count, MOVED)
        canvas.tell = begin(samples + 4 * number)
        pool, sets = Pool.of(canvas, samples), {}
        for letter, what in zip("ABC", (a, b, c), strict=True):
            codes = named(pool, what)
            if codes is None and not Path(what).is_dir():
                raise ValueError(
                    f"{what!r} is no set: give all, PROPERTY:high or PROPERTY:low with one of {', '.join(PROPERTIES)}, "
                    "or a folder of images"
                )
            sets[f"{letter}: {what}"] = opened.codes(what, how.size) if codes is None else codes
        vectors = {name: explore.mean_code(z).mean(0) for name, z in sets.items()}
        vectors["A - B + C"] = explore.arithmetic(*sets.values())
        rows, means = [], []
        for name, vector in vectors.items():
            with explore.seeded(how.seed + 1):  # one jitter for all, so that they differ by their means alone
                pictures = canvas.pictures(canvas.around(vector, number, jitter))
            values = table(pictures)
            means.append(values.mean(0))
            rows.append(Row(name, list(pictures[:count]), [words(one) for one in values[:count]]))
        first, second, third, whole = means
        wanted, moved = (first - second) / pool.spread, (whole - third) / pool.spread
        text = (
            f"Means over {number} pictures around each mean code, with a jitter of {jitter:.3g}. At the right, in "
            f"units of the property's spread over {samples} samples: how far A is from B, and how far C was moved.\n\n"
            + markdown(
                ["property", *vectors, "A from B", "A - B + C from C"],
                [
                    [f"{name}, {unit}", *(float(one[j]) for one in (*means, wanted, moved))]
                    for j, (name, unit) in enumerate(PROPERTIES.items())
                ],
            )
            + f"\n{LEGEND}"
        )
        measured = {
            name: dict(zip(PROPERTIES, one.tolist(), strict=True)) for name, one in zip(vectors, means, strict=True)
        }
        told = {"jitter": jitter, "measured": measured, "wanted": wanted.tolist(), "moved": moved.tolist()}
        return written(how, "arithmetic", opened, rows, told, text)


# --- single channels --------------------------------------------------------------------------------------------------


def traverse(run: Place, how: How, *, channels: Sequence[int] = (), reach: float = 2.5, count: int = 7) -> str:
    """One channel of the code at `count` values from -reach to reach at all places, the others kept; without `channels`
    those that move the image most.
    """
    with exploring(run, how) as (opened, begin):
        canvas, few = Canvas(opened.model, *how.size), 4
        number = len(channels) or min(SHOWN, canvas.code)
        search = 0 if channels else few * (1 + 2 * canvas.code)
        canvas.tell = begin(SAMPLES + search + MOVED * (1 + 2 * number) + number * count)
        pool = Pool.of(canvas, SAMPLES)
        z, each = pool.z[:MOVED], torch.eye(canvas.code, device=canvas.device)
        if not channels:
            change = explore.entanglement(canvas, z[:few], each, table, pool.spread).change
            channels = [int(i) for i in np.argsort(-change, kind="stable")[:number]]
        steps = np.linspace(-reach, reach, count).tolist()
        ways = [explore.traversed(z[:1], channel, steps) for channel in channels]
        moved = explore.entanglement(canvas, z, each[list(channels)], table, pool.spread)
        rows = [
            Row(f"channel {channel}", list(canvas.pictures(way)), [f"{step:+.2g}" for step in steps])
            for channel, way in zip(channels, ways, strict=True)
        ]
        text = (
            f"What a step of 1 in a channel, at all places, does to {MOVED} pictures: properties in units of their "
            f"spread over {SAMPLES} samples, with standard errors; the image in units of its contrast.\n\n"
            + markdown(
                ["channel", *PROPERTIES, "image"], [[i, *line] for i, line in zip(channels, cells(moved), strict=True)]
            )
        )
        told = {"channels": list(channels), "steps": steps, **plain(moved)}
        return written(how, "traversal", opened, rows, told, text)


def cells(moved: Entanglement) -> list[list[object]]:
    """Rows of a table: slopes with their errors, and the change of the image."""
    return [
        [*(f"{s:+.2f} ± {e:.2f}" for s, e in zip(slope, error, strict=True)), f"{change:.2f}"]
        for slope, error, change in zip(moved.slope, moved.error, moved.change, strict=True)
    ]


def plain(moved: Entanglement) -> dict[str, Any]:
    return {"slope": moved.slope.tolist(), "error": moved.error.tolist(), "change": moved.change.tolist()}


# --- directions -------------------------------------------------------------------------------------------------------


def directions(
    run: Place,
    how: How,
    *,
    properties: Sequence[str] = (),
    having: Place | None = None,
    lacking: Place | None = None,
    samples: int = SAMPLES,
    reach: float = 2.0,
    count: int = 5,
) -> str:
    """A direction for each property, how far each moves the others as well, and the same at right angles to the others.

    `properties`: those that the sheet shows, from -reach to reach; by default all. `having` and `lacking`: folders of
    images with and without something, whose codes give one more direction, by regression on that label. Pieces of one
    image are alike, so what it tells of pieces that it was not fitted to flatters where images are few.
    """
    if unknown := [name for name in properties if name not in PROPERTIES]:
        raise ValueError(f"no property is called {unknown[0]!r}: choose from {', '.join(PROPERTIES)}")
    if (having is None) != (lacking is None):
        raise ValueError("one folder alone tells nothing apart: give both --having and --lacking")
    names, measured = list(PROPERTIES), len(PROPERTIES)
    shown = [names.index(name) for name in properties] or range(measured)
    with exploring(run, how) as (opened, begin):
        canvas, label = Canvas(opened.model, *how.size), having is not None
        canvas.tell = begin(samples + MOVED * (4 + 2 * (3 * measured + 2 * label + FREE)) + 2 * len(shown) * count)
        pool = Pool.of(canvas, samples)
        means = explore.mean_code(pool.z)
        apart = torch.stack([explore.difference(pool.end(name, True), pool.end(name, False)) for name in names])
        found, told = pool.directions()
        if having is not None and lacking is not None:
            names.append(Path(having).name)
            codes = [explore.mean_code(opened.codes(folder, how.size)) for folder in (having, lacking)]
            truth = np.repeat([1.0, -1.0], [len(one) for one in codes])[:, None]
            vector, share = explore.regressed(torch.cat(codes), truth, names[-1:])
            found, told = torch.cat((found, vector)), [*told, *share]
        still = torch.eye(canvas.code).to(found)[means.std(0) == 0]  # what no sample varies, such as a class
        sets = {
            "difference": apart,
            "regression": found,
            "orthogonal": explore.orthogonalised(found),
            "free": explore.free(torch.cat((found, still)), FREE),
        }
        z = canvas.draw(MOVED, COMMON)  # others than the directions were found with
        moved = {
            kind: explore.entanglement(canvas, z, some, table, pool.spread) for kind, some in sets.items() if len(some)
        }
        own = (found * sets["orthogonal"]).sum(1).tolist()
        rows = []
        for i in shown:
            for kind in ("regression", "orthogonal"):
                steps = torch.linspace(-reach, reach, count).to(z)[:, None, None, None]
                pictures = canvas.pictures(z[:1] + steps * sets[kind][i][:, None, None])
                rows.append(Row(f"{names[i]}, {kind}", list(pictures), [words(one) for one in table(pictures)]))
        result = {
            "properties": list(PROPERTIES),
            "spread": pool.spread.tolist(),
            "told": dict(zip(names, told, strict=True)),
            "vectors": {
                kind: dict(zip(names, sets[kind].tolist(), strict=True)) for kind in ("regression", "orthogonal")
            },
            "own": dict(zip(names, own, strict=True)),
            "moved": {kind: plain(one) for kind, one in moved.items()},
        }
        return written(how, "directions", opened, rows, result, page(names, told, own, pool, found, moved, len(still)))


def page(
    names: Sequence[str],
    told: Sequence[float],
    own: Sequence[float],
    pool: Pool,
    found: Tensor,
    moved: Mapping[str, Entanglement],
    still: int,
) -> str:
    """The tables of `directions`; `still`: numbers of the code that no sample varies."""
    kinds = ("difference", "regression", "orthogonal")
    leaks = {kind: moved[kind].leak() for kind in kinds}
    entangled: list[list[object]] = [
        [name, kind, *cells(moved[kind])[i], f"{leaks[kind][i]:.0%}" if i < len(PROPERTIES) else ""]
        for i, name in enumerate(names)
        for kind in kinds
        if i < len(moved[kind].slope)
    ]
    entangled += [["mean", kind, *[""] * (len(PROPERTIES) + 1), f"{leaks[kind].mean():.0%}"] for kind in kinds]
    means, spread = pool.values.mean(0), pool.spread
    heads = [
        [name, unit, float(means[i]), float(spread[i]), float(told[i])]
        for i, (name, unit) in enumerate(PROPERTIES.items())
    ] + [[name, "label", "", "", share] for name, share in zip(names, told, strict=True)][len(PROPERTIES) :]
    cosines = [
        [name, *(f"{cosine:+.2f}" for cosine in row), f"{rest:.2f}"]
        for name, row, rest in zip(names, (found @ found.T).tolist(), own, strict=True)
    ]
    code = found.shape[1] - still
    controlled = [
        [kind, float(one.change.mean()), float(np.sqrt(np.square(one.slope).mean()))]
        for kind, one in moved.items()
        if kind != "difference"
    ]
    return (
        f"Properties of {len(pool.z)} samples, and the share of their variance that a regression on mean codes "
        "tells of samples it was not fitted to.\n\n"
        + markdown(["property", "unit", "mean", "spread", "R^2"], heads)
        + f"\nWhat a step of 1 along each direction does to {MOVED} pictures: properties in units of their spread, "
        "with standard errors; the image in units of its contrast; leak, the share of all movement that is not the "
        "wanted property's.\n\n"
        + markdown(["direction", "found by", *PROPERTIES, "image", "leak"], entangled)
        + "\nCosines of the directions found by regression; own, the length of what is left of each at right angles to "
        "the others. Where it is near 0 the generator knows properties by one direction, and what is left is noise.\n\n"
        + markdown(["", *names, "own"], cosines)
        + f"\nz has {code} numbers, {len(found)} directions control as many, {max(0, code - len(found))} are left "
        "free. A step of 1, on average over the directions of a kind: change of the image, and root mean square change "
        "of the properties.\n\n" + markdown(["moved along", "image", "properties"], controlled) + f"\n{LEGEND}"
    )
