"""Options that several commands share: one name, one meaning, one text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer


def rows_of_bar(text: str) -> Literal["auto"] | int:
    """The value of --info-bar."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither `auto` nor a number of rows", param_hint="--info-bar")
    return int(text)


def height_and_width(text: str) -> tuple[int, int]:
    """The value of --size."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is no size such as 1024x704", param_hint="--size")
    return int(height), int(width)


InfoBar = Annotated[
    Any,
    typer.Option(
        parser=rows_of_bar, metavar="ROWS", help="Rows at the bottom that are no image; `auto` reads or finds them."
    ),
]
Bits = Annotated[int | None, typer.Option(help="Significant bits, such as 12 for a 12-bit detector in 16-bit files.")]
White = Annotated[float | None, typer.Option(help="Grey level of white; floating-point TIFFs need it.")]
Rescale = Annotated[bool, typer.Option(help="Resample images whose pixel size differs from the training images'.")]
Device = Annotated[str, typer.Option(help="`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one.")]
Class = Annotated[
    str | None,
    typer.Option("--class", metavar="NAME", help="Of a model trained on class folders: the class of all these images."),
]
Tile = Annotated[int, typer.Option(help="Side in pixels of the tiles that large images are cut into.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads of the network; default: as it finds best.")]
AddReviewed = Annotated[
    str | None,
    typer.Option(
        metavar="FILE_OR_URL",
        help="Results database of `score`; images that all who reviewed them call normal come along.",
    ),
]
