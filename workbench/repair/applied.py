"""A repair read back from its run folder, ready to be applied to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.directions import Direction
from workbench.errors import DataError
from workbench.gates import load_gate
from workbench.interventions.edits import Add
from workbench.interventions.routing import Route
from workbench.repair.strength import SCOPE
from workbench.runs.folder import Run

#: ``kind`` in the manifest of a repair's run folder.
KIND = "gate repair"


def repair_route(folder: str | Path, *, languages: Any = None, **options: Any) -> Route:
    """Read a repair back from its run folder, ready to be applied: the headline method, as it was measured.

    Parameters
    ----------
    folder : path
        What :func:`repair_gate` wrote.
    languages
        Of the prompts, as for :class:`~workbench.interventions.routing.Route`: a grid, a tag, a function of the text, or "unknown".
    **options
        As for :class:`~workbench.interventions.routing.Route`.

    Returns
    -------
    Route
        Flagged prompts are pushed with the strength that was chosen; the others are left alone.

    Raises
    ------
    DataError
        No finished repair there.

    Examples
    --------
    >>> with chat.edited(repair_route("runs/repair", languages=grid)):  # doctest: +SKIP
    ...     replies = generate(chat, grid, out="routed.jsonl")
    """
    run = Run.open(folder)
    if run.manifest.get("kind") != KIND or run.manifest.get("status") != "finished":
        raise DataError(f"{folder} holds no finished repair by a gate. Give the folder that `workbench repair gate --out` wrote, or finish it.")
    direction = Direction.load(run.folder / "results" / "selected_direction.safetensors")
    push = Add(direction, float(run.summary["place"]["strength"]), "gap", scope=SCOPE)
    return Route(load_gate(run.folder / "gate.safetensors"), flagged=push, languages=languages, **options)


__all__ = ["KIND", "repair_route"]
