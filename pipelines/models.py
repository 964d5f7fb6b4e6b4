"""Models: the zoo, one line each, as the models themselves tell it."""

from __future__ import annotations

from anomalib_gan.models import MODELS, build


def zoo() -> list[dict[str, str]]:
    """Of every model its name, "density", "players", "exportable" (yes or no), what it is, and its paper."""
    found = []
    for name, kind in MODELS.items():
        model, about = build(name), kind.about
        found.append(
            {
                "model": name,
                "density": about.density,
                "players": ", ".join(model.players()) or "closed form",
                "exportable": "yes" if model.exportable is True else "no",
                "what it is": about.line,
                "paper": about.paper,
            }
        )
    return found


def command() -> None:
    """List the models that `train --model` takes: density, players, whether `export` takes them, the idea, the paper.

    Density is what a model knows of how likely a normal image is: explicit (it computes it), bound (a bound on it),
    implicit (it can only draw images), none. A model without a game has no players: it is fitted in closed form. The
    keywords of each, for `--param`, are explained in its file in anomalib_gan/models.
    """
    rows = zoo()
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    for row in ({key: key for key in widths}, *rows):
        print("  ".join(f"{text:<{widths[key]}}" for key, text in row.items()).rstrip())
