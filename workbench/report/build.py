"""Build a run's figures and its one-file report from the run folder alone."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from workbench.report.drawing import write_whole
from workbench.report.facts import doubtful, dropped, facts, provenance
from workbench.report.language_table import MARGIN, language_rows, verdict
from workbench.report.limits import limits
from workbench.report.record import RunRecord
from workbench.report.repair import repair_of
from workbench.report.sections import diagnosis_sections


def build_report(run_folder: str | Path) -> Path:
    """Draw every figure of a run and write ``report.html``, one file that opens offline.

    Parameters
    ----------
    run_folder : path
        What ``diagnose`` or a repair by a gate wrote; a repair in the folder ``repair/`` of a diagnosis becomes a section of its page. Only
        ``manifest.json``, ``summary.json`` and ``results/*.parquet`` are read; a missing table of a diagnosis becomes a sentence that says so.

    Returns
    -------
    Path
        ``report.html`` in the run folder. Each figure is also a file of its own in ``figures/``. The same folder gives the same bytes.

    Raises
    ------
    DataError
        If the folder holds no run.
    """
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    from workbench.plots.style import TIER_COLOURS

    run = RunRecord.read(run_folder)
    write_whole(run.folder / "figures" / "plotly.min.js", get_plotlyjs())
    rows = [] if run.is_repair else language_rows(run)
    repair = repair_of(run)
    sections = [] if run.is_repair else diagnosis_sections(run)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("workbench.report").joinpath("template.html").read_text(encoding="utf-8"))
    page = template.render(
        run=run,
        facts=facts(run),
        rows=rows,
        verdict=[] if run.is_repair else verdict(run, rows),
        sections=[*sections, *([repair.section] if repair else [])],
        repair=repair,
        dropped=dropped(run),
        limits=limits(run),
        provenance=provenance(run),
        tier_colours=dict(TIER_COLOURS),
        doubtful=doubtful(run),
        margin=MARGIN,
        unfinished=run.find("manifest.status") != "finished",
        plotly_js=Markup(get_plotlyjs()),
    )
    path = run.folder / "report.html"
    write_whole(path, page)
    return path
