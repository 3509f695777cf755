"""Latent Guard: is a prompt's state nearer in angle to the harmful centre than to the harmless one, on average over layers?

    s(h) = mean over layers of [ cos(h, harmful centre) - cos(h, harmless centre) ]        harmful where s >= 0

References
----------
Zhao et al. 2025, LLMs Encode Harmfulness and Refusal Separately, arXiv:2507.11878 (belief at ``t_inst``; centres of harmful prompts refused and
harmless prompts accepted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import xarray as xr
from jaxtyping import Float

from workbench.errors import DataError
from workbench.gates.place import GateData, gate_data
from workbench.gates.protocol import Gate
from workbench.gates.rowwise import row_cosines


def layer_stack(
    acts: xr.Dataset, layers: Sequence[int], position: str = "t_inst", split: str | None = None, languages: Sequence[str] | None = None
) -> GateData:
    """Read several layers side by side, for :class:`LatentGuard`: columns are layer by layer, and the place names all of them.

    Parameters
    ----------
    layers : sequence of int
        Ascending. Where all states are one constant token (``t_post_inst`` at layer 0) both centres are the same and add nothing.
    position : str
        The published guard reads ``t_inst``, the last token of the user's text.

    Raises
    ------
    DataError
        No layer, a layer twice, or what :func:`~workbench.gates.place.gate_data` refuses.

    Notes
    -----
    A stack is as wide as its layers together, so it cannot be decided from one layer while a prompt passes: decide beforehand, and give an
    edit the decisions as ``rows``.
    """
    asked = [int(k) for k in layers]
    if not asked or asked != sorted(set(asked)):
        raise DataError(f"layers={asked}: expected at least one, ascending, each once.")
    parts = [gate_data(acts, layer, position, split, languages) for layer in asked]
    if len(parts) == 1:
        return parts[0]
    place = replace(parts[-1].place, position=f"{position} at layers {', '.join(map(str, asked))}")
    return replace(parts[-1], X=np.concatenate([part.X for part in parts], axis=1), place=place)


class LatentGuard(Gate):
    """Fires where the mean difference of two cosines is at or above 0.

    Parameters
    ----------
    n_layers : int
        Layers side by side in a row (:func:`layer_stack`); 1 for one layer.

    Attributes
    ----------
    harmful_, harmless_ : array (layer, hidden)
        The centres.

    Notes
    -----
    Scores lie between -2 and 2; no state's length counts, and no length of the residual stream. A state that is zero at a layer has no score
    (NaN) and never fires, as in the authors' code. The threshold 0 is published; ``recalibrate`` sets a language's own.
    """

    learned = ("harmful_", "harmless_")

    def __init__(self, *, n_layers: int = 1):
        self.n_layers = n_layers

    def fit(self, X: Any, y: Any = None, language: Any = None, *, refused: Any = None) -> Self:
        """Learn the two centres.

        Parameters
        ----------
        X, y, language
            As in :meth:`Gate.fit`.
        refused : bool array (prompt,), optional
            Whether the unedited model refused each prompt: then the centres are those of harmful prompts refused and harmless prompts
            accepted, as published. None: all harmful and all harmless prompts.

        Raises
        ------
        DataError
            As :meth:`Gate.fit`; a width that is no multiple of ``n_layers``; no prompt for a centre; states that are zero.
        """
        self._refused = None if refused is None else np.asarray(refused, dtype=bool)
        try:
            super().fit(X, y, language)
        finally:
            del self._refused
        self.fallback_ = 0.0
        self.thresholds_ = dict.fromkeys(self.thresholds_, 0.0)
        return self

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        states = self._layers(X)
        refused = y if self._refused is None else self._refused
        if refused.shape != y.shape:
            raise DataError(f"Got {refused.shape} outcomes for {len(y)} prompts. Expected refused=[True, False, ...], one per prompt.")
        centres = []
        for told, rows in (("harmful prompts refused", y & refused), ("harmless prompts accepted", ~y & ~refused)):
            if not rows.any():
                raise DataError(f"There are no {told}, so that centre is undefined. Expected some; leave refused out to use all prompts.")
            centres.append(states[rows].mean(axis=0))
        empty = int((~np.any(states, axis=2)).any(axis=1).sum())
        if empty:
            raise DataError(f"{empty} of {len(X)} states are zero at a layer and have no cosine. Expected none to fit on; leave these prompts out.")
        self.harmful_, self.harmless_ = centres

    def _layers(self, X: np.ndarray) -> Float[np.ndarray, "prompt layer hidden"]:
        if self.n_layers < 1 or X.shape[1] % self.n_layers:
            raise DataError(f"n_layers={self.n_layers}, but states are {X.shape[1]} wide. Expected layers of equal width side by side (layer_stack).")
        return X.reshape(len(X), self.n_layers, X.shape[1] // self.n_layers)

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        states = self._layers(X)
        nearer = [row_cosines(states[:, k], self.harmful_[k]) - row_cosines(states[:, k], self.harmless_[k]) for k in range(self.n_layers)]
        total = nearer[0]
        for each in nearer[1:]:
            total = total + each
        return total / self.n_layers
