"""How each training runs where its user does not say: as published for real models, and at the size of the organism."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from workbench.alignment.config import LoraOptions, TrainingConfig
from workbench.alignment.trainers import LASA, Method, method_of
from workbench.errors import DataError, did_you_mean

#: For models of billions of parameters. LASA: its run script (card 1.6; 16 rows a step). MPO: its configuration for Llama-3.1 and Qwen2.5. MSD:
#: the rate of COPSD, a relative (MSD's own is not known: inferred). DPO, KTO, SFT: usual rates (inferred); MLC: none is published (inferred).
PUBLISHED: dict[str, TrainingConfig] = {
    "sft": TrainingConfig(learning_rate=1e-5, epochs=2, batch_size=4, accumulation=4),
    "dpo": TrainingConfig(learning_rate=1e-6, epochs=2, batch_size=4, accumulation=4),
    "kto": TrainingConfig(learning_rate=1e-6, epochs=3, batch_size=4, accumulation=4, warmup=100),
    "lasa": TrainingConfig(learning_rate=1e-6, epochs=3, batch_size=4, accumulation=4, warmup=100, max_length=512),
    "msd": TrainingConfig(learning_rate=5e-6, epochs=1, batch_size=4, accumulation=4, grad_clip=0.1),
    "mpo": TrainingConfig(learning_rate=6e-7, epochs=2, batch_size=2, accumulation=8),
    "mlc": TrainingConfig(learning_rate=1e-6, epochs=2, batch_size=2, accumulation=8),
}
_SMALL = TrainingConfig(learning_rate=3e-4, epochs=3, batch_size=32, accumulation=1, max_length=64, eval_every=25, save_every=25)
#: For the organism (1.9 million parameters): the best of what tests/benchmarks/training_rates.py tried on the select split of the shipped one.
ORGANISM: dict[str, TrainingConfig] = {
    "sft": replace(_SMALL, learning_rate=1e-3),
    "dpo": _SMALL,
    "kto": _SMALL,
    "lasa": _SMALL,
    "msd": replace(_SMALL, learning_rate=1e-3),
    "mpo": replace(_SMALL, learning_rate=1e-4),
    "mlc": replace(_SMALL, learning_rate=1e-3),
}
#: Settings of a method that suit the organism better than the published ones, chosen by the same search.
ORGANISM_METHODS: dict[str, Method] = {"lasa": LASA(beta=0.5)}


def method_for(name: str, *, organism: bool) -> Method:
    """Return a method with the settings it has where its user gives none.

    Parameters
    ----------
    organism : bool
        Whether the model is an organism.
    """
    return ORGANISM_METHODS.get(name, method_of(name)) if organism else method_of(name)


def config_for(method: str, *, organism: bool, seed: int, lora_rank: int | None = None, **given: Any) -> TrainingConfig:
    """Return the defaults of a method with what was given in their place.

    Parameters
    ----------
    organism : bool
        Whether the model is an organism.
    lora_rank : int, optional
        Train an adapter of this rank, with alpha twice as large.
    **given
        Fields of :class:`~workbench.alignment.config.TrainingConfig`; None leaves the default.
    """
    known = {field.name for field in fields(TrainingConfig)}
    for name in given:
        if name not in known:
            raise DataError(f"There is no training setting {name!r}. Expected one of {', '.join(sorted(known))}.{did_you_mean(name, sorted(known))}")
    base = (ORGANISM if organism else PUBLISHED)[method]
    lora = None if lora_rank is None else LoraOptions(rank=lora_rank, alpha=2.0 * lora_rank)
    return replace(base, seed=seed, lora=lora, **{name: value for name, value in given.items() if value is not None})


__all__ = ["ORGANISM", "ORGANISM_METHODS", "PUBLISHED", "config_for", "method_for"]
