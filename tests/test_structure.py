"""The dependencies between packages, and links between pages."""

import ast
import graphlib
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FORBIDDEN = {
    "sanorm_jax/core": {
        "jax",
        "flax",
        "torch",
        "timm",
        "data",
        "feature_extraction",
        "sanorm_jax",
    },
    "data": {"jax", "flax", "torch", "timm", "sanorm_jax", "feature_extraction"},
    "sanorm_jax": {"torch", "timm", "feature_extraction"},
    "feature_extraction": {"jax", "flax", "sanorm_jax"},
}


# Packages that the rules tell apart from the rest of `sanorm_jax`.
WITHIN = {"core", "data", "configs", "feature_extraction"}


def _imports(path: pathlib.Path) -> set[str]:
    """Return the packages that a file imports; of `sanorm_jax.data`, `data`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {_package(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported = (f"{node.module}.{alias.name}" for alias in node.names)
            names |= {_package(name) for name in imported}
    return names


def _package(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "sanorm_jax" and rest and rest[0] in WITHIN else first


def test_packages_are_distinguished(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import sanorm_jax.data.store\nfrom sanorm_jax import configs, tasks\n"
        "from . import other\nfrom torch.nn import functional\n"
    )
    assert _imports(path) == {"data", "configs", "sanorm_jax", "torch"}


LINKED = ("configs", "data", "feature_extraction")


def test_the_folders_at_the_top_are_linked_into_the_package():
    for name in LINKED:
        assert (ROOT / "sanorm_jax" / name).readlink() == pathlib.Path("..", name)


def test_no_module_has_two_names():
    # `data.store` would be a second module beside `sanorm_jax.data.store`.
    for folder in ("sanorm_jax", "benchmarks", "scripts", "tests", *LINKED):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                else:
                    continue
                short = {name.split(".")[0] for name in names} & set(LINKED)
                assert not short, f"{path}: import sanorm_jax.{short.pop()} instead"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_they_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = _imports(path) & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.fixture
def architecture(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("architecture")


def test_architecture_graph_matches_the_imports(architecture):
    assert architecture.BEGIN + architecture.draw() in architecture.PAGE.read_text()


def test_every_module_is_in_the_graph(architecture):
    inner = {path.stem for path in (ROOT / "sanorm_jax").glob("[a-z]*")}
    inner -= {"py"}
    assert inner | set(architecture.TOP) == architecture.MODULES


def test_dependencies_are_acyclic(architecture):
    arrows = architecture.imports()
    assert {"study", "train"} <= arrows.keys()
    graphlib.TopologicalSorter(arrows).prepare()  # raises for a cycle


def test_links_in_pages_resolve():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        missing = [link for link in links if not (page.parent / link).exists()]
        assert not missing, f"{page.relative_to(ROOT)} links to {missing}"
