"""The shape of the package: imports point down only, vendor SDKs stay where they belong, importing does nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
LAYERS: tuple[tuple[str, ...], ...] = (
    ("lading", "lading.digest", "lading.errors", "lading.events", "lading.secret", "lading.settings_readers", "lading.units", "lading.uri"),
    ("lading.settings_rows",),
    ("lading.settings", "lading.settings_table"),
    ("lading.model", "lading.hardware.inventory", "lading.supervisor.state", "lading.demo"),
    ("lading.profiles",),
    ("lading.manifests", "lading.plan"),
    ("lading.hardware", "lading.sources", "lading.cache", "lading.backends"),
    ("lading.bundle", "lading.model_store", "lading.pace", "lading.parts", "lading.placing", "lading.store_plan", "lading.prefetch", "lading.pipeline", "lading.recall", "lading.transfer", "lading.uploading", "lading.mirror", "lading.workspace", "lading.inspection", "lading.supervisor", "lading.gateway"),
    ("lading.adapters", "lading.hosting"),
    ("lading.asked", "lading.calibrate", "lading.candidates", "lading.doctor", "lading.download", "lading.planning", "lading.resolve", "lading.runtime_manifest", "lading.serve", "lading.service", "lading.tuned"),
    ("lading.cli",),
)  # fmt: skip
"""Layers 0 to 5 of the design; layer 0 in three steps, since the table of settings stands on its rows; layer 1 in three,
since profiles stand on facts and the plan on both; of layer 3 what is built here stands on the rest."""

OWNERS = {
    "urllib3": "lading.sources",
    "pynvml": "lading.hardware.nvml",
    "starlette": "lading.gateway",
    "httptools": "lading.gateway",
    "rich": "lading.cli",
    "yaml": "lading.manifests",
    "blake3": "lading.digest",
    "botocore": "lading.sources.s3_credentials",
    "azure": "lading.sources.azure_credentials",
    "google": "lading.sources.gcs_credentials",
    "google_crc32c": "lading.digest",
    "cryptography": "lading.bundle.signing",
}
FORBIDDEN = {"torch", "vllm", "sglang", "transformers", "huggingface_hub", "requests", "httpx"}


def modules() -> dict[str, Path]:
    paths = sorted(SOURCE.rglob("*.py"))
    named = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items() if "shim" not in name}


MODULES = modules()


def layer_of(module: str) -> int:
    """The layer whose longest entry covers the module."""
    covering = [
        (len(entry), rank)
        for rank, layer in enumerate(LAYERS)
        for entry in layer
        if module == entry or (entry != "lading" and module.startswith(entry + "."))
    ]
    assert covering, f"{module} belongs to no layer: add it to LAYERS"
    return max(covering)[1]


def imports_of(module: str) -> set[str]:
    tree = ast.parse(MODULES[module].read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                for alias in node.names
            }
    return found


def folder_of(module: str) -> str:
    """The room a module lives in: the folder right below the package, with what it nests."""
    parent = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    return ".".join(parent.split(".")[:2])


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_or_stay_in_their_folder(module):
    for imported in imports_of(module):
        if not imported.startswith("lading"):
            continue
        same_folder = folder_of(module) == folder_of(imported) != "lading"
        beside = layer_of(imported) == layer_of(module) and folder_of(module) == folder_of(imported)
        assert same_folder or beside or layer_of(imported) < layer_of(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_vendor_libraries_are_imported_by_their_owner_alone(module):
    for imported in imports_of(module):
        top = imported.partition(".")[0]
        assert top not in FORBIDDEN, f"{module} imports {imported}"
        owner = OWNERS.get(top)
        assert owner is None or module == owner or module.startswith(owner + "."), f"{module} imports {imported}"


HEAVY = [
    "azure",
    "cryptography",
    "torch",
    "boto3",
    "botocore",
    "google",
    "huggingface_hub",
    "urllib3",
    "starlette",
    "uvicorn",
    "yaml",
    "rich",
    "pynvml",
    "asyncio",
    "ssl",
]


def test_help_imports_nothing_heavy():
    program = f"import sys; from lading.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def cpu_seconds(*arguments: str) -> float:
    """The least CPU time of some runs of Python with ``arguments``: what they cost, not what else the machine does."""
    program = (
        "import resource, subprocess, sys; "
        "subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-c", program, *arguments]
    runs = (subprocess.run(command, env=environ, capture_output=True, text=True, check=True) for _ in range(7))
    return min(float(run.stdout) for run in runs)


def test_help_is_quick():
    """Under 150 ms where a bare interpreter takes 12; told as a ratio, so that a loaded machine does not matter."""
    assert cpu_seconds("-m", "lading.cli", "--help") < 12 * cpu_seconds("-c", "pass")


@pytest.mark.parametrize(
    "module", ["lading.sources.http", "lading.gateway.server", "lading.serve", "lading.hardware.probe"]
)
def test_importing_opens_no_file_and_starts_no_thread(module, tmp_path):
    program = f"import os, threading; before = sorted(os.listdir('/proc/self/fd')); import {module}; assert threading.active_count() == 1; assert len(os.listdir('/proc/self/fd')) == len(before); assert os.listdir('.') == []"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_nothing_assigns_the_environment():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
                targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
                assert not any("os.environ" in ast.unparse(target) for target in targets), module


def test_only_the_shell_reads_the_environment():
    readers = {
        module for module, path in MODULES.items() if "os.environ" in path.read_text() or "getenv" in path.read_text()
    }
    assert readers <= {"lading.cli.main", "lading.settings"}
