"""Imports that must never exist, read from the source itself; and the runtime without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [p for folder in ("anomalib_gan", "pipelines", "dashboard") for p in sorted((ROOT / folder).rglob("*.py"))]


def place(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that the file imports, at whatever depth, `from a import b` both as a and as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, *roots: str) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


A = "anomalib_gan"
RULES = [  # (who, may not import, except)
    ((f"{A}.runtime",), ("torch", "torchvision", A), (f"{A}.runtime", A)),
    ((f"{A}.records",), ("torch", "torchvision", f"{A}.models", f"{A}.training"), ()),
    (("dashboard",), ("torch", "torchvision", "pipelines", A), (f"{A}.runtime", f"{A}.records", A)),
    ((f"{A}.models",), (f"{A}.training", f"{A}.data", f"{A}.pairs", f"{A}.export", "pipelines"), ()),
    (
        tuple(
            f"{A}.{name}"
            for name in (
                *("objectives", "penalties", "likelihoods", "residuals", "corruption"),
                *("nets", "nets_patch", "nets_growing", "nets_translation", "nets_resolution", "nets_resnet"),
                *("replay", "diffusion", "nets_diffusion", "trunks"),
            )
        ),
        (f"{A}.models",),
        (),
    ),
    (tuple(f"{A}.{name}" for name in ("evidence", "patches", "sparse")), (f"{A}.models", f"{A}.training"), ()),
    ((f"{A}.training",), (f"{A}.models",), ()),
    ((A,), ("pipelines", "dashboard"), ()),
    ((f"{A}.runtime", "dashboard"), ("sklearn",), ()),
    (
        tuple(
            f"pipelines.{name}"
            for name in (
                *(
                    "accuracy",
                    "benchmark",
                    "calibrate",
                    "diagnose",
                    "evaluate",
                    "explore",
                    "exploring",
                    "export",
                    "inverting",
                ),
                *("latent", "load", "paint", "restoring", "score", "stacks", "train", "transferring", "translate"),
                *("types", "upscale"),
            )
        ),
        ("dashboard",),
        (),
    ),
    (
        tuple(
            f"{A}.{name}"
            for name in (
                *("evaluation", "evaluation_report", "labelled", "plots"),
                *("dimension", "fidelity", "findings", "diagnosis_page", "properties", "sheets"),
            )
        ),
        ("torch", "torchvision"),
        (),
    ),
]


@pytest.mark.parametrize("path", FILES, ids=place)
def test_forbidden_imports(path):
    me, found = place(path), imports(path)
    for who, banned, excepted in RULES:
        if within(me, *who):
            bad = {
                name
                for name in found
                if within(name, *banned) and not (within(name, *(e for e in excepted if e != A)) or name in excepted)
            }
            assert not bad, f"{me} imports {sorted(bad)}"
    owners = {
        "onnxruntime": (f"{A}.runtime.session", f"{A}.export"),
        "onnx": (f"{A}.runtime.graphs", f"{A}.export"),
        "sqlalchemy": (f"{A}.records",),
        "alembic": (f"{A}.records.migrations",),
        "matplotlib": (f"{A}.plots", f"{A}.diagnosis_page"),
        "rich": (f"{A}.terminal", "pipelines"),
        "typer": ("pipelines",),
        "streamlit": ("dashboard", "pipelines.dashboard", f"{A}.load", f"{A}.load_sessions"),
        "playwright": (),
        "websockets": (f"{A}.load", f"{A}.devtools"),
        "psutil": (f"{A}.load",),
    }
    for package, owner in owners.items():
        assert within(me, *owner) or not any(within(name, package) for name in found), f"{me} imports {package}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_optimisers_step_only_in_training_and_inversion(path):
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    allowed = {f"{A}.training": calls, f"{A}.inversion": calls, f"{A}.muon": {"step"}}  # its parent's
    assert not (calls & {"step", "backward"}) - allowed.get(place(path), set())


def test_a_model_imports_no_model_but_its_parent():
    models = {place(p) for p in FILES if p.parent.name == "models" and p.name != "__init__.py"}
    for path in (p for p in FILES if p.parent.name == "models" and p.name != "__init__.py"):
        assert len({other for other in models if other in imports(path)} - {place(path)}) <= 1


BAN = """
import sys, importlib
class Ban:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "sklearn", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Ban())
"""


def test_without_torch_runtime_records_and_the_command_line_work(tmp_path):
    program = f"""{BAN}
import pkgutil, anomalib_gan.runtime, anomalib_gan.records, dashboard
for package in (anomalib_gan.runtime, anomalib_gan.records, dashboard):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import pipelines.calibrate, pipelines.dashboard, pipelines.score, pipelines.types
from pipelines.cli import main
sys.argv[1:] = ["train", sys.argv[1], "--out", sys.argv[1] + "/run"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert "pip install 'anomalib_gan[train]'" in done.stderr


def test_without_torch_a_bundle_inspects_an_image():
    bundle, image = ROOT / "tests/frozen/v1.bundle", ROOT / "data_samples/test/dust/000.png"
    program = f"""{BAN}
from anomalib_gan.runtime import Inspector
found = Inspector.load(sys.argv[1], "cpu")(sys.argv[2])
print(found.verdict, found.map.shape)
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", program, str(bundle), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "reject (384, 512)\n", done.stderr
