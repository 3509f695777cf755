"""The notebooks run from top to bottom, offline, each in a kernel of its own, and end in a figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: Notebooks of about a minute: fewer prompts here, all of them among the slow tests. With still fewer no direction is selected in one model.
CUT = {
    "00_where_does_it_fail": {"LANGUAGES": ["qaa", "qab", "qah"], "LIMIT": 160},
    "05_repair_by_training": {"LANGUAGES": ["qaa", "qab", "qad", "qah"], "LIMIT": 30, "STEPS": 4},
}
RUNS = [
    *(pytest.param(path, CUT.get(path.stem, {}), id=path.stem) for path in NOTEBOOKS),
    *(pytest.param(path, {}, id=f"{path.stem}-whole", marks=pytest.mark.slow) for path in NOTEBOOKS if path.stem in CUT),
]


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
@pytest.mark.parametrize(("path", "parameters"), RUNS)
def test_a_notebook_runs_and_ends_in_a_figure(path, parameters, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::DeprecationWarning")
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = with_parameters(first.source, parameters)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.get("name") == "stderr"], [out["text"][:300] for out in outputs if out.get("name") == "stderr"]
    figure = notebook.cells[-1]["outputs"][-1]["data"]["application/vnd.plotly.v1+json"]
    assert any(len(trace.get("y", [])) for trace in figure["data"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("01_language_against_meaning", {"MODEL": "organism:base", "PROMPTS": "flores200:{}"}),
        ("02_before_and_after_alignment", {"PROMPTS": "{}/mine.csv", "LANGUAGES": ["qaa", "qah"], "TUNED": ["qaa"]}),
    ],
)
def test_a_notebook_runs_on_a_set_without_splits_and_on_one_without_harm_labels(name, parameters, tmp_path):
    import workbench as wb

    grid = wb.load_prompts("organism", limit=16)
    grid.frame[["language", "meaning_id", "text", "harmful"]].to_csv(tmp_path / "mine.csv", index=False)
    (tmp_path / "devtest").mkdir()
    for tag, file in (("qaa", "eng_Latn"), ("qah", "swh_Latn")):
        lines = grid.select(languages=[tag]).frame["text"]
        (tmp_path / "devtest" / f"{file}.devtest").write_text("\n".join(lines) + "\n", encoding="utf-8")
    filled = {parameter: value.format(tmp_path) if isinstance(value, str) else value for parameter, value in parameters.items()}
    exec(compile(with_parameters((FOLDER / f"{name}.py").read_text(encoding="utf-8"), filled), name, "exec"), {})


def with_parameters(source: str, parameters: dict[str, object]) -> str:
    """Give parameters other values, in the lines that set them."""
    for parameter, value in parameters.items():
        source, found = re.subn(rf"^{parameter} = .*$", lambda _, line=f"{parameter} = {value!r}": line, source, flags=re.MULTILINE)
        assert found == 1, parameter
    return source
