"""The notebooks run from top to bottom, offline, each in a kernel of its own, and end in a figure."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_every_notebook_has_its_reviewed_script_and_no_stored_output():
    import jupytext
    import nbformat

    assert NOTEBOOKS
    assert {p.stem for p in NOTEBOOKS} == {p.stem for p in FOLDER.glob("*.py")}
    for path in NOTEBOOKS:
        notebook, script = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
        assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in script.cells], f"run: jupytext --sync {path}"
        assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.filterwarnings("default")  # of the Jupyter client itself; the kernel has warnings of its own, which fail below
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_ends_in_a_figure(path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::DeprecationWarning")
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.get("name") == "stderr"], [out["text"][:300] for out in outputs if out.get("name") == "stderr"]
    figure = notebook.cells[-1]["outputs"][-1]["data"]["application/vnd.plotly.v1+json"]
    assert any(len(trace.get("y", [])) for trace in figure["data"])
