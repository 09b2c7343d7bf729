"""Draws the rooms of the code and the arrows between them, from its imports.

    python scripts/architecture.py

writes the picture into docs/architecture.md, as Mermaid; a test compares the two. A
room is a folder or a file beside `main.py`. An arrow that a longer way implies is left
out.
"""

import ast
import collections
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "```mermaid\n", "```\n"
# Folders at the top, linked into `sanorm_jax` and imported from there.
TOP = ("data", "feature_extraction", "configs")
BANDS = {
    "commands": ("command_line", "main", "paper", "study"),
    "what is shown": ("report", "drawing"),
    "a model at work": ("train", "evaluate", "segment", "trained", "baselines"),
    "the run and its safety": ("run",),
    "the method": ("tasks", "models", "metrics", "train_step", "optimizers"),
    "data": TOP,
    "ground": ("core",),
}
_LEFT_OUT = {"__init__"}


def room(module: str) -> str:
    """Return the room of a module, such as `models` of `sanorm_jax.models.layers`."""
    first, *rest = module.split(".")
    return rest[0] if first == "sanorm_jax" and rest else first


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports, also where that is done late."""
    found = collections.defaultdict(set)
    for folder in ("sanorm_jax", *TOP):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            here = room(".".join(parts))
            for name in _imported(path):
                there = room(name)
                if {here, there} & _LEFT_OUT or here == there:
                    continue
                found[here].add(there)
    return dict(found)


def _imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        # Relative imports stay within `data` or `feature_extraction`.
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.startswith("sanorm_jax.")}
    # `from sanorm_jax import __version__` is of no room.
    return {name for name in ours if room(name) in _rooms()}


def _rooms() -> set[str]:
    return {name for band in BANDS.values() for name in band}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return rooms that import each other in a ring, or none."""
    done = set()

    def walk(here, way):
        if here in way:
            return way[way.index(here) :]
        if here in done:
            return []
        for there in sorted(arrows.get(here, ())):
            if found := walk(there, [*way, here]):
                return found
        done.add(here)
        return []

    return next((ring for here in sorted(arrows) if (ring := walk(here, []))), [])


def reduced(arrows: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the arrows without those that a longer way implies, sorted."""

    def reaches(here, goal):
        return here == goal or any(
            reaches(there, goal) for there in arrows.get(here, ())
        )

    return sorted(
        (here, there)
        for here, theirs in arrows.items()
        for there in theirs
        if not any(reaches(other, there) for other in theirs - {there})
    )


def draw() -> str:
    """Return the picture as Mermaid."""
    lines = ["flowchart TD"]
    for number, (band, names) in enumerate(BANDS.items()):
        lines.append(f'  subgraph band_{number}["{band}"]')
        lines += [f"    {name}" for name in names]
        lines.append("  end")
    lines += [f"  {here} --> {there}" for here, there in reduced(imports())]
    return "\n".join(lines) + "\n"


def main():
    """Write the picture into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + draw() + END + after)


if __name__ == "__main__":
    main()
