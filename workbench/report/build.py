"""Build a run's figures and its one-file report from the run folder alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import DataError, writing
from workbench.report import captions, geometry_captions, steering_captions
from workbench.report.language_table import MARGIN, language_rows, verdict
from workbench.report.limits import limits
from workbench.report.record import RunRecord
from workbench.report.wording import compact, estimate, number

log = logging.getLogger(__name__)

_CONFIG = {"displaylogo": False, "responsive": True}


@dataclass(frozen=True)
class Figure:
    """A drawn figure, or the reason why there is none."""

    name: str
    html: str = ""
    caption: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Table:
    """A small table below the figures of a section."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One stage of the diagnosis, or the geometry."""

    id: str
    title: str
    question: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def build_report(run_folder: str | Path) -> Path:
    """Draw every figure of a run and write ``report.html``, one file that opens offline.

    Parameters
    ----------
    run_folder : path
        What ``diagnose`` wrote. Only ``manifest.json``, ``summary.json`` and ``results/*.parquet`` are read; a missing table becomes a
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
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    run = RunRecord.read(run_folder)
    _write_whole(run.folder / "figures" / "plotly.min.js", get_plotlyjs())
    rows = language_rows(run)
    sections = _sections(run)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("workbench.report").joinpath("template.html").read_text(encoding="utf-8"))
    page = template.render(
        run=run,
        facts=_facts(run),
        rows=rows,
        verdict=verdict(run, rows),
        sections=sections,
        dropped=_dropped(run),
        limits=limits(run),
        provenance=_provenance(run),
        tier_colours=_tier_colours(),
        doubtful=_doubtful(run),
        margin=MARGIN,
        unfinished=run.find("manifest.status") != "finished",
        plotly_js=Markup(get_plotlyjs()),
    )
    path = run.folder / "report.html"
    _write_whole(path, page)
    return path


def _write_whole(path: Path, text: str) -> None:
    """Replace a file only once the new one is complete."""
    draft = path.with_name(path.name + ".draft")
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)


def _figure(
    run: RunRecord,
    name: str,
    needs: str,
    draw: Callable[[pd.DataFrame], Any],
    caption: Callable[[RunRecord, pd.DataFrame], str],
    model: str | None = "after",
) -> Figure:
    """Draw one figure, save it on its own, and return it for the page; without its table, say so."""
    from markupsafe import Markup

    table = run.table(needs, model=model)
    if table is None:
        return Figure(name, missing=f"Not measured in this run: there is no table “{needs}”.")
    try:
        figure, sentence = draw(table), caption(run, table)
    except DataError as error:
        log.warning("figure %s was not drawn: %s", name, error)
        return Figure(name, missing=f"Not drawn: {error}")
    html = figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"fig-{name}", auto_play=False, config=_CONFIG)
    _alone(run.folder / "figures" / f"{name}.html", figure.layout.title.text or name, html)
    return Figure(name, Markup(html), sentence)


def _alone(path: Path, title: str, html: str) -> None:
    """Write a figure as a page of its own, with plotly's script beside it."""
    from html import escape

    head = f'<meta charset="utf-8"><title>{escape(title)}</title><script src="plotly.min.js"></script>'
    _write_whole(path, f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{html}</body></html>\n')


def _sections(run: RunRecord) -> list[Section]:
    from workbench import plots

    refusal, bottleneck, layers = run.table("refusal"), run.table("bottleneck"), _chosen_layer(run)
    thresholds, axes = run.table("thresholds"), run.table("cluster_axes", model=None)

    def figure(
        name: str, needs: str, draw: Callable[[pd.DataFrame], Any], caption: Callable[[RunRecord, pd.DataFrame], str], model: str | None = "after"
    ) -> Figure:
        return _figure(run, name, needs, draw, caption, model)

    return [
        Section(
            "understood",
            "Understood",
            "Does the model understand a request in this language?",
            [
                figure("understanding", "understanding", plots.understanding, captions.understanding),
                figure("retrieval", "retrieval", plots.retrieval_by_layer, captions.retrieval),
                figure("tokens_per_character", "tokens_per_character", plots.tokens_per_character, captions.tokens_per_character),
            ],
            _bits_per_byte(run),
        ),
        Section(
            "represented",
            "Represented",
            "Is harm in the residual stream, along the direction found in the reference languages?",
            [
                figure("auroc_by_layer", "auroc", lambda t: plots.auroc_by_layer(t, refusal=refusal), captions.auroc),
                figure("auroc_with_nulls", "harm_represented", plots.auroc_with_nulls, captions.nulls),
            ],
        ),
        Section(
            "calibrated",
            "Calibrated",
            "Does the threshold of the reference languages fit the others?",
            [
                figure("projection_ridges", "projections", lambda t: plots.projection_ridges(t, thresholds=thresholds), captions.projections),
                figure("threshold_transfer", "thresholds", plots.threshold_transfer, captions.thresholds),
            ],
        ),
        Section(
            "behaviour",
            "Behaviour",
            "Does the model refuse what it should, and only that?",
            [
                figure(
                    "refusal_gap",
                    "refusal",
                    plots.refusal_gap,
                    lambda r, t: captions.refusal(r, t[t["model"] == "after"] if "model" in t else t),
                    None,
                )
            ],
            _reply_forms(run),
        ),
        Section(
            "steering",
            "Directions and edits",
            "Do languages share a harm direction, and does the model refuse by it?",
            [
                figure("direction_cosines", "direction_cosines", plots.direction_cosines, steering_captions.direction_cosines),
                figure("selection_curves", "selection", plots.selection_curves, steering_captions.selection),
                figure(
                    "strength_curve",
                    "strength",
                    lambda _: plots.strength_curve(run.results["strength"], chosen=run.find("summary.steering.strength")),
                    steering_captions.strength,
                ),
                figure("steered", "steering", plots.steered, steering_captions.steered),
            ],
        ),
        Section(
            "geometry",
            "Geometry",
            "Is a layer organised by meaning rather than language, and do languages share it?",
            [
                figure(
                    "variance_shares",
                    "variance_shares",
                    lambda t: plots.variance_shares(t, bottleneck=bottleneck),
                    lambda r, t: captions.variance_shares(r, _after(t)),
                    None,
                ),
                figure("harm_variance", "harm_variance", plots.harm_variance, geometry_captions.harm_variance),
                figure(
                    "silhouettes",
                    "silhouettes",
                    lambda t: plots.silhouettes(t, bottleneck=bottleneck),
                    lambda r, t: captions.silhouettes(r, _after(t)),
                    None,
                ),
                figure("similarity", "similarity", plots.similarity_by_layer, geometry_captions.similarity),
                figure("language_track", "language_track", plots.language_track, geometry_captions.language_track, None),
            ],
            _bottlenecks(run),
        ),
        Section(
            "alignment",
            "Before and after alignment",
            "Where do the classes lie, and did alignment move them apart in every language?",
            [
                figure("clusters", "clusters", lambda t: plots.clusters(t, axes=axes, layer=layers), captions.clusters, None),
                figure("separation", "separation", lambda t: plots.separation(t, layer=layers), captions.separation, None),
                *_change(run, figure),
            ],
            notes=[] if run.before else ["No model before alignment was given (--before), so nothing is compared with one."],
        ),
    ]


def _change(run: RunRecord, figure: Callable[..., Figure]) -> list[Figure]:
    from workbench import plots

    if not run.before:
        return []
    contrast = run.table("separation_contrast", model=None)

    def draw(table: pd.DataFrame) -> Any:
        return plots.separation_change(table, contrast=contrast)

    return [figure("separation_change", "separation_change", draw, geometry_captions.separation_change, None)]


def _after(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["model"] == "after"] if "model" in table else table


def _chosen_layer(run: RunRecord) -> int | None:
    """Return the layer that the reference languages chose at the last position listed."""
    table = run.table("harm_represented")
    return None if table is None else int(table["layer"].iloc[-1])


def _bottlenecks(run: RunRecord) -> list[Table]:
    table = run.table("bottleneck", model=None)
    if table is None:
        return [Table("Semantic bottleneck", ["verdict"], [["not assessed: there is no table “bottleneck” in this run"]])]
    rows = []
    for _, row in table.iterrows():
        found = str(row["verdict"]) == "bottleneck"
        where = f"{number(row['layer'], '.0f')} ({number(row['low'], '.0f')} to {number(row['high'], '.0f')})" if found else "–"
        rows.append([str(row["position"]), str(row.get("model", "after")), str(row["verdict"]), where, str(row["reason"])])
    return [Table("Semantic bottleneck", ["position", "model", "verdict", "layer (range)", "reason"], rows)]


def _bits_per_byte(run: RunRecord) -> list[Table]:
    table = run.table("bits_per_byte")
    if table is None:
        return []
    order = list(run.tiers)
    table = table.sort_values("language", key=lambda column: column.map({tag: i for i, tag in enumerate(order)}), kind="stable")
    rows = [[str(r["language"]), str(r["tier"]), estimate(r.to_dict()), str(int(r["n"]))] for _, r in table.iterrows()]
    return [
        Table("Bits per byte of the requests", ["language", "tier", "bits per byte", "n"], rows, "8 is guessing among all bytes; lower is better.")
    ]


def _reply_forms(run: RunRecord) -> list[Table]:
    table = run.table("refusal")
    names = {"answer_accuracy": "harmless answers right", "garbled": "garbled", "off_language": "in another language"}
    if table is None or not table["statistic"].isin(names).any():
        return []
    present = [s for s in names if (table["statistic"] == s).any()]
    cells = {(r["language"], r["statistic"]): estimate(r.to_dict(), form=".0%") for _, r in table.iterrows()}
    rows = [[tag, tier, *[cells.get((tag, s), "–") for s in present]] for tag, tier in run.tiers.items()]
    judges = ", ".join(dict.fromkeys(table["judge"].astype(str))) if "judge" in table else "unknown"
    return [Table("Form of the replies", ["language", "tier", *[names[s] for s in present]], rows, f"Judge: {judges}.")]


def _dropped(run: RunRecord) -> list[list[str]]:
    table = run.table("dropped", model=None)
    if table is None:
        return []
    return [
        [str(r["what"]), "" if pd.isna(r["language"]) else str(r["language"]), compact(None if pd.isna(r["n"]) else int(r["n"])), str(r["reason"])]
        for _, r in table.iterrows()
    ]


def _doubtful(run: RunRecord) -> list[str]:
    table = run.table("refusal")
    if table is None or "validated" not in table:
        return []
    return list(dict.fromkeys(table.loc[~table["validated"].astype(bool), "language"].astype(str)))


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """What a reader must know before the first number."""
    prompts, recorded = run.table("prompts"), run.find("manifest.spec.prompts")
    if isinstance(recorded, dict):
        recorded = {key: recorded[key] for key in ("source", "hash") if key in recorded} or recorded
    grid = compact(recorded)
    if prompts is not None and "meaning_id" in prompts:
        grid = f"{len(prompts)} prompts, {prompts['meaning_id'].nunique()} meanings, {prompts['language'].nunique()} languages; {grid}"
    model = run.find("manifest.spec.model")
    kind = ", ".join(str(model[key]) for key in ("architecture", "dtype", "device") if model.get(key)) if isinstance(model, dict) else ""
    versions = run.find("manifest.versions")
    return [
        ("Model", f"{run.model} ({kind})" if kind else run.model),
        ("Before alignment", run.before or "none given"),
        ("Prompts", grid),
        ("Reference languages", ", ".join(run.reference) or "none"),
        ("Template", compact(run.find("manifest.spec.model.template", "summary.model.template") or "not recorded")),
        ("System prompt", compact(run.find("manifest.spec.model.system", "summary.model.system"))),
        ("Seed", compact(run.find("manifest.spec.seed"))),
        ("Versions", compact(versions).replace("; ", ", ") if versions else "not recorded"),
    ]


def _provenance(run: RunRecord) -> list[tuple[str, str]]:
    """Flatten the manifest, one line per entry."""
    lines: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            lines.append((prefix, compact(value)))

    walk("", run.manifest)
    return lines


def _tier_colours() -> dict[str, str]:
    from workbench.plots.style import TIER_COLOURS

    return dict(TIER_COLOURS)
