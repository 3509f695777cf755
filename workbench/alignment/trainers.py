"""One call for every repair by training: what is optimised is a small object, how the loop runs a configuration, what is learned from the data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.alignment.conditioning import Condition
from workbench.alignment.config import TrainingConfig
from workbench.alignment.engine import Build, TrainedModel, fit
from workbench.alignment.interpreter import SafetyInterpreter
from workbench.alignment.msd import MSD
from workbench.errors import DataError, did_you_mean
from workbench.models.chat import ChatModel

if TYPE_CHECKING:
    from workbench.alignment.watch import Monitor


#: Which rows of LASA carry the sentence.
SIGNALS = ("source", "interpreter")


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning on the chosen replies (TRL's SFTTrainer). Data: PreferenceSet."""


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation of pairs (TRL's DPOTrainer; Rafailov et al. 2023, arXiv:2305.18290). Data: PreferenceSet."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        _require_numbers(self, above_zero=("beta",))


@dataclass(frozen=True)
class KTO:
    """Kahneman-Tversky optimisation of single replies (TRL's KTOTrainer; Ethayarajh et al. 2024, arXiv:2402.01306). Data: PreferenceSet."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        _require_numbers(self, above_zero=("beta",), from_zero=("desirable_weight", "undesirable_weight"))


@dataclass(frozen=True)
class LASA:
    """KTO conditioned on the sentence that a harmful request was detected (LASA, arXiv:2604.12710, stage 3). Data: PreferenceSet.

    Attributes
    ----------
    condition : Condition
        The sentence and the share of rows that carry it.
    signal : {"source", "interpreter"}
        Which rows carry it: drawn by their source (as released), or those whose prompt the interpreter flags (as the paper describes).
    interpreter : SafetyInterpreter, optional
        For the second signal; reads the untrained model.
    beta, desirable_weight, undesirable_weight : float
        As for KTO.
    """

    condition: Condition = field(default_factory=Condition)
    signal: str = "source"
    interpreter: SafetyInterpreter | None = None
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        _require_numbers(self, above_zero=("beta",), from_zero=("desirable_weight", "undesirable_weight"))
        if self.signal not in SIGNALS:
            raise DataError(f"signal={self.signal!r}: expected one of {', '.join(SIGNALS)}.{did_you_mean(str(self.signal), SIGNALS)}")


@dataclass(frozen=True)
class MPO:
    """Bring every language's reward gap to the reference language's (MPO, arXiv:2505.16869). Data: PreferenceSet with twins in the reference."""

    reference: str = "en"
    beta: float = 1.0

    def __post_init__(self) -> None:
        _require_numbers(self, above_zero=("beta",))


@dataclass(frozen=True)
class MLC:
    """Learn the chosen replies of the reference language, and one state for all translations of a prompt (MLC, arXiv:2602.16660).

    Data: PreferenceSet with parallel prompts. loss = SFT in the reference language + ``weight`` x consistency of last-token states.

    Attributes
    ----------
    reference : str
        Language of the replies that are learned.
    weight, temperature : float
        Of the consistency; published values are not known (inferred).
    projection : int, optional
        Dimensions of a fixed random projection (drawn by the seed) in front of the normalisation; None takes the states themselves. The
        published one is learnt (secondary notes); a learnt one can meet the loss by itself, and is thrown away afterwards (inferred).
    """

    reference: str = "en"
    weight: float = 1.0
    temperature: float = 0.1
    projection: int | None = None

    def __post_init__(self) -> None:
        _require_numbers(self, above_zero=("temperature",), from_zero=("weight",))
        if self.projection is not None and self.projection < 1:
            raise DataError(f"projection={self.projection}: expected a whole number of at least 1, such as 64, or none for the states themselves.")


Method = SFT | DPO | KTO | LASA | MSD | MPO | MLC
#: Name to class and the module that trains it.
METHODS: dict[str, tuple[type[Any], str]] = {
    "sft": (SFT, "baselines"),
    "dpo": (DPO, "baselines"),
    "kto": (KTO, "baselines"),
    "lasa": (LASA, "lasa_trainer"),
    "msd": (MSD, "msd_trainer"),
    "mpo": (MPO, "multilingual_trainers"),
    "mlc": (MLC, "multilingual_trainers"),
}


class Job(NamedTuple):
    """What a method gives the engine.

    Attributes
    ----------
    build : callable
        As :func:`~workbench.alignment.engine.fit` takes it.
    rows : str
        Hash of what is learned, for continuing.
    smallest_batch : int
        The least rows a pass needs.
    """

    build: Build
    rows: str
    smallest_batch: int = 1


def train(
    method: str | Method,
    chat: ChatModel,
    data: Any,
    config: TrainingConfig,
    out: str | Path,
    monitor: Monitor | None = None,
    *,
    progress: bool = True,
    keep_checkpoints: bool = False,
) -> TrainedModel:
    """Train a copy of a model; nothing but checkpoints is written, and those are removed at the end.

    Parameters
    ----------
    method : str or Method
        ``"sft"``, ``"dpo"``, ``"kto"``, ``"lasa"``, ``"msd"``, ``"mpo"``, ``"mlc"``, or one of their objects with settings.
    chat : ChatModel
        The start, which is the reference too; stays as it is.
    data : PreferenceSet, or list of Query for MSD
        What is learned; of preferences the fit split.
    config : TrainingConfig
        How the loop runs.
    out : path
        Checkpoints go to ``out/.training``; called again with the same arguments after a kill, the training goes on from there.
    monitor : callable, optional
        ``monitor(step, model)`` returns rows with statistic, language and value, kept in the history.
    progress : bool
        Whether to show the bar.
    keep_checkpoints : bool
        Leave the last ones, so that a second call returns the model at once.

    Returns
    -------
    TrainedModel

    Raises
    ------
    DataError
        If the data or the configuration does not fit the method, or memory runs out (with the batch size to use).
    TrainingError
        If a loss is not finite; the last good checkpoint is kept.
    StoreMismatchError
        If ``out`` holds another unfinished training.

    Examples
    --------
    >>> trained = train("dpo", chat, preferences, TrainingConfig(max_steps=100), "runs/dpo")  # doctest: +SKIP
    >>> trained.save("runs/dpo/model", chat)  # doctest: +SKIP
    """
    from importlib import import_module

    chosen = method_of(method)
    name = name_of(chosen)
    folder = Path(out) / ".training"
    job: Job = import_module(f"workbench.alignment.{METHODS[name][1]}").job(chosen, chat, data, config, folder)
    return fit(
        job.build,
        chat,
        config,
        folder,
        name=name,
        spec={"options": _told(chosen), "rows": job.rows},
        smallest_batch=job.smallest_batch,
        monitor=monitor,
        progress=progress,
        keep_checkpoints=keep_checkpoints,
    )


def method_of(method: str | Method) -> Method:
    """Return a method's object; a name gives it with its defaults.

    Raises
    ------
    DataError
        If there is no such method.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise DataError(f"There is no training {method!r}. Expected one of {', '.join(METHODS)}.{did_you_mean(method, METHODS)}")
        return METHODS[method][0]()
    name_of(method)
    return method


def name_of(method: Method) -> str:
    """Return a method's name."""
    for name, (kind, _) in METHODS.items():
        if type(method) is kind:
            return name
    raise DataError(
        f"{type(method).__name__} is no training. Expected one of {', '.join(kind.__name__ for kind, _ in METHODS.values())}, or its name."
    )


def _require_numbers(method: Any, *, above_zero: Sequence[str] = (), from_zero: Sequence[str] = ()) -> None:
    """Refuse settings that would turn a loss around (a preference would then be unlearned) or make it no number."""
    for names, least in ((above_zero, "above 0"), (from_zero, "of at least 0")):
        for name in names:
            value = getattr(method, name)
            if not math.isfinite(value) or value < 0 or (names is above_zero and value == 0):
                default = next(field.default for field in fields(method) if field.name == name)
                raise DataError(f"{name}={value}: expected a number {least}, such as {default}.")


def _told(method: Method) -> dict[str, Any]:
    """Return a method's settings for a record; what is no plain value shows in the rows."""
    told = {}
    for key, value in vars(method).items():
        if key != "interpreter":
            told[key] = vars(value) if hasattr(value, "__dict__") else value
    return json.loads(json.dumps(told))
