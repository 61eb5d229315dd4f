"""The house: imports run one way, nothing heavy loads early, the package list is the tree."""

import ast
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "store": set(),
    "synthetic": {"store"},
    "featurize": {"store"},
    "heads": {"store"},
    "cli": {"store", "featurize", "heads", "synthetic"},
    "benchmarks": {"store", "featurize", "heads", "synthetic"},
}
HEAVY = ("torch", "timm", "faiss", "anndata", "polars", "matplotlib", "scanpy", "openslide", "numpy", "rich")


def imported_rooms(path):
    """Rooms of this package that a file imports from."""
    here = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                module = [*here[: len(here) - node.level], *module]
            elif module[0] == "tissuary":
                module = module[1:]
            else:
                continue
            names = [module[0]] if module else [alias.name for alias in node.names]
            yield from (name for name in names if name in ROOMS)
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            yield from (part[1] for part in parts if part[0] == "tissuary" and len(part) > 1 and part[1] in ROOMS)


def library_files():
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", library_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    wrong = set(imported_rooms(path)) - ROOMS[room] - {room}
    assert not wrong, f"{path.relative_to(ROOT)} imports from {wrong}"


def test_the_check_sees_a_wrong_import(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "bad.py"
    path.write_text("from ..heads.ridge import Ridge\nfrom .. import cli\nimport tissuary.featurize.sources.sample\n")
    assert sorted(imported_rooms(path)) == ["cli", "featurize", "heads"]


def test_package_list_is_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {"tissuary"} | {
        ".".join(("tissuary", *path.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)


def test_the_root_package_imports_nothing_until_it_is_asked():
    """pytest loads it a second time, under the name of the clone's folder."""
    body = ast.parse((ROOT / "__init__.py").read_text()).body
    relative = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.ImportFrom) and node.level]
    assert relative == []
    assert [node.module for node in body if isinstance(node, ast.ImportFrom)] == ["typing"]
    assert not [node for node in body if isinstance(node, ast.Import)]
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py"]
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_the_library_exists_once():
    import tissuary.cli.main  # noqa: F401

    rooms = tuple(str(ROOT / room) for room in ROOMS)
    twice = [
        name
        for name, module in list(sys.modules.items())
        if not name.startswith("tissuary.") and str(getattr(module, "__file__", "") or "").startswith(rooms)
    ]
    assert twice == []


def test_help_loads_nothing_heavy():
    code = f"import sys, tissuary.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert found.stdout.strip() == "[]"


def test_the_device_side_loads_without_what_a_bare_gpu_box_lacks():
    missing = ("faiss", "polars", "anndata", "openslide", "scanpy", "tifffile", "imagecodecs", "typer", "rich")
    code = (
        "import sys\n"
        f"for name in {missing!r}: sys.modules[name] = None\n"
        "import tissuary.store.store, tissuary.store.search.exact, tissuary.heads.networks.mmap.head\n"
        "import tissuary.heads.linear.ridge, tissuary.heads.baselines.knn, tissuary.heads.baselines.controls\n"
        "import tissuary.featurize.backbones.build\n"
        "import tissuary.heads.comparison.compare\n"
        "print('fine')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert found.stdout.strip() == "fine", found.stderr


def module_edges():
    """Module of the library -> modules of the library that it imports, anywhere in it."""
    found = {name_of(path): path for path in library_files()}
    edges = {}
    for name, path in found.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = {one for one in imported_modules(path, package.split("."), found) if one != name}
    return edges


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path, package, known):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        whole = ".".join(part for part in base if part)
        for alias in node.names:
            yield f"{whole}.{alias.name}" if f"{whole}.{alias.name}" in known else whole


def circle(edges):
    """Modules on a circle of imports: what is left when modules that import nothing more are taken away, in turn."""
    left = {name: set(targets) & edges.keys() for name, targets in edges.items()}
    while free := [name for name, targets in left.items() if not targets]:
        for name in free:
            del left[name]
        left = {name: targets & left.keys() for name, targets in left.items()}
    return sorted(left)


def test_no_module_imports_in_a_circle_not_even_inside_functions():
    doors = {"store", "featurize", "heads", "synthetic"}  # their names are imported when they are first used
    edges = {name: targets - doors for name, targets in module_edges().items() if name not in doors}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]
    assert circle(edges) == []


def test_a_folder_has_a_page_of_files():
    sizes = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in library_files()}}
    assert max(sizes.values()) > 10  # they were counted
    assert {f.name: n for f, n in sizes.items() if n > 15 and f.name not in ("cli", "benchmarks")} == {}


def test_no_class_name_stands_twice():
    places = defaultdict(list)
    for path in library_files():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name_of(path))
    assert len(places) > 300
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
