"""Dashboard: inspect and explore in a browser; Streamlit runs it in this process, on this machine alone by default."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dashboard.access import is_loopback
from dashboard.settings import Settings, folder

UPLOAD_MB = 200
"""A larger image belongs into a folder of --images."""


def dashboard(
    *,
    db: str = "",
    models: Sequence[str | os.PathLike[str]] = (),
    images: Sequence[str | os.PathLike[str]] = (),
    cameras: Sequence[str] = ("0",),
    address: str = "127.0.0.1",
    port: int = 8501,
    users: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
) -> None:
    """Serves the dashboard until it is stopped, by Ctrl-C or SIGTERM.

    db: URL or file of the results; models: folders of bundles; images: folders that may be looked at; cameras: indices,
    or recordings; users: the file of `records.access`; runs: the folder of runs, where models are trained. ValueError
    for a folder or a file that is not there, and for an address beyond this machine without users.
    """
    known = Settings(
        db=db,
        models=tuple(folder(one, "--models") for one in models),
        images=tuple(folder(one, "--images") for one in images),
        cameras=tuple(_camera(one) for one in cameras),
        users="" if users is None else _users(users),
        runs="" if runs is None else folder(runs, "--runs"),
    )
    if not known.users and not is_loopback(address):
        raise ValueError(f"--address {address} is reachable from other machines: give --users FILE, too")
    from streamlit.runtime.pages_manager import PagesManager
    from streamlit.web import cli

    # Else whoever first asks for a page by its address gets the bare file in pages/: the app has not run yet.
    PagesManager.uses_pages_directory = False
    os.environ.update(known.to_environment())
    app = Path(__file__).parents[1] / "dashboard" / "app.py"
    options = {
        "server.address": address,
        "server.port": port,
        "server.headless": True,
        "server.maxUploadSize": UPLOAD_MB,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "type",
        "client.toolbarMode": "viewer",
        "theme.primaryColor": "#0072b2",  # Streamlit's red would look like a verdict
        "logger.hideWelcomeMessage": True,
    }
    if address not in ("0.0.0.0", "::"):
        options["browser.serverAddress"] = address  # else Streamlit asks others on the net for it
    print(f"dashboard on http://{f'[{address}]' if ':' in address else address}:{port}, Ctrl-C ends it", flush=True)
    given = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    cli.main(["run", str(app), *given], prog_name="streamlit", standalone_mode=False)


def _camera(source: str) -> str:
    if source.isdecimal():
        return str(int(source))
    if not Path(source).is_file():
        raise ValueError(f"--camera {source} is neither the index of a camera nor a recording that exists")
    return str(Path(source).resolve())


def _users(path: str | os.PathLike[str]) -> str:
    if not Path(path).is_file():
        raise ValueError(f"--users {path} is no file: add users first")
    return str(Path(path).resolve())


def command(
    db: Annotated[str, typer.Option(help="Results: a file of `score`, or the URL of a database.")] = "",
    models: Annotated[
        list[Path] | None, typer.Option(help="Folder of bundles, or a bundle; may be given several times.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder whose images may be looked at; may be given several times.")
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Index of a camera, or a recording; may be given several times.")
    ] = None,
    address: Annotated[str, typer.Option(help="Address to listen on; another than this machine's needs --users.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    users: Annotated[Path | None, typer.Option(help="File of users; whoever comes then has to sign in.")] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder of runs, where buttons train and explore models."),
    ] = None,
) -> None:
    """Inspect images and explore detectors in a browser.

    Nothing but the folders given here can be read, and dropped files never reach the disk. It listens on this machine
    alone; on another address it needs a file of users.
    """
    dashboard(
        db=db, models=models or (), images=images or (), cameras=camera or ("0",), address=address, port=port,
        users=users, runs=runs,
    )  # fmt: skip
