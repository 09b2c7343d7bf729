"""Draw the dependencies between modules of the code from its imports.

    python scripts/architecture.py

The command writes a Mermaid graph to docs/architecture.md; a test compares the two. A
module is a package, or a file next to `main.py`. Dependencies that a longer path
implies are omitted.
"""

import ast
import collections
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "```mermaid\n", "```\n"
# Folders in the repository root, linked into `sanorm_jax` and imported from there.
TOP = ("data", "feature_extraction", "configs")
BANDS = {
    "commands": ("command_line", "main", "paper", "study"),
    "reports and figures": ("report", "drawing"),
    "training and inference": (
        "train",
        "evaluate",
        "segment",
        "published",
        "trained",
        "baselines",
    ),
    "run state and fault tolerance": ("run",),
    "method": ("tasks", "models", "metrics", "train_step", "optimizers"),
    "data": TOP,
    "shared utilities": ("core",),
}
MODULES = {name for band in BANDS.values() for name in band}


def _module(name: str) -> str:
    """Return the module of an import: `models` of `sanorm_jax.models.layers`."""
    first, *rest = name.split(".")
    return rest[0] if first == "sanorm_jax" and rest else first


def imports() -> dict[str, set[str]]:
    """Return the modules that each module imports, including inside functions."""
    found = collections.defaultdict(set)
    for folder in ("sanorm_jax", *TOP):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = _module(".".join(parts))
            if module in MODULES:
                found[module] |= _imported(path) & MODULES - {module}
    return {module: targets for module, targets in found.items() if targets}


def _imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        # Relative imports stay within `data` or `feature_extraction`.
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {_module(name) for name in names if name.startswith("sanorm_jax.")}


def reduced(dependencies: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the dependencies that no longer path implies, sorted."""

    def reaches(start, goal):
        targets = dependencies.get(start, ())
        return start == goal or any(reaches(target, goal) for target in targets)

    return sorted(
        (module, target)
        for module, targets in dependencies.items()
        for target in targets
        if not any(reaches(other, target) for other in targets - {target})
    )


def draw() -> str:
    """Return the graph as Mermaid."""
    lines = ["flowchart TD"]
    for number, (band, names) in enumerate(BANDS.items()):
        lines.append(f'  subgraph band_{number}["{band}"]')
        lines += [f"    {name}" for name in names]
        lines.append("  end")
    lines += [f"  {module} --> {target}" for module, target in reduced(imports())]
    return "\n".join(lines) + "\n"


def main():
    """Write the graph to the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + draw() + END + after)


if __name__ == "__main__":
    main()
