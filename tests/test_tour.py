"""`docs/tour.ipynb`: small, with pictures, and run to its end by name."""

import pathlib
import re

import nbclient
import nbformat
import pytest

PATH = pathlib.Path(__file__).parent.parent / "docs/tour.ipynb"


def _outputs(notebook) -> list:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in cells for output in cell.outputs]


def _pictures(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for output in _outputs(notebook))


def test_notebook_is_small_and_executed():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert PATH.stat().st_size < 300_000
    assert _pictures(notebook) == 3
    assert not any(output.output_type == "error" for output in _outputs(notebook))


def test_notebook_imports_work():
    notebook = nbformat.read(PATH, as_version=4)
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    lines = [line for line in code.splitlines() if re.match(r"(from|import) ", line)]
    assert any("sanorm_jax" in line for line in lines)
    exec("\n".join(lines), {})


@pytest.mark.long
def test_notebook_runs_in_an_empty_folder(tmp_path):
    notebook = nbformat.read(PATH, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = nbclient.NotebookClient(
        notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises at a cell that fails
    assert _pictures(notebook) == 3
