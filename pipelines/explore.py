"""What a trained generator is good for: a sub-command for each use."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True, help="See what a trained generator can do, measured: a sub-command for each use."
)


@app.callback()
def explore() -> None:
    """See what a trained generator can do, measured: a sub-command for each use."""
