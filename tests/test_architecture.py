"""The house rules, read from the imports: layers point one way, heavy libraries have one door."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import molquery

ROOT = Path(molquery.__file__).parent

#: Upper layers may import lower ones (and their own), never the other way round.
LAYERS = (
    {"cli"},
    {"api", "demo", "doctor", "report"},
    {"query", "align", "export", "ingest", "stratify", "associate", "outcomes", "figures", "pages",
     "overview", "cluster", "synth", "history", "backup", "environment"},
    {"evaluate", "predict", "reference", "space", "index", "recipes", "genesets", "readers",
     "genes", "database", "resume", "rna", "metadata"},
    {"records", "vectors", "texts", "schema", "errors", "files", "barcodes", "encoders", "threads",
     "data", "scales", "keys", "filters", "processes", "images", "sparse", "arrow", "progress"},
)  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

#: library -> the only modules (or packages) that may import it.
DOORS = {
    "click": ("cli",),
    "rich": ("cli",),
    "rich_click": ("cli",),
    "faiss": ("index",),
    "lance": ("database",),
    "lancedb": ("database",),
    "torch": ("align",),
    "matplotlib": ("figures",),
    "obstore": ("database",),
    "ray": ("cluster",),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """The full names that a file imports, wherever in the file the import stands."""
    tree = ast.parse(path.read_text("utf-8"))
    hidden: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden and not typing_too:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base


def own_imports(path: Path, *, typing_too: bool = True) -> set[str]:
    found = {name for name in imports(path, typing_too=typing_too) if name in MODULES}
    return found - {"molquery", name_of(path)}


def top(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_layer() -> None:
    unknown = {top(name) for name in MODULES if "." in name} - set(LEVEL)
    assert not unknown, f"give these modules a layer in LAYERS: {sorted(unknown)}"


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_imports_point_down(module: str) -> None:
    level = LEVEL.get(top(module), 0)
    upward = [o for o in own_imports(MODULES[module]) if LEVEL.get(top(o), level) < level]
    assert not upward, f"{module} imports {upward}, which are above it"


def test_there_are_no_cycles() -> None:
    graph = {name: own_imports(path, typing_too=False) for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > len(graph), "the import graph was not read"
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}")
    assert len(order) == len(MODULES)


def test_packages_do_not_import_each_other_in_circles() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if "." in name:
            graph.setdefault(top(name), set()).update(top(o) for o in own_imports(path))
    for name, others in graph.items():
        others.discard(name)
    try:
        assert set(TopologicalSorter(graph).static_order()) == set(graph)
    except CycleError as error:
        pytest.fail(f"packages import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("library", sorted(DOORS))
def test_libraries_have_one_door(library: str) -> None:
    users = {
        name
        for name, path in MODULES.items()
        if any(i == library or i.startswith(library + ".") for i in imports(path))
    }
    strangers = {name for name in users if "." not in name or top(name) not in DOORS[library]}
    assert not strangers, f"{library} is imported by {sorted(strangers)}"


def test_faiss_is_reached_through_one_file() -> None:
    users = [n for n, p in MODULES.items() if any(i.split(".")[0] == "faiss" for i in imports(p))]
    assert users == ["molquery.index.library"]


def test_no_library_code_prints_or_exits() -> None:
    guilty = []
    for name, path in MODULES.items():
        if name.startswith("molquery.cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit"):
                guilty.append(f"{name}:{node.lineno}")
    assert not guilty, f"only the command line prints or exits: {guilty}"


def test_public_names_are_sorted_and_exist() -> None:
    checked = 0
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed = ast.literal_eval(node.value)
                module = importlib.import_module(name)
                assert len(set(listed)) == len(listed)
                assert all(hasattr(module, n) for n in listed), name
                # Constants, then classes, then functions: the order of ruff's RUF022.
                order = sorted(listed, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
                assert listed == order, name
                checked += 1
    assert checked, "no module has an __all__"


def modules_after(*arguments: object) -> set[str]:
    """Top-level modules that a fresh process has loaded after running a command."""
    program = (
        "import json, os, sys\n"
        "from molquery.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "os.write(2, b'\\n' + json.dumps(sorted(sys.modules)).encode())"
    )
    words = [sys.executable, "-c", program, *(str(a) for a in arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


def test_help_is_light() -> None:
    loaded = modules_after("--help")
    heavy = {"torch", "matplotlib", "lancedb", "lance", "pyarrow", "numpy", "pandas", "faiss",
             "polars", "scipy"}  # fmt: skip
    assert "click" in loaded
    assert sorted(loaded & heavy) == []


def test_search_imports_neither_torch_nor_lancedb(aligned: Path) -> None:
    loaded = modules_after("--db", aligned, "search", "--geneset", "HALLMARK_HYPOXIA", "-k", 3)
    assert {"numpy", "pyarrow"} <= loaded, "the search did not run"
    heavy = {"torch", "matplotlib", "lancedb", "lance", "anndata", "pandas", "polars", "sklearn",
             "rich"}  # fmt: skip
    assert sorted(loaded & heavy) == []
