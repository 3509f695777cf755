"""Build a run's figures and its one-file report from the run folder alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from workbench.report.colours import dark_figures, tier_variables
from workbench.report.datafiles import data_files
from workbench.report.drawing import UNEXPECTED, write_whole
from workbench.report.facts import doubtful, dropped, facts, provenance
from workbench.report.hypotheses import COLUMNS, tested
from workbench.report.language_table import language_rows
from workbench.report.limits import limits
from workbench.report.method import method
from workbench.report.record import RunRecord
from workbench.report.repair import repair_of
from workbench.report.sections import diagnosis_sections
from workbench.report.training import training_of
from workbench.report.verdict_table import STAGE_SCORES, verdict_rows, verdict_sentences

log = logging.getLogger(__name__)


def build_report(run_folder: str | Path) -> Path:
    """Draw every figure of a run and write ``report.html``, one file that opens offline.

    Parameters
    ----------
    run_folder : path
        What ``diagnose`` or a repair wrote; a repair by a gate in the folder ``repair/`` of a diagnosis, and one by training in ``training/``,
        become sections of its page. Only ``manifest.json``, ``summary.json`` and ``results/*.parquet`` are read; a missing or damaged table becomes a
        sentence that says so.

    Returns
    -------
    Path
        ``report.html`` in the run folder. Each figure is also a file of its own in ``figures/``. The same folder gives the same bytes.

    Raises
    ------
    DataError
        If the folder holds no run.
    """
    from plotly.offline import get_plotlyjs

    run = RunRecord.read(run_folder)
    write_whole(run.folder / "figures" / "plotly.min.js", get_plotlyjs())
    page = rendered("template.html", **_content(run))
    path = run.folder / "report.html"
    write_whole(path, page)
    return path


def rendered(name: str, *, folder: Path | None = None, **content: Any) -> str:
    """Fill a template of this package, or of a folder of one's own; style, scripts and plotly are put into the page, everything else is escaped."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    files = resources.files("workbench.report")

    def template(one: str) -> str:
        own = None if folder is None else folder / one
        return (own if own is not None and own.is_file() else files.joinpath(one)).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(template),
    )
    style = jinja2.Template(files.joinpath("page.css").read_text(encoding="utf-8")).render(
        tier_light=tier_variables(), tier_dark=tier_variables(dark=True), dark_figures=dark_figures()
    )
    page_js = files.joinpath("page.js").read_text(encoding="utf-8")
    return environment.get_template(name).render(style=Markup(style), page_js=Markup(page_js), plotly_js=Markup(get_plotlyjs()), **content)


def _content(run: RunRecord) -> dict[str, Any]:
    """Gather what the page says; what a table edited by hand does not give is a gap that the page names."""
    problems = [f"Not read: {why}" for record in (run, run.repair, run.training) if record is not None for why in record.broken.values()]

    def told(what: str, make: Callable[[], list[Any]]) -> list[Any]:
        try:
            return make()
        except UNEXPECTED as error:  # a DataError is a ValueError
            log.warning("%s: %r", what, error)
            problems.append(
                f"Not told: {what}, since a table is not as this version writes it ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
            )
            return []

    verdicts = told("the verdicts", lambda: verdict_rows(run) if run.is_diagnosis else [])
    sections = told("the sections", lambda: diagnosis_sections(run) if run.is_diagnosis else [])
    repair = next(iter(told("the repair", lambda: [repair_of(run)])), None)
    training = next(iter(told("the repair by training", lambda: [training_of(run)])), None)
    repairs = {found.section.id: found for found in (repair, training) if found is not None}
    return {
        "run": run,
        "facts": told("the facts", lambda: facts(run)),
        "verdicts": verdicts,
        "verdict": told("the verdicts in words", lambda: verdict_sentences(run, verdicts) if run.is_diagnosis else []),
        "stage_names": list(STAGE_SCORES),
        "hypotheses": told("the hypotheses", lambda: tested(run) if run.is_diagnosis else []),
        "hypothesis_columns": COLUMNS,
        "rows": told("what was measured per language", lambda: language_rows(run) if run.is_diagnosis else []),
        "sections": [*sections, *(found.section for found in repairs.values())],
        "repairs": repairs,
        "lead": None if run.is_diagnosis else next(iter(repairs.values()), None),
        "dropped": told("what was left out", lambda: dropped(run)),
        "limits": told("the limits", lambda: limits(run)),
        "method": told("the method", lambda: method(run)),
        "provenance": provenance(run),
        "files": data_files(run),
        "tags": run.tiers,
        "doubtful": told("where the judge was validated", lambda: doubtful(run)),
        "unfinished": run.find("manifest.status") != "finished",
        "problems": problems,
    }
