"""The baselines through TRL: supervised fine-tuning, DPO and KTO on rows that this package has tokenised.

TRL cuts prompt and completion out of one tokenised text; here the rows of :mod:`~workbench.alignment.sequences` go in as they are, so a
baseline reads the tokens that every other method reads and that inference will give. Nothing is truncated or mapped a second time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from workbench.alignment.config import TrainingConfig
from workbench.alignment.guarded import Guarded
from workbench.alignment.preference import PreferenceSet
from workbench.alignment.rows import Pair, Single, pairs_of, require_batches, rows_hash, singles_of
from workbench.alignment.trainers import DPO, KTO, SFT, Job
from workbench.models.chat import ChatModel, twin_of

#: What transformers leaves out of labels.
IGNORE = -100


class _Tokenised(Guarded):
    """Takes rows as they are."""

    def _prepare_dataset(self, dataset: Any, *_args: Any, **_options: Any) -> Any:
        return dataset


class SupervisedSteps(_Tokenised, SFTTrainer):
    """TRL's SFTTrainer under the guards of this package."""


class DPOSteps(_Tokenised, DPOTrainer):
    """TRL's DPOTrainer under the guards of this package."""


class KTOSteps(_Tokenised, KTOTrainer):
    """TRL's KTOTrainer under the guards of this package."""


def job(method: SFT | DPO | KTO, chat: ChatModel, data: PreferenceSet, config: TrainingConfig, folder: Path) -> Job:
    """Prepare a baseline.

    Raises
    ------
    DataError
        If KTO's batch or order does not allow mismatched pairs.
    """
    options: dict[str, Any] = {}
    rows: Sequence[Any]
    kind: tuple[Any, Any]
    if not isinstance(method, SFT):
        options["disable_dropout"] = False  # of the model it is off already; that of the adapter is asked for
    if isinstance(method, KTO):
        rows = singles_of(chat, data, config)
        require_batches("kto", rows, config)
        kind, table = (KTOSteps, KTOConfig), _kto_table(rows, config.batch_size)
        options |= {"beta": method.beta, "desirable_weight": method.desirable_weight, "undesirable_weight": method.undesirable_weight}
    else:
        rows = pairs_of(chat, data, config)
        if isinstance(method, DPO):
            kind, table = (DPOSteps, DPOConfig), _dpo_table(rows)
            options["beta"] = method.beta
        else:
            kind, table = (SupervisedSteps, SFTConfig), _sft_table(rows)
    arguments = config.arguments(
        str(folder), device=chat.device.type, order="sequential" if isinstance(method, KTO) else "shuffled", drop_last=isinstance(method, KTO)
    )

    def build(policy: Any, lora: Any) -> Any:
        trainer, settings = kind
        frozen = {} if trainer is SupervisedSteps else {"ref_model": None if lora is not None else twin_of(chat.model)}
        return trainer(
            model=policy,
            # of use to KTO's mismatched pairs only: rows are cut already
            args=settings(**arguments, **options, max_length=min(config.max_length, chat.context)),
            train_dataset=Dataset.from_list(table),
            processing_class=copy.deepcopy(chat.tokenizer),  # TRL gives it a padding token
            peft_config=lora,
            **frozen,
        )

    return Job(build, rows_hash(rows), 2 if isinstance(method, KTO) else 1)


def _sft_table(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    rows = [pair.chosen for pair in pairs]
    return [{"input_ids": [*row.ids], "labels": [*[IGNORE] * len(row.opening_ids), *row.completion_ids]} for row in rows]


def _dpo_table(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {"prompt_ids": [*p.chosen.opening_ids], "chosen_ids": [*p.chosen.completion_ids], "rejected_ids": [*p.rejected.completion_ids]} for p in pairs
    ]


def _kto_table(singles: Sequence[Single], batch: int) -> list[dict[str, Any]]:
    """Put beside every completion the one before it in its batch, as TRL does where it tokenises itself."""
    table = []
    for start in range(0, len(singles), batch):
        group = singles[start : start + batch]
        for row, before in zip(group, [group[-1], *group[:-1]], strict=True):
            ids = {"prompt_ids": [*row.example.opening_ids], "completion_ids": [*row.example.completion_ids]}
            table.append({**ids, "KL_completion_ids": [*before.example.completion_ids], "label": row.desirable})
    return table
