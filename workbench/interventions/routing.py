"""Different edits for different prompts, as a gate decides: read and acted on in the same prefill, held while decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from workbench.directions.direction import Direction
from workbench.errors import DataError, ModelError
from workbench.interventions.acts import Act, Nothing
from workbench.interventions.decisions import OUTCOMES, Decisions, Log
from workbench.interventions.edits import Ablate, Add
from workbench.interventions.prompt_languages import UNKNOWN, Given, PromptLanguages, Thresholds
from workbench.interventions.routed import Reading, Routed
from workbench.models.hooks import placed
from workbench.models.sites import require_layers
from workbench.models.tokens import require_positions

#: The record of each route's last run, in this thread or task.
_LOGS: ContextVar[WeakKeyDictionary[Route, Log] | None] = ContextVar("workbench_routes", default=None)


@dataclass(frozen=True, eq=False)
class Route:
    """Edit prompts as a gate decides about each: flagged ones one way, the others another way.

    In the prefill the gate reads every row's own state at its layer and position, before the route's own edits of that layer act, and
    decides once. No second pass is made. The decision holds for the whole reply. It depends on the prompt alone: not on padding, on what is
    batched beside it or on the order. (The state itself moves by rounding with the batch, in float32 by about 1e-6 of its length; a score
    nearer to its threshold than that can fall either way.)

    Parameters
    ----------
    gate : Gate
        Fitted (:mod:`workbench.gates`).
    flagged, unflagged, unsure : edit, sequence of edits or None
        :class:`Add`, :class:`Ablate`, :class:`Patch` or several, at the gate's layer or deeper. None leaves those prompts alone.
    band : (low, high), optional
        Prompts with ``low <= score - threshold < high`` are unsure: units of the gate's score, around the threshold of the prompt's language,
        low <= 0 <= high. None: nobody is.
    languages : grid, mapping, str or callable
        Each prompt's language: declared (a PromptGrid, prompt id to tag, or one tag for all), detected (a function from the user's text to a
        tag, or None where it cannot tell), or ``"unknown"``: the gate's ``fallback_`` threshold for all. Needed where the gate's thresholds
        differ.
    fallback : None, "gate" or float
        Threshold for a language the gate has none for: None refuses it, "gate" takes its ``fallback_``. A number is used for unknown
        languages, too.
    place : Place, optional
        Where the gate reads, if it was fitted on a plain array.
    any_model : bool
        Accept a gate of another model of the same width; directions say so for themselves.

    Raises
    ------
    DataError
        An edit shallower than the gate, a gate of another place or model, an unknown language.

    Notes
    -----
    Beam search and several replies per prompt are not supported. Passes that nobody announced (:func:`workbench.models.passes.announced`)
    know the last prompt token only, and need a KV cache.

    References
    ----------
    Aziz et al. 2026, arXiv:2606.01196: flagged prompts are pushed along the direction (last prompt token and every generated one, strength
    1 x gap), from the others it is removed at every token (:meth:`along`). The abstain band is ours.

    Examples
    --------
    >>> route = Route.along(gate, direction, languages=grid)  # doctest: +SKIP
    >>> with chat.edited(route):  # doctest: +SKIP
    ...     replies = generate(chat, grid)
    >>> route.decisions.to_frame()  # doctest: +SKIP
    """

    gate: Any
    flagged: Any = None
    unflagged: Any = None
    unsure: Any = None
    band: tuple[float, float] | None = None
    languages: Given = None
    fallback: str | float | None = None
    place: Any = None
    any_model: bool = False

    def __post_init__(self) -> None:
        if not hasattr(self.gate, "decision_function"):
            raise DataError(f"{type(self.gate).__name__} is no gate. Expected a fitted one of workbench.gates (decision_function, thresholds_).")
        if not hasattr(self.gate, "thresholds_"):
            raise DataError(f"The {type(self.gate).__name__} is not fitted. Call fit() first, or load_gate().")
        low, high = self._band()
        if not (low <= 0 <= high and np.isfinite([low, high]).all()):
            raise DataError(f"band={self.band!r}: expected (low, high) around the threshold, low <= 0 <= high, in units of the gate's score.")
        thresholds = self._thresholds()
        if self.languages is None and set(thresholds.known.values()) - {thresholds.fallback}:
            raise DataError(
                f"The gate's thresholds differ between {', '.join(sorted(thresholds.known))}, and languages= says nothing. Expected a grid, prompt "
                "id to tag, a function from text to tag, or 'unknown' (the fallback threshold for all)."
            )
        for tag in self._languages().known:
            thresholds.of(tag)
        if self.unsure is not None and low == high and not np.isnan([*thresholds.known.values(), thresholds.fallback]).any():
            raise DataError("unsure= is an edit, but without a band no prompt is unsure. Expected band=(low, high), such as (-0.5, 0.5).")

    @classmethod
    def along(cls, gate: Any, direction: Direction, strength: float = 1.0, *, scale: str = "gap", **options: Any) -> Self:
        """Route as published: push flagged prompts along a direction, and remove it from the others.

        Parameters
        ----------
        direction : Direction
            Of the gate's layer or a deeper one, where both edits act.
        strength : float
            In units of ``scale``; by default the gap of the direction's training projections.
        **options
            As for :class:`Route`.

        References
        ----------
        Aziz et al. 2026, arXiv:2606.01196: lambda = 1.
        """
        flagged = Add(direction, strength, scale=scale, scope=("last_prompt", "decode"))
        return cls(gate, flagged=flagged, unflagged=Ablate(direction, layers=None), **options)

    @property
    def decisions(self) -> Decisions:
        """What was decided in the last ``with`` that this thread (or task) opened.

        Raises
        ------
        DataError
            If there was none.
        """
        logs = _LOGS.get()
        log = None if logs is None else logs.get(self)
        if log is None:
            raise DataError("This route has not run in this thread. Open `with chat.edited(route):` and run prompts in it first.")
        return log.taken()

    def moved_to(self, layers: Any) -> Route:
        """Refuse: a gate reads where it was fitted, and its edits name their layers."""
        raise DataError(f"A Route cannot be moved to {layers!r}: its gate reads where it was fitted. Give it by itself, chat.edited(route).")

    def placed(self, chat: Any) -> list[tuple[int | str, Any]]:
        """Say where it acts in a model, after checking that it belongs there; opens the record of a new run."""
        place = self._place(chat)
        name = gate_name(self.gate)
        languages, log = self._languages(), Log()
        told = f"Route({name} at {place.position}@{place.layer}, {self._told(languages)})"
        gate = self.gate
        reading = Reading(
            told,
            place.position,
            lambda states, tags: gate.decision_function(states, language=tags),
            self._thresholds(),
            languages,
            self._band(),
            chat.tokenizer,
            log,
        )
        found: list[tuple[int | str, Any]] = [(place.layer, reading)]
        for outcome, edits in zip(OUTCOMES, (self.unflagged, self.unsure, self.flagged), strict=True):
            for where, act in _acts(chat, outcome, edits):
                _require_deep_enough(where, place.layer, outcome, act)
                label = f"if {outcome} by {name.split(' ')[-1]}: {act.label.removeprefix(_EVERYWHERE)}"
                label = f"{_EVERYWHERE}{label}" if act.label.startswith(_EVERYWHERE) else label
                found.append((where, Routed(act, OUTCOMES.index(outcome), reading, label)))
        _LOGS.set(WeakKeyDictionary({**(_LOGS.get() or {}), self: log}))  # a copy: other tasks keep theirs
        return found

    def _place(self, chat: Any) -> Any:
        from workbench.gates.place import Place

        own = getattr(self.gate, "place_", None)
        place = self.place or own
        if self.place and own:
            own.require_same(self.place)
        if place is None:
            raise DataError(
                "The gate was fitted on a plain array and does not say where it reads. Expected place=Place(layer, position) (workbench.gates), or a "
                "gate fitted on GateData."
            )
        require_positions([place.position])
        require_layers(chat, [place.layer])
        width = getattr(self.gate, "n_features_in_", chat.hidden_size)
        if width != chat.hidden_size:
            raise ModelError(
                f"The gate expects states of width {width}; the residual stream of {chat.name} is {chat.hidden_size} wide. Expected a gate of this "
                "model: fit one on its activations."
            )
        if not self.any_model:
            fingerprint = None if place.fingerprint is None else chat.fingerprint  # reads every weight
            here = Place(place.layer, place.position, fingerprint, chat.template.hash, chat.system or "")
            differing = place.unlike(here)
            if differing:
                # what a system prompt says is not repeated
                told = ", ".join(n if n == "system" else f"{n} {getattr(place, n)!r} and not {getattr(here, n)!r}" for n in differing)
                raise ModelError(
                    f"The gate was fitted on another model or template than {chat.name}: it expects {told}. Fit it on this model's activations, load "
                    "the model as it was then, or pass any_model=True to carry the gate over on purpose."
                )
        return place

    def _languages(self) -> PromptLanguages:
        return PromptLanguages.of(UNKNOWN if self.languages is None else self.languages)

    def _band(self) -> tuple[float, float]:
        if self.band is None:
            return 0.0, 0.0
        try:
            low, high = (float(edge) for edge in self.band)
        except (TypeError, ValueError) as error:
            raise DataError(f"band={self.band!r}: expected (low, high), in units of the gate's score around the threshold.") from error
        return low, high

    def _thresholds(self) -> Thresholds:
        given = self.fallback
        if given is not None and given != "gate" and (isinstance(given, str) or not np.isfinite(given)):
            raise DataError(f"fallback={given!r}: expected None, 'gate' (its fallback_ threshold) or a finite number.")
        own = float(self.gate.fallback_)
        number = None if given is None or isinstance(given, str) else float(given)
        known = {str(tag): float(value) for tag, value in self.gate.thresholds_.items()}
        return Thresholds(known, own if number is None else number, own if given == "gate" else number)

    def _told(self, languages: PromptLanguages) -> str:
        parts = [f"languages {languages.label}"]
        if self.fallback is not None:
            parts.append(f"fallback {self.fallback}")
        if self.band is not None:
            parts.append("band {!r} to {!r}".format(*self._band()))
        return ", ".join(parts)


#: How the label begins of an edit that acts after every write to the stream.
_EVERYWHERE = "everywhere: "


def _acts(chat: Any, outcome: str, edits: Any) -> list[tuple[int | str, Act]]:
    if edits is None:
        return []
    found: list[tuple[int | str, Any]] = [(where, act) for where, chain in placed(chat, [edits]).items() for act in chain]
    for _, act in found:
        if not isinstance(act, Act):
            told = getattr(act, "label", type(act).__name__)
            raise DataError(f"{outcome}= holds {told}, which knows no rows. Expected Add, Ablate or Patch, or a sequence of these.")
    return [(where, act) for where, act in found if not isinstance(act, Nothing)]


def _require_deep_enough(where: int | str, layer: int, outcome: str, act: Act) -> None:
    """Refuse an edit of what has gone by when the gate decides."""
    depth = where if isinstance(where, int) else int(where.split(".")[1])  # block k writes between layers k and k + 1
    if depth >= layer:
        return
    everywhere = act.label.startswith(_EVERYWHERE)
    told = "everywhere, which begins at the embedding" if everywhere else f"at {where if isinstance(where, str) else f'layer {where}'}"
    raise DataError(
        f"{outcome}= acts {told}, and the gate decides at layer {layer}, when that has gone by. Expected edits at layer {layer} or deeper "
        f"(Ablate(direction, layers=range({layer}, L + 1)) from there on). To edit earlier, decide in a pass of its own: "
        f"run under Route(gate), then edit with rows=route.decisions.rows({outcome!r})."
    )


def gate_name(gate: Any) -> str:
    """Name a gate by its class and a hash of what decides: parameters, what it learnt, thresholds and place.

    Returns
    -------
    str
        Two gates with the same name decide alike; a gate read back from its file keeps its name.
    """
    names = getattr(gate, "learned", None) or [name for name in vars(gate) if name.endswith("_")]
    decides = {name: getattr(gate, name) for name in (*names, "thresholds_", "fallback_")}
    told = [type(gate).__name__, gate.get_params(deep=False) if hasattr(gate, "get_params") else {}, decides, repr(getattr(gate, "place_", None))]
    digest = hashlib.sha256()
    _feed(digest, told)
    return f"{type(gate).__name__} #{digest.hexdigest()[:8]}"


def _feed(digest: Any, value: Any) -> None:
    """Hash nested values so that equal numbers hash alike, whatever holds them."""
    if isinstance(value, np.ndarray):
        digest.update(f"array{value.shape}".encode() + np.ascontiguousarray(value, dtype=None).tobytes())
    elif hasattr(value, "items"):
        digest.update(f"map{len(value)}".encode())
        for key in sorted(value, key=str):
            digest.update(f"{key}:".encode())
            _feed(digest, value[key])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        digest.update(f"list{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{value.item() if isinstance(value, np.generic) else value!r};".encode())
