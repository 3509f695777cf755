"""Fixtures that every room uses: a random generator, the shared public data and tiny random models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
import pytest
from jaxtyping import install_import_hook

from tests.tiny import build_model, build_tokenizer

# shapes in signatures are checked while tests run
install_import_hook(
    ["workbench.models", "workbench.activations", *(f"workbench.interventions.{name}" for name in ("acts", "scopes"))],
    "beartype.beartype",
)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return the generator that tests draw from."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of shared public data and weights, or skip."""
    folder = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set WORKBENCH_SHARED)")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Return the small trained tokenizer; treat it as read-only."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Any) -> Callable[..., Any]:
    """Return a factory of tiny checked ChatModels: ``tiny_model("llama")``; same arguments give the same object.

    Treat it as read-only (edits in context managers are fine); ``load_model(build_model(...))`` makes one of your own.
    """
    from workbench.models.load import load_model

    made: dict[Any, Any] = {}

    def factory(family: str = "llama", *, n_layers: int = 4, hidden_size: int = 32, seed: int = 0) -> Any:
        key = (family, n_layers, hidden_size, seed)
        if key not in made:
            model = build_model(family, n_layers=n_layers, hidden_size=hidden_size, vocab_size=len(tiny_tokenizer), seed=seed)
            made[key] = load_model(model, tokenizer=tiny_tokenizer)
        return made[key]

    return factory
