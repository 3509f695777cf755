"""The sections of a diagnosis: the stages from left to right, what would restore refusal, directions and edits, geometry, alignment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from workbench.report import captions, cause_captions, drawing, geometry_captions, steering_captions
from workbench.report.parts import Figure, Section
from workbench.report.record import RunRecord
from workbench.report.small_tables import bits_per_byte, bottlenecks, reply_forms
from workbench.report.verdict_table import stage_note


def diagnosis_sections(run: RunRecord) -> list[Section]:
    """Return the sections of a diagnosis in reading order; what was not measured stands there as a sentence."""
    from workbench import plots

    refusal, bottleneck, layers = run.table("refusal"), run.table("bottleneck"), _chosen_layer(run)
    thresholds, axes = run.table("thresholds"), run.table("cluster_axes", model=None)

    def figure(
        name: str, needs: str, draw: Callable[[pd.DataFrame], Any], caption: Callable[[RunRecord, pd.DataFrame], str], model: str | None = "after"
    ) -> Figure:
        return drawing.figure(run, name, needs, draw, caption, model)

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
            bits_per_byte(run),
            stage_note(run, "understood"),
        ),
        Section(
            "represented",
            "Represented",
            "Is harm in the residual stream, along the direction found in the reference languages?",
            [
                figure("auroc_by_layer", "auroc", lambda t: plots.auroc_by_layer(t, refusal=refusal), captions.auroc),
                figure("auroc_with_nulls", "harm_represented", plots.auroc_with_nulls, captions.nulls),
            ],
            notes=stage_note(run, "represented"),
        ),
        Section(
            "calibrated",
            "Calibrated",
            "Does the threshold of the reference languages fit the others?",
            [
                figure("projection_ridges", "projections", lambda t: plots.projection_ridges(t, thresholds=thresholds), captions.projections),
                figure("threshold_transfer", "thresholds", plots.threshold_transfer, captions.thresholds),
            ],
            notes=stage_note(run, "calibrated"),
        ),
        Section(
            "behaviour",
            "Actuated and expressed",
            "Does the decision reach the reply: does the model refuse what it should, only that, and in the right form?",
            [
                figure(
                    "refusal_gap",
                    "refusal",
                    plots.refusal_gap,
                    lambda r, t: captions.refusal(r, t[t["model"] == "after"] if "model" in t else t),
                    None,
                )
            ],
            reply_forms(run),
            [*stage_note(run, "actuated"), *stage_note(run, "expressed")],
        ),
        _cause(run, figure),
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
            bottlenecks(run),
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


def _cause(run: RunRecord, figure: Callable[..., Figure]) -> Section:
    """What would bring refusal back: from outside, step by step, and from a twin's state, layer by layer."""
    from workbench import plots

    def exchanged(kind: str) -> Figure:
        return figure(
            f"restoration_{kind}",
            "restoration",
            lambda _: plots.restoration(run.results["restoration"], kind=kind),
            lambda r, t: cause_captions.restoration(r, t, kind),
        )

    table = run.table("restoration")
    known = [] if table is None or "kind" not in table else list(dict.fromkeys(table["kind"]))
    return Section(
        "cause",
        "What would restore it",
        "Which step from the model's own decision to the truth brings refusal back, and at which layer does a prompt lack what its twin has?",
        [figure("waterfall", "waterfall", plots.waterfall, cause_captions.waterfall), exchanged("harm_coordinate")],
        cause_captions.shapley(run),
        more=[exchanged(kind) for kind in ("refusal_coordinate", "state") if kind in known],
        more_title="The same for the refusal coordinate and the whole state",
    )


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
