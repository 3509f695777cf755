"""Changes to the residual stream, as small frozen values: add a direction, remove it, or overwrite what is there.

Each says what it does at which layers, to which tokens of which prompts. It acts inside ``with chat.edited(edit):`` and
nowhere else. Layers count blocks passed (0 is the embedding); a paper's "output of block l" is layer l + 1, its "input of
block l" is layer l.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from workbench.directions.direction import Direction
from workbench.errors import DataError, did_you_mean
from workbench.interventions.acts import Ablating, Act, Adding, Nothing, Patching, as_values
from workbench.interventions.aim import Aim, aim_at, places_of
from workbench.interventions.scopes import as_rows, as_scope, rows_label

#: What one unit of strength is.
SCALES = {
    "unit": "the unit vector",
    "raw": "the difference in means, as long as it was measured",
    "norm": "the unit vector times the length of each token's own state",
    "gap": "the unit vector times the gap of the direction's training projections (75th percentile harmful minus 25th harmless)",
}

Vector = Direction | np.ndarray | Tensor | Sequence[float]
Places = int | str | Sequence[int | str] | None
Rows = Mapping[str, float] | Sequence[float] | np.ndarray | None


@dataclass(frozen=True, eq=False)
class Add:
    """Add a direction to the residual stream: strength > 0 pushes the way the direction points.

    Parameters
    ----------
    direction : Direction, or vector [hidden]
        A plain vector needs ``layers``.
    strength : float
        In units of ``scale``. 0 changes nothing.
    scale : {"unit", "raw", "norm", "gap"}
        What strength 1 adds: the unit vector, the difference in means as long as it was measured, the unit vector times
        each token's own length, or times the gap of the direction's training projections (75th percentile of harmful minus
        25th of harmless; ``direction.metadata["gap"]``). Lengths differ fiftyfold between models; "gap" and "norm" carry over.
    layers : int, str or sequence of these, optional
        Layers or sites; by default the direction's own layer.
    scope : str or sequence of str
        "all" (prompt and generated tokens, never padding), "prompt", "last_prompt", "instruction" (the user's text),
        "decode" (generated tokens), or several: ``("last_prompt", "decode")``.
    rows : mapping or sequence, optional
        Which prompts, and how strongly: prompt id to True, False or a factor, or in the order of the batch.
    any_model : bool
        Accept a direction of another model of the same width.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717 (raw, strength +-1, all tokens); Aziz et al. 2026, arXiv:2606.01196 (gap, strength 1,
    last prompt token and every generated one).

    Examples
    --------
    >>> import numpy as np, torch
    >>> Add(np.array([0.0, 3.0]), 2.0, layers=1)(torch.zeros(1, 1, 2))
    tensor([[[0., 2.]]])
    >>> with chat.edited(Add(direction, scale="gap", scope=("last_prompt", "decode"))):  # doctest: +SKIP
    ...     replies = generate(chat, grid)
    """

    direction: Vector
    strength: float = 1.0
    scale: str = "unit"
    layers: Places = None
    scope: str | Sequence[str] = "all"
    rows: Rows = None
    any_model: bool = False

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise DataError(f"scale={self.scale!r}: expected one of {', '.join(SCALES)}.{did_you_mean(str(self.scale), SCALES)}")
        if not isinstance(self.strength, int | float | np.number) or not np.isfinite(self.strength):
            raise DataError(f"strength={self.strength!r}: expected a finite number.")
        _ = self._bound(aim_at(self.direction))

    def __call__(self, residual: Float[Tensor, "prompt token hidden"]) -> Float[Tensor, "prompt token hidden"]:
        """Add to every token given, whatever scope and rows say."""
        return self._bound(aim_at(self.direction)).change(residual, None, None) if self.strength else residual

    def moved_to(self, layers: Places) -> Add:
        """Return the same edit at other layers."""
        return replace(self, layers=layers)

    def placed(self, chat: Any) -> list[tuple[int | str, Act]]:
        """Say where it acts in a model, after checking that it belongs there."""
        aim = aim_at(self.direction)
        aim.require_model(chat, any_model=self.any_model)
        act = self._bound(aim)
        return [(place, act) for place in places_of(self.layers, aim.layer, chat)]

    def _bound(self, aim: Aim) -> Act:
        scope, rows = as_scope(self.scope), as_rows(self.rows)
        label = f"Add({aim.name}, {self.strength!r} x {self.scale}, {'+'.join(scope)}{rows_label(rows)})"
        if not self.strength:
            return Nothing(scope, rows, label, wants_pass=False)
        length = {"unit": 1.0, "raw": aim.norm, "norm": 1.0, "gap": aim.gap}[self.scale]
        if length is None:
            raise DataError(
                f"scale='gap', but the direction {aim.name} carries no gap. Expected a number in direction.metadata['gap'] (75th percentile of its "
                "harmful training projections minus 25th of its harmless ones); extract it with one, or use scale='raw'."
            )
        return Adding(scope, rows, label, shift=self.strength * length * aim.unit, per_norm=self.scale == "norm")


@dataclass(frozen=True, eq=False)
class Ablate:
    """Remove a direction from the residual stream: project states onto what is orthogonal to it.

    Parameters
    ----------
    direction : Direction, or vector [hidden]
        Its length does not matter.
    layers : "everywhere", or int, str or sequence of these
        "everywhere" projects the embedding and whatever any attention or MLP adds, so that no layer ever has a component
        along it (equal to :func:`~workbench.interventions.weights.orthogonalised` where no norm follows the write). A
        sequence projects the residual stream at those layers only; later blocks may write along it again. None is the
        direction's own layer.
    baseline : "zero", "harmless" or float
        What the coordinate along the direction is set to: 0, the mean of the harmless (or accepted) training projections
        (``direction.metadata["baseline"]``; at the direction's own layer only, where it was measured), or a number in units of
        the residual stream. Others than 0 need ``layers``: a single write to the stream has no such coordinate.
    scope, rows, any_model
        As in :class:`Add`; a factor in ``rows`` removes that share.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717, eq. 4: x <- x - r r^T x with r of unit length. Mean ablation, x <- x - r (r^T x - b)
    with the negative class's mean b: affine concept editing, Marshall et al. 2024, arXiv:2411.09003.

    Examples
    --------
    >>> import numpy as np, torch
    >>> Ablate(np.array([0.0, 3.0]))(torch.tensor([[[5.0, 7.0]]]))
    tensor([[[5., 0.]]])
    >>> Ablate(np.array([0.0, 3.0]), layers=2, baseline=0.5)(torch.tensor([[[5.0, 7.0]]]))
    tensor([[[5.0000, 0.5000]]])
    """

    direction: Vector
    layers: Places = "everywhere"
    scope: str | Sequence[str] = "all"
    rows: Rows = None
    any_model: bool = False
    baseline: str | float = "zero"

    def __post_init__(self) -> None:
        if self._toward() and self.layers == "everywhere":
            raise DataError(
                f"baseline={self.baseline!r} with layers='everywhere': a single write to the stream has no coordinate to be set. Expected named "
                "layers (layers=None is the direction's own), or baseline='zero'."
            )
        _ = self._bound(aim_at(self.direction))

    def __call__(self, residual: Float[Tensor, "prompt token hidden"]) -> Float[Tensor, "prompt token hidden"]:
        """Project every token given, whatever scope and rows say."""
        return self._bound(aim_at(self.direction)).change(residual, None, None)

    def moved_to(self, layers: Places) -> Ablate:
        """Return the same edit at other layers."""
        return replace(self, layers=layers)

    def placed(self, chat: Any) -> list[tuple[int | str, Act]]:
        """Say where it acts in a model, after checking that it belongs there."""
        aim = aim_at(self.direction)
        aim.require_model(chat, any_model=self.any_model)
        act = self._bound(aim)
        if self.layers == "everywhere":
            return [(place, act) for place in (0, *chat.parts.writes)]
        places = places_of(self.layers, aim.layer, chat)
        if self.baseline == "harmless" and places != [aim.layer]:
            raise DataError(
                f"baseline='harmless' was measured at layer {aim.layer}, and the edit is to act at {places}. Expected layers=None, or a number for "
                "baseline: the mean harmless projection on this direction there."
            )
        return [(place, act) for place in places]

    def _toward(self) -> float:
        """Return the coordinate that is left."""
        given = self.baseline
        if isinstance(given, str) and given not in ("zero", "harmless"):
            raise DataError(f"baseline={given!r}: expected 'zero', 'harmless' or a number.{did_you_mean(given, ('zero', 'harmless'))}")
        if given == "harmless":
            known = self.direction.metadata.get("baseline") if isinstance(self.direction, Direction) else None
            if known is None:
                raise DataError(
                    "baseline='harmless', but the direction carries none. Expected a number in direction.metadata['baseline'] (mean of its harmless "
                    "training projections); extract it with one, or give the number itself."
                )
            given = known
        toward = 0.0 if given == "zero" else float(given)
        if not np.isfinite(toward):
            raise DataError(f"baseline={toward!r}: expected a finite coordinate along the direction.")
        return toward

    def _bound(self, aim: Aim) -> Ablating:
        scope, rows, toward = as_scope(self.scope), as_rows(self.rows), self._toward()
        left = f", to {toward!r}{' (harmless)' if self.baseline == 'harmless' else ''}" if toward else ""
        label = f"Ablate({aim.name}{left}, {'+'.join(scope)}{rows_label(rows)})"
        # the engine names an edit that acts at every write once, by this beginning
        everywhere = f"everywhere: {label}" if self.layers == "everywhere" else label
        return Ablating(scope, rows, everywhere, unit=aim.unit, toward=toward)


@dataclass(frozen=True, eq=False)
class Patch:
    """Overwrite states, or only their coordinate along a direction.

    Parameters
    ----------
    values : array or mapping
        Without ``along`` the states: [hidden] for all tokens alike, [prompt hidden] in the order of the batch, [prompt
        token hidden] for a pass of just that shape, or prompt id to [hidden]. With ``along`` the coordinates: one number,
        one per prompt, or prompt id to number, in units of the residual stream.
    layers : int, str or sequence of these, optional
        Layers or sites; by default those of ``along``.
    scope, rows, any_model
        As in :class:`Add`; a factor in ``rows`` goes that share of the way.
    along : Direction or vector, optional
        Set h to h + (value - h v) v, v of unit length, and leave the rest of the state.

    References
    ----------
    Interchange of one coordinate, as in the patching hook of Arditi et al. 2024, arXiv:2406.11717.

    Examples
    --------
    >>> import numpy as np, torch
    >>> Patch(2.0, layers=1, along=np.array([0.0, 3.0]))(torch.tensor([[[5.0, 7.0]]]))
    tensor([[[5., 2.]]])
    """

    values: Any
    layers: Places = None
    scope: str | Sequence[str] = "all"
    rows: Rows = None
    along: Vector | None = None
    any_model: bool = False

    def __post_init__(self) -> None:
        _ = self._bound(None if self.along is None else aim_at(self.along))

    def __call__(self, residual: Float[Tensor, "prompt token hidden"]) -> Float[Tensor, "prompt token hidden"]:
        """Overwrite every token given, whatever scope and rows say; values must not go by prompt."""
        return self._bound(None if self.along is None else aim_at(self.along)).change(residual, None, None)

    def moved_to(self, layers: Places) -> Patch:
        """Return the same edit at other layers."""
        return replace(self, layers=layers)

    def placed(self, chat: Any) -> list[tuple[int | str, Act]]:
        """Say where it acts in a model, after checking that it belongs there."""
        aim = None if self.along is None else aim_at(self.along)
        act = self._bound(aim)
        if aim is not None:
            aim.require_model(chat, any_model=self.any_model)
            return [(place, act) for place in places_of(self.layers, aim.layer, chat)]
        widths = {len(v) for v in act.values.values()} if isinstance(act.values, Mapping) else {act.values.shape[-1]}
        if widths != {chat.hidden_size}:
            raise DataError(
                f"values is {sorted(widths)} wide; the residual stream of {chat.name} is {chat.hidden_size} wide. Expected its own states."
            )
        return [(place, act) for place in places_of(self.layers, None, chat)]

    def _bound(self, aim: Aim | None) -> Patching:
        scope, rows = as_scope(self.scope), as_rows(self.rows)
        values = as_values(self.values, whole=aim is None)
        listed = sorted((k, np.asarray(v).tobytes()) for k, v in values.items()) if isinstance(values, Mapping) else values.tobytes()
        told = f"#{hashlib.sha256(repr(listed).encode()).hexdigest()[:8]}"
        label = f"Patch({told}{'' if aim is None else f' along {aim.name}'}, {'+'.join(scope)}{rows_label(rows)})"
        return Patching(scope, rows, label, values=values, unit=None if aim is None else aim.unit)


@dataclass(frozen=True, eq=False)
class Compose:
    """Several edits as one; those of one layer act in the order given.

    Examples
    --------
    >>> import numpy as np, torch
    >>> v = np.array([0.0, 1.0])
    >>> Compose((Ablate(v, layers=1), Add(v, 2.0, layers=1)))(torch.tensor([[[5.0, 7.0]]]))
    tensor([[[5., 2.]]])
    """

    edits: Sequence[Any]

    def __call__(self, residual: Float[Tensor, "prompt token hidden"]) -> Float[Tensor, "prompt token hidden"]:
        """Act one after another on every token given, whatever scopes, rows and layers say."""
        for edit in self.edits:
            residual = edit(residual)
        return residual

    def moved_to(self, layers: Places) -> Compose:
        """Return the same edits, all of them at other layers."""
        return replace(self, edits=tuple(edit.moved_to(layers) for edit in self.edits))

    def placed(self, chat: Any) -> list[tuple[int | str, Any]]:
        """Say where they act in a model, after checking that they belong there."""
        return [pair for edit in self.edits for pair in edit.placed(chat)]
