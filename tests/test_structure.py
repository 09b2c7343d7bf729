"""The shape of the repository: who imports whom, and how long a file may be."""

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FORBIDDEN = {
    "data": {"jax", "flax", "torch", "timm", "sanorm_jax", "feature_extraction"},
    "sanorm_jax": {"torch", "timm", "feature_extraction"},
    "feature_extraction": {"jax", "flax", "sanorm_jax"},
}


def _imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_between_packages(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        wrong = _imports(path) & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_no_file_is_longer_than_400_lines():
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert tracked
    paths = [ROOT / name for name in tracked]
    lengths = {p.name: len(p.read_text().splitlines()) for p in paths if p.exists()}
    assert not {name: n for name, n in lengths.items() if n > 400}


def test_pages_link_to_what_there_is():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        missing = [link for link in links if not (page.parent / link).exists()]
        assert not missing, f"{page.relative_to(ROOT)} links to {missing}"
