"""The geometry of a diagnosis: language against meaning, similarity across languages, and the classes before and after alignment."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from workbench.diagnosis import measure
from workbench.errors import WorkbenchError
from workbench.geometry.bottleneck import Bottleneck
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.runs.asked import Asked
from workbench.runs.folder import Run

logger = logging.getLogger(__name__)


def measure_geometry(
    run: Run,
    asked: Asked,
    acts: xr.Dataset,
    earlier: xr.Dataset | None,
    untrained: Sequence[xr.Dataset],
    layers: dict[str, int],
    *,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """Measure and save every table of the report's geometry section.

    Parameters
    ----------
    acts, earlier, untrained : Dataset
        Activations of the model diagnosed, of the model before alignment and of untrained copies.
    layers : dict
        The layer chosen at each position, which the figures open at.

    Returns
    -------
    DataFrame
        The bottleneck's verdicts, one row per model and position; none for a set whose languages share no meaning.
    """
    tell_what_is_left_out(run, asked)
    _classes(run, asked, acts, earlier, layers, seed)
    if asked.part is None:
        return pd.DataFrame(columns=[*Bottleneck.required, "model"])
    complete = measure.rows_of(acts, asked.part)
    models = [(name, data.isel(prompt=complete)) for name, data in (("after", acts), ("before", earlier)) if data is not None]
    bottleneck = _language_against_meaning(run, models, seed)
    compared = [tag for tag in asked.reference if tag in asked.part.languages]
    if compared:
        _similarity(run, compared, models, untrained[0].isel(prompt=complete) if untrained else None, seed)
        _lens(run, asked.after, asked.part, compared, seed, progress)
    return bottleneck


def measure_retrieval(run: Run, asked: Asked, acts: xr.Dataset, untrained: Sequence[xr.Dataset], seed: int) -> None:
    """Measure and save the retrieval of translations alone: what "understood" is read from where a language has no answer key."""
    if asked.part is None:
        return
    compared = [tag for tag in asked.reference if tag in asked.part.languages]
    if compared:
        complete = measure.rows_of(acts, asked.part)
        _retrieval(run, compared, acts.isel(prompt=complete), untrained[0].isel(prompt=complete) if untrained else None, seed)


def tell_what_is_left_out(run: Run, asked: Asked) -> None:
    """Save the table of what the geometry leaves out."""
    left_out = [asked.dropped, measure.left_out_of_geometry(asked.grid, asked.part), measure.unlike_before(asked.after, asked.before)]
    run.save("dropped", pd.concat([table for table in left_out if len(table)] or left_out[:1], ignore_index=True))


def _language_against_meaning(run: Run, models: Sequence[tuple[str, xr.Dataset]], seed: int) -> pd.DataFrame:
    from workbench.geometry import find_bottleneck, harm_variance, silhouettes, variance_shares

    tables: dict[str, list[pd.DataFrame]] = {}

    def put(name: str, table: pd.DataFrame, model: str) -> None:
        tables.setdefault(name, []).append(table.assign(model=model))

    for model, whole in models:
        put("variance_shares", variance_shares(whole).table, model)
        if len(np.unique(whole["harmful"].values)) == 2:
            put("harm_variance", harm_variance(whole, scalings=("unit",), rng=np.random.default_rng(seed)).table, model)
        profile = silhouettes(whole, rng=np.random.default_rng(seed))
        put("silhouettes", profile.table, model)
        put("bottleneck", find_bottleneck(profile, n_layers=int(whole["layer"].max()), rng=np.random.default_rng(seed)).table, model)
    for name, parts in tables.items():
        run.save(name, pd.concat(parts, ignore_index=True))
    return run.result("bottleneck").table


def _retrieval(run: Run, compared: Sequence[str], acts: xr.Dataset, untrained: xr.Dataset | None, seed: int) -> None:
    from workbench.geometry import retrieval

    control = None if untrained is None else measure.scored_twice(untrained)
    run.save("retrieval", retrieval(measure.scored_twice(acts), compared, control=control, rng=np.random.default_rng(seed)))


def _similarity(run: Run, compared: Sequence[str], models: Sequence[tuple[str, xr.Dataset]], untrained: xr.Dataset | None, seed: int) -> None:
    from workbench.geometry import similarity

    # nothing is fitted for retrieval, so the fit meanings may be scored: only those that choose the layer may not
    control = None if untrained is None else measure.scored_twice(untrained)
    tables = []
    for model, whole in models:
        if model == "after":
            _retrieval(run, compared, whole, untrained, seed)
        found = similarity(
            measure.scored_twice(whole),
            compared,
            control=control if model == "after" else None,
            permutations=50,
            max_meanings=128,
            rng=np.random.default_rng(seed),
        )
        tables.append(found.table.assign(model=model))
    run.save("similarity", pd.concat(tables, ignore_index=True))


def _classes(run: Run, asked: Asked, acts: xr.Dataset, earlier: xr.Dataset | None, layers: dict[str, int], seed: int) -> None:
    from workbench.geometry import clusters, separation

    depth = min(chat.n_layers for chat in (asked.after, asked.before) if chat is not None)  # a slider shows both models at a layer
    shown = [k for k in measure.shown_layers(asked.after.n_layers, layers.values()) if k <= depth]
    alike = earlier is not None and earlier.sizes["hidden"] == acts.sizes["hidden"]  # else there is no basis in common
    points = clusters(acts, before=earlier, layers=shown, basis="common" if alike else "own", rng=np.random.default_rng(seed))
    run.save("clusters", points)
    run.save("cluster_axes", points.axes())
    bases = ("own", "common") if alike else ("own",)
    found = separation(acts, earlier, layers=range(depth + 1), bases=bases, permutations=50, rng=np.random.default_rng(seed))
    run.save("separation", found)
    if earlier is None:
        return
    run.save("separation_change", found.change())
    others = [tag for tag in asked.grid.languages if tag not in asked.reference]
    if others:
        run.save("separation_contrast", found.contrast(asked.reference, others))


def _lens(run: Run, chat: ChatModel, part: PromptGrid, compared: Sequence[str], seed: int, progress: bool) -> None:
    """Which language the layers would speak; left out, with the reason, where TransformerLens cannot read the model so."""
    from workbench.diagnosis.lens import track_languages

    try:
        found = track_languages(chat, part, reference=compared, rng=np.random.default_rng(seed), progress=progress)
    except WorkbenchError as error:
        logger.warning("The language track was not measured: %s", error)
        run.update_manifest(not_measured={"language_track": str(error)})
        return
    run.save("language_track", found)
