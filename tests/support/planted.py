"""Activations with a known truth, built straight as labelled arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

LANGUAGES = tuple(f"qa{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")


def activations(
    states: np.ndarray,
    *,
    harmful: np.ndarray | None = None,
    splits: bool = True,
    n_high: int = 3,
    positions: Sequence[str] | None = None,
    **attrs: object,
) -> xr.Dataset:
    """Label states (language, meaning, layer, position, hidden) as ``capture`` would; half of the meanings harmful."""
    n_languages, n, n_layers, n_positions, _ = states.shape
    labels = np.arange(n) % 2 == 0 if harmful is None else harmful
    names = np.array(LANGUAGES[:n_languages])
    languages, meanings = np.repeat(names, n), np.tile([f"m{i}" for i in range(n)], n_languages)
    # meanings come in pairs (harmful, harmless), so each split holds both classes
    split = np.array(["fit", "fit", "select", "score"])[(np.arange(n) // 2) % 4]
    tier = np.where(np.arange(n_languages) < n_high, "high", "low")
    coords = {
        "prompt": [f"{a}:{m}" for a, m in zip(languages, meanings, strict=True)],
        "meaning_id": ("prompt", meanings),
        "language": ("prompt", languages),
        "harmful": ("prompt", np.tile(labels, n_languages)),
        "category": ("prompt", np.full(n * n_languages, None, dtype=object)),
        "split": ("prompt", np.tile(split, n_languages) if splits else np.full(n * n_languages, None, dtype=object)),
        "tier": ("prompt", np.repeat(tier, n)),
        "n_tokens": ("prompt", np.tile(10 + np.arange(n) % 5, n_languages)),
        "n_chars": ("prompt", np.tile(40 + np.arange(n) % 7, n_languages)),
        "layer": np.arange(n_layers),
        "position": list(positions or ("t_inst", "t_post_inst")[:n_positions]),
    }
    flat = states.reshape(n_languages * n, n_layers, n_positions, -1).astype(np.float32)
    return xr.Dataset(
        {"residual": (("prompt", "layer", "position", "hidden"), flat)}, coords=coords, attrs={"model": "planted", "fingerprint": "f0", **attrs}
    )


def additive(
    rng: np.random.Generator,
    language: Sequence[float] | np.ndarray,
    meaning: Sequence[float] | np.ndarray,
    *,
    n_languages: int = 8,
    n: int = 64,
    hidden: int = 64,
    noise: float = 1.0,
    shared_noise: bool = False,
    towers: np.ndarray | None = None,
) -> np.ndarray:
    """States = strength x language vector + strength x meaning vector + unit noise, one strength per layer.

    Returns
    -------
    array (language, meaning, layer, 1, hidden)
    """
    by_language = rng.normal(size=(n_languages, 1, hidden)) if towers is None else towers
    by_meaning = rng.normal(size=(1, n, hidden))
    fixed = rng.normal(size=(n_languages, n, hidden))
    layers = [
        s_language * by_language + s_meaning * by_meaning + noise * (fixed if shared_noise else rng.normal(size=(n_languages, n, hidden)))
        for s_language, s_meaning in zip(language, meaning, strict=True)
    ]
    return np.stack(layers, axis=2)[:, :, :, None]


def with_harm(
    rng: np.random.Generator,
    strength: float | np.ndarray = 2.0,
    *,
    n_languages: int = 8,
    n: int = 128,
    n_layers: int = 5,
    n_positions: int = 2,
    hidden: int = 32,
    shift: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """States with harm along one axis, strength x (layer / last layer) per language; optional shift of a language along it.

    Returns
    -------
    states (language, meaning, layer, position, hidden), axis (hidden,)
    """
    axis = rng.normal(size=hidden)
    axis /= np.linalg.norm(axis)
    strength = np.broadcast_to(strength, n_languages)
    shift = np.zeros(n_languages) if shift is None else shift
    depth = np.arange(n_layers) / (n_layers - 1)
    sign = np.where(np.arange(n) % 2 == 0, 0.5, -0.5)
    along = strength[:, None, None] * sign[None, :, None] * depth + shift[:, None, None]
    states = rng.normal(size=(n_languages, n, n_layers, n_positions, hidden))
    states += along[..., None, None] * axis
    return states, axis
