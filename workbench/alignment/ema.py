"""A teacher that follows its student slowly: the moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import DataError


class MovingAverage:
    """Keeps average = decay x average + (1 - decay) x weight, for every weight that is trained.

    It begins as the weights are when it is made; an adapter's average is as small as the adapter. A checkpoint must hold :meth:`tensors`.

    Parameters
    ----------
    model : Module
        The student; not wrapped for several processes.
    decay : float
        Share of the average that stays at each step, between 0 and 1.

    Raises
    ------
    DataError
        A decay outside of (0, 1), or a model without trained weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise DataError(f"decay={decay}: expected a number between 0 and 1, such as .99.")
        self.model, self.decay = model, decay
        # in float32: a step of a hundredth is lost in bfloat16
        self._average = {name: weight.detach().float().clone() for name, weight in self._trained()}
        if not self._average:
            raise DataError("The model has no weight with requires_grad. Expected the student as it is trained.")

    @torch.no_grad()
    def update(self) -> None:
        """Follow the student; once after every step of the optimiser."""
        for name, weight in self._trained():
            self._average[name].lerp_(weight.detach().float(), 1 - self.decay)

    @contextmanager
    def exchanged(self) -> Iterator[Any]:
        """Let the student's modules hold the average inside the ``with``, without gradients; yields the model.

        Open it before a pass whose gradients are wanted, never between that pass and ``backward``.
        """
        own = {name: weight.data for name, weight in self._trained()}
        try:
            for name, weight in self._trained():
                weight.data = self._average[name].to(weight.dtype)
            with torch.no_grad():
                yield self.model
        finally:
            for name, weight in self._trained():
                weight.data = own[name]

    def tensors(self) -> dict[str, Tensor]:
        """Return a copy of the averages by weight name, for a safetensors file."""
        return {name: value.clone().contiguous() for name, value in self._average.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from averages that :meth:`tensors` gave.

        Raises
        ------
        DataError
            If they are another model's.
        """
        differing = sorted({*self._average} ^ {*tensors})
        differing += [name for name in self._average if name in tensors and tensors[name].shape != self._average[name].shape]
        if differing:
            raise DataError(f"{len(differing)} averages do not fit the model, such as {differing[0]}. Expected those saved with this training.")
        for name, value in self._average.items():
            value.copy_(tensors[name])

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)
