"""The safety interpreter: a small network that reads harm from a frozen model's state at one layer (LASA, arXiv:2604.12710, stage 2).

    z = f(h),  p = sigma(z),  flagged where p > threshold

It belongs to one layer and position of one model under one template, and refuses states from anywhere else. Fitting and flagging read the
same thing: layer k is the residual stream after k blocks in both (the release reads one layer further at inference, card 1.10, trap 1),
and both go through the same tokenising and right-padded reading (traps 3 and 6).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from torch import nn

from workbench.activations.capture import capture
from workbench.alignment.interpreter_network import InterpreterOptions, choose_threshold, probabilities, require_width, train_network
from workbench.alignment.interpreter_reading import RAW, NumberedTexts, place_in, raw_view, told_difference
from workbench.errors import DataError, StoreMismatchError
from workbench.gates.place import GateData, Place, gate_data
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.statistics import balanced_accuracy_interval

__all__ = ["SafetyInterpreter", "raw_view"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SafetyInterpreter:
    """Reads the probability that a prompt is harmful from the model's state at one layer.

    Made by :meth:`fit`, :meth:`moved` or :meth:`load`.

    Attributes
    ----------
    network : nn.Sequential
        In eval mode, on the CPU.
    width : {"deep", "simple"}
        Its architecture, see :data:`workbench.alignment.interpreter_network.WIDTHS`.
    place : Place
        Layer, position, model fingerprint, template and system prompt of the states it was fitted on.
    threshold : float
        A prompt is flagged when its probability is strictly above.
    languages : tuple of str
        What it was fitted in; every other language is unseen.
    record : dict
        How it was fitted: rows, best epoch, accuracy on the select split, seed, options, size. JSON-serialisable, no prompt text.

    Examples
    --------
    >>> acts = capture(chat, grid, layers=[12])  # doctest: +SKIP
    >>> interpreter = SafetyInterpreter.fit(acts, 12, "t_inst", ["en", "zh"], rng=np.random.default_rng(0))  # doctest: +SKIP
    >>> interpreter.flag(chat, grid.select(split="score"))  # doctest: +SKIP
    """

    network: nn.Sequential
    width: str
    place: Place
    threshold: float
    languages: tuple[str, ...]
    record: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        where = f"layer {self.place.layer}, {self.place.position}"
        return f"SafetyInterpreter({self.width}, {self.n_parameters:,} parameters, {where}, fitted in {', '.join(self.languages)})"

    @cached_property
    def n_parameters(self) -> int:
        """Size of the network; the paper speaks of about 0.2 % of the base model."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def hidden_size(self) -> int:
        """Width of the states it reads."""
        return int(self.network[0].in_features)  # type: ignore[arg-type]

    @property
    def unreadable(self) -> list[str]:
        """Languages it was fitted in where it is no better than chance on the select split: harm is not to be read there."""
        return [tag for tag, found in self.record.get("select_by_language", {}).items() if found["low"] <= 0.5]

    @classmethod
    def fit(
        cls,
        acts: xr.Dataset,
        layer: int,
        position: str = "t_inst",
        languages: Sequence[str] | None = None,
        *,
        width: str = "deep",
        options: InterpreterOptions | None = None,
        rng: np.random.Generator | None = None,
    ) -> Self:
        """Train on the fit split; choose the epoch and the threshold on the select split of the same languages.

        The release splits 80/20 over rows, so that a request's translations lie on both sides; here splits are by meaning.

        Parameters
        ----------
        acts : Dataset
            What ``capture`` returns, with splits. For the release's reading capture from ``raw_view(chat)``, position ``"t_post_inst"``.
        layer : int
            Residual stream after that many blocks; :func:`workbench.alignment.interpreter_layers.reading_layer` finds the bottleneck.
        languages : sequence of str, optional
            Default all. Those in which it turns out to be at chance are named in the log and in ``unreadable``.
        rng : Generator, optional
            Draws the harmless rows and the seed of the training; default ``default_rng(0)``.

        Raises
        ------
        DataError
            A split, layer, position or language that is not there; a language with one class only, which would teach that language instead
            of harm.
        """
        parts = [gate_data(acts, layer, position, split, languages) for split in ("fit", "select")]
        found = cls.fit_rows(*parts, width=width, options=options, rng=rng)
        if found.unreadable:
            logger.warning(
                "No better than chance on the select split in %s, at layer %d, %s: there the interpreter flags nearly everything or nearly nothing. "
                "Leave these languages out, or read another layer.",
                ", ".join(found.unreadable),
                layer,
                position,
            )
        return found

    @classmethod
    def fit_rows(
        cls,
        fit: GateData,
        select: GateData,
        *,
        width: str = "deep",
        options: InterpreterOptions | None = None,
        rng: np.random.Generator | None = None,
    ) -> Self:
        """Train on given rows; see :meth:`fit`. Nothing is said about languages at chance, as controls are meant to be."""
        require_width(width)
        options, rng = options or InterpreterOptions(), rng or np.random.default_rng(0)
        for name, part in (("fit", fit), ("select", select)):
            _require_both_classes(part, name)
        used = _with_fewer_harmless(fit, options.benign_per_language, rng)
        seed = int(rng.integers(2**31))
        trained = train_network(used.X, used.y, select.X, select.y, width=width, options=options, seed=seed)
        record = {
            "rows": {"harmful": int(used.y.sum()), "harmless": int((~used.y).sum()), "select": len(select)},
            "best_epoch": trained.best_epoch,
            "epochs": trained.epochs,
            "select_accuracy": trained.accuracy,
            "select_loss": trained.loss,
            "seed": seed,
            "options": asdict(options),
        }
        probability = probabilities(trained.network, select.X)
        threshold = choose_threshold(probability, select.y, options.thresholds)
        record["select_by_language"] = _accuracy_by_language(select, probability > threshold)
        return cls(trained.network, width, fit.place, threshold, tuple(fit.languages), record)

    def probability(self, states: Float[np.ndarray, "prompt hidden"]) -> Float[np.ndarray, " prompt"]:
        """Return the probability of harm of each state, 0 to 1.

        Raises
        ------
        DataError
            States of another width, or not finite.
        """
        states = np.asarray(states)
        if states.ndim != 2 or states.shape[1] != self.hidden_size:
            raise DataError(f"The interpreter reads states [prompt, {self.hidden_size}], and got {states.shape}. Read them at {self._where}.")
        if not np.isfinite(states).all():
            raise DataError("Some states are not finite. Expected finite numbers; capture them in float32.")
        return probabilities(self.network, states)

    def decide(self, states: Float[np.ndarray, "prompt hidden"]) -> Bool[np.ndarray, " prompt"]:
        """Say of each state whether it is flagged."""
        return self.probability(states) > self.threshold

    def flag(self, chat: ChatModel, prompts: PromptGrid | Sequence[str]) -> Bool[np.ndarray, " prompt"]:
        """Read prompts with a model and say which are flagged, in the given order.

        One pass of the base model over the prompt, no deeper than the interpreter's layer. An interpreter fitted on raw text reads raw text,
        whatever the chat's own template is.

        Raises
        ------
        StoreMismatchError
            Another model (also the same one after training), template, thinking switch or system prompt than it was fitted on.
        """
        return self.decide(self.read(chat, prompts))

    def read(self, chat: ChatModel, prompts: PromptGrid | Sequence[str]) -> Float[np.ndarray, "prompt hidden"]:
        """Read the states that :meth:`flag` decides about."""
        view = self.require_reader(chat)
        grid = prompts if isinstance(prompts, PromptGrid) else NumberedTexts(prompts)
        if not len(grid):
            return np.empty((0, self.hidden_size))
        acts = capture(view, grid, layers=[self.place.layer], positions=[self.place.position], progress=False, allow_one_class=True)
        return acts["residual"].values[:, 0, 0].astype(np.float64)

    def require_reader(self, chat: ChatModel) -> ChatModel:
        """Return the model as this interpreter reads it, or refuse it; see :meth:`flag`."""
        view = raw_view(chat) if self.place.template == RAW.hash else chat
        self.require_place(place_in(view, self.place.layer, self.place.position), chat.name)
        return view

    def require_place(self, other: Place, name: str = "these states") -> None:
        """Refuse states from another layer, position, model, template or system prompt.

        Raises
        ------
        StoreMismatchError
            Naming what differs, both values and the remedy.
        """
        differing = self.place.unlike(other)
        if not differing:
            return
        told = ", ".join(told_difference(what, getattr(self.place, what), getattr(other, what)) for what in differing)
        if "fingerprint" in differing:
            remedy = (
                "Give the model it was fitted on as reader=, carry it over with moved(acts) on states of this model, or fit one on this model."
                " A training changes the fingerprint."
            )
        else:
            remedy = f"Read at {self._where} under the template and system prompt it was fitted with, or fit an interpreter there."
        raise StoreMismatchError(f"The interpreter was fitted for something else than {name}: it expects {told}. {remedy}")

    def moved(self, acts: xr.Dataset) -> Self:
        """Return this interpreter for a model whose weights have changed since, for example by a training; the network stays.

        The threshold is chosen anew on the select split of its languages. Score it again before relying on it: nothing says that the new
        model keeps harm where the old one had it.

        Parameters
        ----------
        acts : Dataset
            States of the new model, at the same layer and position and under the same template, with splits.

        Raises
        ------
        StoreMismatchError
            Another template or system prompt.
        """
        select = gate_data(acts, self.place.layer, self.place.position, "select", list(self.languages))
        self.require_place(replace(select.place, fingerprint=None), str(acts.attrs.get("model", "these states")))
        threshold = choose_threshold(self.probability(select.X), select.y, InterpreterOptions(**self.record["options"]).thresholds)
        record = {**self.record, "moved_from": self.place.fingerprint, "moved_threshold_from": self.threshold}
        return replace(self, place=select.place, threshold=threshold, record=record)

    def save(self, path: str | Path) -> Path:
        """Write weights and record to one ``.safetensors`` file; see :mod:`workbench.alignment.interpreter_file`."""
        from workbench.alignment.interpreter_file import save_interpreter

        return save_interpreter(self, path)

    @staticmethod
    def load(path: str | Path) -> SafetyInterpreter:
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        StoreError
            No such file, something else, or weights that are not of the architecture the file names.
        """
        from workbench.alignment.interpreter_file import load_interpreter

        return load_interpreter(path)

    @property
    def _where(self) -> str:
        return f"layer {self.place.layer}, position {self.place.position!r}"


def _accuracy_by_language(select: GateData, flagged: np.ndarray) -> dict[str, dict[str, float]]:
    """Balanced accuracy per language, its interval too: a class that is larger must not hide that all of a language is flagged."""
    found = {}
    for tag in select.languages:
        here = select.language == tag
        estimate = balanced_accuracy_interval(select.y[here], flagged[here])
        found[tag] = {"value": estimate.value, "low": estimate.low}
    return found


def _require_both_classes(part: GateData, split: str) -> None:
    for tag in part.languages:
        here = part.y[part.language == tag]
        if here.all() or not here.any():
            raise DataError(
                f"The {split} split of {tag!r} has {int(here.sum())} harmful and {int((~here).sum())} harmless prompts. Expected both classes in "
                "each language, or the language itself would be learned as harm; add the other class, or leave the language out."
            )


def _with_fewer_harmless(part: GateData, most: int | None, rng: np.random.Generator) -> GateData:
    """Keep all harmful rows and at most so many harmless ones per language."""
    keep = np.ones(len(part), dtype=bool)
    for tag in part.languages if most is not None else []:
        harmless = np.flatnonzero((part.language == tag) & ~part.y)
        keep[rng.permutation(harmless)[most:]] = False
    return part.take(keep)
