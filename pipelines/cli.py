"""The command `anomalib-gan`: every pipeline is one of its commands, imported when it is called and not before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer
from rich.console import Console

from anomalib_gan import __version__

HELP = """Learn what a material's normal images look like; show where a new image is not normal.

The usual way, from a folder of normal images to a report:

1. `anomalib-gan train NORMAL_DIR --out runs/x`

2. `anomalib-gan calibrate runs/x --good GOOD_DIR`

3. `anomalib-gan score runs/x NEW_DIR --out results/`

With labelled defects, `anomalib-gan evaluate runs/x DATASET_DIR` measures how good the maps are."""

COMMANDS = {
    "models": "List the models that can be trained.",
    "train": "Train a detector on a folder of normal images.",
    "calibrate": "Set the thresholds of a run from normal images, at a wanted rate of false alarms.",
    "score": "Score a folder of images: maps, verdicts, defects, a report.",
    "evaluate": "Measure a run on a labelled dataset in MVTec layout.",
    "paint": "Paint defects on normal images, by a mask_gan: a labelled data set.",
    "stacks": "Calibrate, score and evaluate a model of volumes, on stacks of slices.",
    "diagnose": "Tell what a run is beyond its maps: its codes, its critic, what it draws.",
    "explore": "See what a trained generator can do: samples, directions, restoration, features.",
    "translate": "Apply a trained translator to a folder of images.",
    "upscale": "Enlarge images by a model that has learnt to restore what smaller ones lack.",
    "records": "Export, prune and back up the results database; compare and activate models.",
    "export": "Write a trained model as a bundle that runs without torch.",
    "types": "Teach a bundle to name kinds of defects, from reviews.",
    "dashboard": "Inspect images and explore detectors in a browser.",
    "users": "Say who may sign in to the dashboard.",
    "benchmark": "Measure accuracy, speed, what a run generates, and its maps without a real defect.",
}
EXTRAS = dict.fromkeys(("torch", "torchvision", "sklearn", "matplotlib", "onnxscript"), "train")
EXTRAS |= {"streamlit": "dashboard", "websockets": "dashboard", "playwright": "dev", "psutil": "dev"}


def version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def root(
    show: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Print the version and end."),
) -> None:
    """Options that stand before the command."""


def unloaded() -> None:
    """Stands in the list of commands for one that was not called."""


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application with the one command that `arguments` call; the others only with their line of help."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        help=HELP,
    )
    app.callback()(root)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, line in COMMANDS.items():
        if name != called:
            app.command(name, help=line)(unloaded)
        elif hasattr(module := import_module(f"pipelines.{name}"), "app"):  # it has sub-commands
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def main() -> None:
    """Runs the command line; known errors become one plain line on stderr and exit code 2."""
    try:
        build(sys.argv[1:])(prog_name="anomalib-gan")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        tell(f"this command needs {package}, which is not installed: pip install 'anomalib_gan[{EXTRAS[package]}]'")
    except MemoryError as error:
        tell(f"not enough memory: {error}" if str(error) else "not enough memory")
    except (ValueError, OSError, FloatingPointError) as error:
        tell(str(error))


def tell(problem: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {problem}", markup=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
