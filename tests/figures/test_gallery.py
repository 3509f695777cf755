"""The gallery: every figure function is in it, its lines run, its page opens offline, and what is committed is what it says."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
from fake_repair import write_fake_repair
from fake_run import write_fake_run
from fake_training import fake_training
from finished_repairs import write_training

import workbench as wb
from workbench import plots
from workbench.results import Result

FOLDER = Path(__file__).parents[2] / "figures"
MOST_PAGE, MOST_PICTURES = 8_000_000, 3_000_000


@pytest.fixture(scope="module")
def gallery():
    """The modules of the folder, which is no package: ``contents`` and ``make``."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("contents"), importlib.import_module("make")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("contents", "make"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def entries(gallery):
    return [entry for group in gallery[0].GROUPS for entry in group.entries]


def write_repairs(run):
    """Write trainings beside the repair by a gate."""
    tables = fake_training()
    for method in ("lasa", "msd", "dpo"):
        folder = write_training(run / method, method)
        for name in ("interpreter", "interpreter_layers", "training_curve", "token_weights"):
            Result(tables[name]).save(folder / "results" / f"{name}.parquet")


@pytest.fixture(scope="module")
def page(gallery, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    run = write_fake_run(folder / "run", languages=8, layers=4, meanings=8)
    write_fake_repair(run / "repair")
    write_repairs(run)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    (run / "summary.json").write_text(json.dumps(summary | {"steering": {"strength": 1.0}}), encoding="utf-8")
    grid = wb.load_prompts("organism", languages=["qaa", "qab", "qad"], limit=24)
    wb.capture(wb.load_model("organism:aligned"), grid, layers=[0, 4], store=run / "activations" / "after.zarr", progress=False)
    make = gallery[1]
    make.write_page(run, make.draw(run), folder / "gallery.html")
    return (folder / "gallery.html").read_text(encoding="utf-8")


def test_every_figure_of_the_package_is_drawn_in_the_gallery(entries):
    figures = {name for name in plots.__all__ if inspect.isfunction(getattr(plots, name))}
    assert {name for entry in entries for name in re.findall(r"plots\.(\w+)\(", entry.line)} == figures


def test_every_entry_says_in_one_sentence_how_to_read_it(entries):
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert 40 < len(entry.read) < 400 and entry.read.endswith("."), entry.name


@pytest.mark.slow
def test_the_page_shows_every_figure_once_with_its_sentence_and_its_line(page, entries):
    from markupsafe import escape

    assert re.findall(r'<figure data-figure="(\w+)"', page) == [entry.name for entry in entries]
    for entry in entries:
        assert page.count(f'id="fig-{entry.name}"') == 1
        assert str(escape(entry.read)) in page and str(escape(entry.line)) in page


@pytest.mark.slow
def test_the_page_is_one_file_that_fetches_nothing(page):
    assert page.count("plotly.js v") == 1 and "default-src 'none'" in page
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page)
    assert len(page.encode()) < MOST_PAGE


def test_the_committed_pictures_and_their_page_are_those_of_the_gallery(gallery, entries):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\w+)\.png\)", text) == [entry.name for entry in entries]
    assert {path.stem for path in FOLDER.glob("*.png")} == {entry.name for entry in entries}
    assert sum(path.stat().st_size for path in FOLDER.glob("*.png")) < MOST_PICTURES
    places = [text.index(f"## {group.question}\n") for group in gallery[0].GROUPS]
    assert places == sorted(places)
    assert all(entry.read in text and entry.line in text for entry in entries)


def test_the_readme_shows_pictures_that_exist():
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(figures/(\w+\.png)\)", text)
    assert shown and all((FOLDER / name).is_file() for name in shown)


@pytest.mark.slow
def test_pictures_are_drawn_and_old_ones_removed(gallery, tmp_path):
    pytest.importorskip("kaleido", reason="pictures need the extra 'export'")
    from choreographer.browsers.chromium import Chromium

    if Chromium.find_browser(skip_local=False) is None:
        pytest.skip("pictures need a Chromium or Chrome")
    import plotly.graph_objects as go
    from PIL import Image

    (tmp_path / "old.png").write_bytes(b"")
    gallery[1].write_pictures({"one": go.Figure(go.Scatter(x=[1, 2], y=[1, 2]), layout_height=300)}, tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["one.png"]
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (1200, 450) and len(image.getcolors()) > 3
