"""The network that reads harm from one state of a frozen model, and how it is trained.

Constants are those of LASA's released code (arXiv:2604.12710, card 1.5) where a tag says [S]; [I] are ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.errors import DataError, TrainingError, did_you_mean
from workbench.statistics import balanced_accuracy

#: Hidden layers and dropout of both released architectures [S]. "deep" is what the release trains by default; "simple" is what its loader
#: expects, and, by its size on an 8 B model (0.21 % of it), most likely what the paper used [I].
WIDTHS = {"deep": ((256, 128), 0.2), "simple": ((4096,), 0.1)}


@dataclass(frozen=True)
class InterpreterOptions:
    """How the interpreter is trained; defaults are the release's.

    Attributes
    ----------
    learning_rate, weight_decay, batch_size, clip : float, float, int, float
        AdamW at 1e-3 with decay 1e-4, batches of 64, gradient norm at most 1 [S].
    epochs, stop_after : int
        At most 20, and no more after 5 without a better one [S].
    patience, factor : int, float
        The rate is multiplied by .5 when accuracy on the held-out rows has not risen for more than 2 epochs [S].
    benign_per_language : int or None
        Harmless rows used per language, drawn at random: 200 [S]; None uses all. Harmful rows are all used [S].
    thresholds : tuple of float
        First, last and step of the thresholds tried: .30, .70, .01 [S].
    device : str
        Where it is trained; "cpu" repeats bit for bit with the same seed and number of threads.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 64
    clip: float = 1.0
    epochs: int = 20
    stop_after: int = 5
    patience: int = 2
    factor: float = 0.5
    benign_per_language: int | None = 200
    thresholds: tuple[float, float, float] = (0.30, 0.70, 0.01)
    device: str = "cpu"

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("batch_size", "epochs", "stop_after", "patience", "benign_per_language")}
        small = [f"{name}={value}" for name, value in counts.items() if value is not None and value < 1]
        low, high, step = self.thresholds
        if small or not (self.learning_rate > 0 and 0 < low <= high < 1 and step > 0):
            raise DataError(
                f"The interpreter got {', '.join(small) or f'learning_rate={self.learning_rate}, thresholds={self.thresholds}'}. Expected whole "
                "numbers of at least 1, a rate above 0, and thresholds (first, last, step) between 0 and 1."
            )


class Trained(NamedTuple):
    """A trained network, with which epoch its weights are from.

    Attributes
    ----------
    network : nn.Sequential
        Weights of the best epoch, in eval mode, on the CPU.
    best_epoch : int
        Counted from 1.
    epochs : int
        Epochs that were run.
    accuracy, loss : float
        Balanced accuracy (at .5) and mean log loss on the held-out rows, after the best epoch.
    """

    network: nn.Sequential
    best_epoch: int
    epochs: int
    accuracy: float
    loss: float


def require_width(width: str) -> None:
    """Refuse an unknown architecture."""
    if width not in WIDTHS:
        raise DataError(f"Unknown width {width!r}. Expected one of {list(WIDTHS)}.{did_you_mean(str(width), WIDTHS)}")


def build_network(hidden_size: int, width: str) -> nn.Sequential:
    """Build the untrained network: Linear, LayerNorm, GELU, Dropout per hidden layer, then one logit.

    Parameters
    ----------
    hidden_size : int
        Width of the states, which are read as they are: LayerNorm takes their scale out after the first layer.
    width : {"deep", "simple"}
        D -> 256 -> 128 -> 1, or D -> 4096 -> 1.
    """
    require_width(width)
    sizes, dropout = WIDTHS[width]
    layers: list[nn.Module] = []
    for before, after in pairwise((hidden_size, *sizes)):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def train_network(
    states: Float[np.ndarray, "prompt hidden"],
    harmful: Bool[np.ndarray, " prompt"],
    held_out: Float[np.ndarray, "other hidden"],
    held_out_harmful: Bool[np.ndarray, " other"],
    *,
    width: str = "deep",
    options: InterpreterOptions | None = None,
    seed: int = 0,
) -> Trained:
    """Train on some rows and keep the epoch that is best on others.

    Binary cross-entropy without class weights [S]. The best epoch is the one with the highest balanced accuracy on the held-out rows, and
    among equal ones the one with the lowest loss [I]: the release takes the first of equals by plain accuracy, which is the least trained,
    and leans to the larger class. Its weights are a copy of their own; a plain reference to the state dict would follow the network to the
    last epoch, as it does in the release (card 1.10, trap 4).

    Parameters
    ----------
    seed : int
        Draws initial weights, order and dropout. The caller's generators stay as they were.

    Raises
    ------
    TrainingError
        The loss is not finite.
    """
    options = options or InterpreterOptions()
    x, y, x_held = (torch.as_tensor(np.asarray(v, dtype=np.float32), device=options.device) for v in (states, harmful, held_out))
    y_held = torch.as_tensor(np.asarray(held_out_harmful, dtype=np.float32), device=options.device)
    with torch.random.fork_rng(devices=[] if torch.device(options.device).type == "cpu" else [torch.device(options.device)]):
        torch.manual_seed(seed)
        network = build_network(x.shape[1], width).to(options.device)
        optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode="max", patience=options.patience, factor=options.factor)
        best: Trained | None = None
        for epoch in range(1, options.epochs + 1):
            _one_epoch(network, optimiser, x, y, options)
            accuracy, loss = _held_out(network, x_held, y_held)
            plateau.step(accuracy)
            if best is None or (accuracy, -loss) > (best.accuracy, -best.loss):
                best = Trained(copy.deepcopy(network).cpu(), epoch, epoch, accuracy, loss)
            if epoch - best.best_epoch >= options.stop_after:
                break
    assert best is not None
    return best._replace(epochs=epoch)


def _one_epoch(network: nn.Sequential, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, options: InterpreterOptions) -> None:
    network.train()
    for rows in torch.randperm(len(x)).split(options.batch_size):
        loss = nn.functional.binary_cross_entropy_with_logits(network(x[rows])[:, 0], y[rows])
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                "The interpreter's loss is not finite. Expected states of moderate length: capture them in float32, read another layer, or "
                f"lower the learning rate ({options.learning_rate:g})."
            )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), options.clip)
        optimiser.step()
    network.eval()


@torch.no_grad()
def _held_out(network: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, float]:
    logits = network(x)[:, 0]
    loss = float(nn.functional.binary_cross_entropy_with_logits(logits, y))
    return balanced_accuracy(y.bool().cpu().numpy(), (logits > 0).cpu().numpy()), loss


@torch.no_grad()
def probabilities(network: nn.Sequential, states: Float[np.ndarray, "prompt hidden"]) -> Float[np.ndarray, " prompt"]:
    """Return the probability of harm of each state, in float64, so that the company a row is in does not show.

    Examples
    --------
    >>> network = build_network(4, "deep").eval()
    >>> probabilities(network, np.zeros((3, 4))).shape
    (3,)
    """
    wide = copy.deepcopy(network).double().eval()
    return torch.sigmoid(wide(torch.as_tensor(np.asarray(states, dtype=np.float64)))[:, 0]).numpy()


def choose_threshold(
    probability: Float[np.ndarray, " prompt"], harmful: Bool[np.ndarray, " prompt"], grid: tuple[float, float, float] = (0.30, 0.70, 0.01)
) -> float:
    """Return the threshold with the best balanced accuracy among .30, .31, ... .70; of equal ones the one nearest to .5.

    The release maximises plain accuracy, which is the same where the classes are equally many; where harmful rows are more, it buys
    accuracy with over-refusal [I].

    Examples
    --------
    >>> choose_threshold(np.array([0.1, 0.4, 0.45, 0.9]), np.array([False, False, True, True]))
    0.44
    """
    low, high, step = grid
    candidates = np.round(np.arange(low, high + step / 2, step), 10)
    accuracy = np.array([balanced_accuracy(harmful, probability > t) for t in candidates])
    tied = candidates[accuracy >= accuracy.max() - 1e-12]
    return float(tied[np.abs(tied - 0.5).argmin()])
