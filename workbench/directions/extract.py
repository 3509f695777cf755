"""Find the direction that points from harmless to harmful.

At each layer and position: mean state of harmful prompts minus mean state of harmless ones, over the pooled rows of
the high-resource languages (arXiv:2606.01196 pools them; Arditi et al. 2024, arXiv:2406.11717 use one language).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from workbench.directions.direction import Directions, labelled
from workbench.errors import DataError
from workbench.geometry.cells import each_layer, labels_of, positions_of, rows_of


def difference_in_means(
    states: Float[np.ndarray, "prompt hidden"], harmful: Bool[np.ndarray, " prompt"]
) -> tuple[Float[np.ndarray, " hidden"], float]:
    """Return the unit vector from the mean harmless to the mean harmful state, and the distance.

    A distance that is only rounding (1e-7 of the states' size) counts as none: zero vector, norm 0.

    Examples
    --------
    >>> difference_in_means(np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([False, True]))
    (array([0., 1.]), 2.0)
    """
    harmful = np.asarray(harmful, dtype=bool)
    if harmful.all() or not harmful.any():
        raise DataError(f"All {len(harmful)} prompts carry the same label. Expected harmful and harmless ones.")
    states = np.asarray(states, dtype=np.float64)
    raw = states[harmful].mean(axis=0) - states[~harmful].mean(axis=0)
    norm = float(np.linalg.norm(raw))
    if norm <= 1e-7 * float(np.sqrt((states**2).sum(axis=1).mean())):
        return np.zeros_like(raw), 0.0
    return raw / norm, norm


def along(
    states: Float[np.ndarray, "prompt hidden"], positive: Bool[np.ndarray, " prompt"], unit: Float[np.ndarray, " hidden"]
) -> tuple[float, float, float]:
    """Return norm, gap and baseline of a unit vector on its training states (see :class:`Directions`).

    Examples
    --------
    >>> along(np.array([[0.0, 9.0], [1.0, 9.0], [4.0, 0.0], [6.0, 0.0]]), np.array([False, False, True, True]), np.array([1.0, 0.0]))
    (4.5, 5.25, 0.5)
    """
    projected = np.asarray(states, dtype=np.float64) @ unit
    high, low = projected[positive], projected[~positive]
    baseline = float(low.mean())
    return float(high.mean()) - baseline, float(np.quantile(high, 0.75) - np.quantile(low, 0.25)), baseline


def harm_direction(acts: xr.Dataset, languages: Sequence[str], *, split: str | None = "fit") -> Directions:
    """Find the harm direction at each layer and position from the pooled prompts of some languages.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden); one layer is read at a time.
    languages : sequence of str
        High-resource languages to pool.
    split : str or None
        Meanings used; None uses all (then nothing is left to score on).

    Returns
    -------
    Directions
        Positive towards harmful, with gap and baseline.

    Raises
    ------
    DataError
        Unknown language or split, one class only, states that are not finite.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717; pooled over languages: arXiv:2606.01196.
    """
    if not len(languages):
        raise DataError("No language given to take the harm direction from. Expected the high-resource ones; pass languages=['en'].")
    labels = labels_of(acts)
    kept = rows_of(labels, split=split, languages=languages)
    harmful = labels["harmful"].to_numpy()[kept]
    layers, positions = [int(k) for k in acts["layer"].values], positions_of(acts)
    shape = len(layers), len(positions)
    unit, norm, gap, baseline = np.zeros((*shape, acts.sizes["hidden"])), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for layer, position, states in each_layer(acts, kept):
        place = layers.index(layer), positions.index(position)
        unit[place], norm[place] = difference_in_means(states, harmful)
        _, gap[place], baseline[place] = along(states, harmful, unit[place])
    metadata = {
        **{str(k): v for k, v in acts.attrs.items()},
        "method": "difference in means, pooled languages",
        "toward": "harmful",
        "sign": 1,
        "languages": list(languages),
        "split": split,
        "n_harmful": int(harmful.sum()),
        "n_harmless": int((~harmful).sum()),
    }
    return labelled(unit, norm, layers, positions, metadata, gap=gap, baseline=baseline)
