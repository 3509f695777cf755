"""What an edit points along, and whether that belongs to the model at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from workbench.directions.direction import Direction
from workbench.errors import DataError, ModelError
from workbench.models.sites import place_of


@dataclass(frozen=True, eq=False)
class Aim:
    """A direction as edits use it.

    Attributes
    ----------
    unit : float64 array [hidden]
        Length 1.
    norm : float
        Length of the raw difference in means, or of the vector given.
    layer : int or None
        Where it was taken; None for a plain vector.
    fingerprint : str or None
        Of the model it was taken from, if known.
    gap : float or None
        75th percentile of its harmful training projections minus 25th of its harmless ones, if recorded.
    name : str
        Where it is from, and a hash of its numbers.
    """

    unit: Float[np.ndarray, " hidden"]
    norm: float
    layer: int | None
    fingerprint: str | None
    gap: float | None
    name: str

    def require_model(self, chat: Any, *, any_model: bool) -> None:
        """Refuse a model of another width, or another model.

        Raises
        ------
        ModelError
            Naming both, and the remedy.
        """
        if len(self.unit) != chat.hidden_size:
            raise ModelError(
                f"The direction {self.name} has {len(self.unit)} entries; the residual stream of {chat.name} is {chat.hidden_size} wide. "
                "Expected a direction of this model: extract one from its activations."
            )
        if any_model or self.fingerprint is None:
            return
        found = chat.fingerprint
        if found != self.fingerprint:
            raise ModelError(
                f"The direction {self.name} was taken from another model (fingerprint {self.fingerprint}; {chat.name} has {found}). Extract "
                "it from this model's activations, or pass any_model=True to carry it over on purpose."
            )


def aim_at(direction: Direction | np.ndarray | Tensor | Sequence[float]) -> Aim:
    """Read a direction, or a plain vector.

    Raises
    ------
    DataError
        For something else, for a vector that is zero or not finite.
    """
    if isinstance(direction, Direction):
        vector, norm, known = np.asarray(direction.unit, dtype=np.float64), float(direction.norm), direction.metadata
        place: str | None = f"{direction.position}@{direction.layer}"
    else:
        try:
            vector = np.asarray(direction.detach().double().cpu().numpy() if isinstance(direction, Tensor) else direction, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{type(direction).__name__} is no direction. Expected a Direction, or a vector [hidden].") from error
        norm, known, place = float(np.linalg.norm(vector)), {}, None
    if vector.ndim != 1 or not np.isfinite(vector).all() or not np.isfinite(norm):
        raise DataError(f"A direction must be one finite vector [hidden]; got shape {vector.shape}. Take one row, or extract it again.")
    length = float(np.linalg.norm(vector))
    if length == 0 or norm == 0:
        raise DataError(
            f"The direction{f' at {place}' if place else ''} is zero: harmful and harmless states do not differ there. Expected one that is not; "
            "choose another layer or position (directions.to_frame() lists the norms)."
        )
    gap = known.get("gap")
    unit = vector / length
    return Aim(
        unit=unit,
        norm=norm,
        layer=direction.layer if isinstance(direction, Direction) else None,
        fingerprint=known.get("fingerprint"),
        gap=None if gap is None else float(gap),
        name=f"{place or 'vector'} #{hashlib.sha256((unit * norm).astype(np.float32).tobytes()).hexdigest()[:8]}",
    )


def places_of(layers: Any, own: int | None, chat: Any) -> list[int | str]:
    """Read where an edit acts: the direction's own layer, or the places given.

    Parameters
    ----------
    layers : None, int, str or sequence of these
        Layers (blocks passed) or sites.
    own : int or None
        The direction's layer, taken if ``layers`` is None.

    Raises
    ------
    DataError
        If there is neither, or a place is named twice.
    ModelError
        For a place that the model does not have.
    """
    if layers is None:
        if own is None:
            raise DataError("Plain numbers do not say at which layer they act. Expected layers=[k] (blocks passed, 0 is the embedding).")
        layers = own
    given: list[Any] = [layers] if isinstance(layers, int | np.integer | str) else list(layers)
    if not given:
        raise DataError("layers is empty. Expected at least one layer.")
    found = [place_of(chat, place) for place in given]
    if len(set(found)) < len(found):
        raise DataError(f"layers={given} names a place twice. Expected each once; put two edits after another to act twice.")
    return found
