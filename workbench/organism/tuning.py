"""The one loop that every stage of training runs: draw losses, step, report, save."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer

from workbench.organism.network import noisy_residual, rate_factor

Losses = Callable[[int], Iterator[Tensor]]


def tune(
    model: nn.Module,
    opts: list[Optimizer],
    losses: Losses,
    *,
    label: str,
    first: int,
    steps: int,
    noise: float,
    tick: Callable[[float], None],
    save: Callable[[int], None],
    save_every: int,
) -> None:
    """Run the steps of a stage that are left.

    Parameters
    ----------
    opts : list of Optimizer
        From :func:`workbench.organism.network.optimisers`; each rate warms up to the one it was made with and decays.
    losses : callable
        The weighted losses of a step, a function of the step alone; each is followed backwards before the next is drawn.
    label : str
        Stage and seed: draws the noise of each step.
    noise : float
        Size of the noise on the residual stream, relative to each state.
    tick, save : callable
        Called with the loss after every step, and with the next step after every ``save_every``.
    """
    rates = [opt.defaults["lr"] for opt in opts]
    model.train()
    for step in range(first, steps):
        factor = rate_factor(step, steps)
        for opt, rate in zip(opts, rates, strict=True):
            for group in opt.param_groups:
                group["lr"] = rate * factor
            opt.zero_grad(set_to_none=True)
        total = 0.0
        with noisy_residual(model, noise, f"{label} {step}"):
            for loss in losses(step):
                loss.backward()
                total += float(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        tick(total)
        if (step + 1) % save_every == 0 and step + 1 < steps:
            save(step + 1)
    model.eval()
