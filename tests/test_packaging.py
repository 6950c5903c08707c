"""The wheel: built from a copy of the sources, it holds everything that the package reads."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "her2st"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel. Built elsewhere: a build leaves files beside its sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("molquery", "indexes", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    if not (source / "README.md").exists():
        (source / "README.md").write_text("molquery\n")
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
               "--no-build-isolation", "--wheel-dir", str(target), str(source)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


@pytest.mark.parametrize(
    "name",
    ["py.typed", "data/genes.tsv.gz", "data/GENES.md", "data/GENESETS.md", "data/signatures.gmt",
     "data/h.all.v7.0.symbols.gmt", "indexes/flat.toml", "indexes/ivf.toml", "indexes/README.md"],
)  # fmt: skip
def test_data_are_in_the_wheel(wheel: set[str], name: str) -> None:
    assert f"molquery/{name}" in wheel


def test_every_module_is_in_the_wheel(wheel: set[str]) -> None:
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "molquery").rglob("*.py")}
    assert len(modules) > 50
    assert modules <= wheel


def test_every_recipe_is_in_the_wheel(wheel: set[str]) -> None:
    recipes = {f"molquery/indexes/{p.name}" for p in (ROOT / "indexes").glob("*.toml")}
    assert recipes
    assert recipes <= wheel


def test_the_example_cohort_is_in_the_wheel(wheel: set[str]) -> None:
    files = [p for p in EXAMPLE.iterdir() if p.is_file()] if EXAMPLE.is_dir() else []
    data = {p.name for p in files if p.suffix not in (".py", ".pyc")}
    if not data:
        pytest.skip("the example cohort is not here")
    assert {f"molquery/examples/her2st/{name}" for name in data} <= wheel


def test_nothing_else_is_in_the_wheel(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"molquery"}
    strays = [n for n in wheel if n.split("/")[-1].startswith(("test_", "conftest"))]
    assert not [*strays, *(n for n in wheel if n.endswith(".pyc"))]
    assert any(n.endswith(".dist-info/entry_points.txt") for n in wheel)


def test_the_build_command_is_installed() -> None:
    done = subprocess.run([sys.executable, "-m", "build", "--version"], capture_output=True)
    assert done.returncode == 0
