"""The users file: who may sign in to the dashboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anomalib_gan.records import access

# --- the commands ----------------------------------------------------------------------------------------------------

app = typer.Typer(no_args_is_help=True)
File = Annotated[Path, typer.Option("--users", metavar="FILE", help="The users file, as for `dashboard --users`.")]
Name = Annotated[str, typer.Argument(help="As it will stand in reviews and in the history of thresholds.")]


@app.callback()
def group() -> None:
    """Look after the file of users that the dashboard lets in: `add`, `remove`, `list`.

    An operator reviews images; an engineer also changes thresholds. The file holds no password, only a salted hash.
    """


@app.command("add")
def add(
    name: Name,
    users: File,
    role: Annotated[str, typer.Option(help=f"Role: {' or '.join(access.ROLES)}.")] = "operator",
) -> None:
    """Add a user, or give a known one a new password and role. The password is asked for, or read from a pipe."""
    asked = sys.stdin.isatty()
    password = (
        typer.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True)
        if asked
        else sys.stdin.readline().rstrip("\r\n")
    )
    user = access.add_user(users, name, password, role)  # type: ignore[arg-type]  # it says which roles there are
    print(f"{users}: {user.name}, {user.role}")


@app.command("remove")
def remove(name: Name, users: File) -> None:
    """Take a user out, who is signed out with the next click. Reviews and events keep the name."""
    access.remove_user(users, name)
    print(f"{users}: {name} is gone")


@app.command("list")
def show(users: File) -> None:
    """All users with their roles."""
    for user in access.users(users):
        print(f"{user.name}, {user.role}")
