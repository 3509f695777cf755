"""Draw one figure of a run, save it as a file of its own, and hand its HTML to the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import DataError, writing
from workbench.report.filtering import tag_languages
from workbench.report.parts import Figure
from workbench.report.record import RunRecord

log = logging.getLogger(__name__)

_CONFIG = {"displaylogo": False, "responsive": True}
#: What a table that was edited by hand, or written by another version, makes the code that reads it raise.
UNEXPECTED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def unlike(what: str, error: Exception) -> str:
    """Say that a table is not as it was written."""
    told = " ".join(str(error).split())[:200]
    return f"results/{what}.parquet is not as this version writes it ({type(error).__name__}: {told}). Run the same command again into a new folder."


def figure(
    run: RunRecord,
    name: str,
    needs: str,
    draw: Callable[[pd.DataFrame], Any],
    caption: Callable[[RunRecord, pd.DataFrame], str],
    model: str | None = "after",
    *,
    into: Path | None = None,
) -> Figure:
    """Draw one figure, save it on its own in ``into`` (default the run's folder), and return it for the page; without its table, say so."""
    table = run.table(needs, model=model)
    if table is None:
        return Figure(name, missing=f"Not measured in this run: there is no table “{needs}”.")
    try:
        drawn, sentence = draw(table), caption(run, table)
    except DataError as error:
        log.warning("figure %s was not drawn: %s", name, error)
        return Figure(name, missing=f"Not drawn: {error}")
    except UNEXPECTED as error:
        log.warning("figure %s was not drawn: %r", name, error)
        return Figure(name, missing=f"Not drawn: {unlike(needs, error)}")
    html = plotted(drawn, name, list(run.tiers))
    _alone((into or run.folder) / "figures" / f"{name}.html", drawn.layout.title.text or name, html)
    return Figure(name, html, sentence)


def plotted(drawn: Any, name: str, languages: Sequence[str]) -> str:
    """Return a figure as markup for a page that has plotly's script, marked for the page's language filter."""
    from markupsafe import Markup

    tag_languages(drawn, languages)
    return Markup(drawn.to_html(full_html=False, include_plotlyjs=False, div_id=f"fig-{name}", auto_play=False, config=_CONFIG))


def _alone(path: Path, title: str, html: str) -> None:
    """Write a figure as a page of its own, with plotly's script beside it."""
    from html import escape

    head = f'<meta charset="utf-8"><title>{escape(title)}</title><script src="plotly.min.js"></script>'
    write_whole(path, f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{html}</body></html>\n')


def write_whole(path: Path, text: str) -> None:
    """Replace a file only once the new one is complete."""
    draft = path.with_name(path.name + ".draft")
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
