"""How a repair by training runs: rate, length, batch, precision, adapter, seed. What it optimises is the method's business."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from workbench.errors import DataError, did_you_mean

SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")
ORDERS = ("shuffled", "sequential")


@dataclass(frozen=True)
class LoraOptions:
    """A low-rank adapter (Hu et al. 2021, arXiv:2106.09685) in place of full fine-tuning; the reference is then the adapter switched off.

    Attributes
    ----------
    rank : int
        Rank r of the update.
    alpha : float
        The update is scaled by alpha / r.
    dropout : float
        Dropout in front of the adapter, 0 to 1.
    target_modules : str or tuple of str
        ``"all-linear"`` (every linear layer but the head) or names of modules.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise DataError(
                f"LoRA with rank {self.rank}, alpha {self.alpha} and dropout {self.dropout}. Expected rank >= 1, alpha > 0 and 0 <= dropout < 1."
            )

    def to_peft(self) -> Any:
        """Return the options as a ``peft.LoraConfig``."""
        from peft import LoraConfig

        modules = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        return LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=modules, task_type="CAUSAL_LM")


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop's settings, the same for every method.

    Attributes
    ----------
    learning_rate : float
        Of AdamW (betas .9 and .999, no weight decay), reached after the warm-up.
    epochs : float
        Passes over the rows.
    max_steps : int, optional
        Steps of the optimiser; overrides ``epochs``.
    batch_size : int
        Rows (pairs, queries) of one pass, per device. KTO needs at least 2.
    accumulation : int
        Passes of one step: a step sees ``batch_size * accumulation`` rows per device.
    schedule : {"cosine", "linear", "constant", "constant_with_warmup"}
        How the rate falls.
    warmup : float
        Steps the rate rises over; below 1 a share of all steps.
    lora : LoraOptions, optional
        Train an adapter; None trains every weight, held in float32 meanwhile.
    bf16 : bool
        Compute in bfloat16 (autocast); weights and optimiser keep their precision.
    gradient_checkpointing : bool
        Compute activations twice and keep few: less memory, about a fifth slower.
    seed : int
        Draws the order of the rows, the adapter's start, dropout and sampled replies.
    order : {"shuffled", "sequential"}, optional
        New order in every epoch, or one order (shuffled once by the seed). None leaves it to the method; the KTO family allows only the
        second, because its mismatched pairs are made of neighbours.
    save_every, eval_every, log_every : int
        Steps between checkpoints, calls of the monitor and rows of losses.
    grad_clip : float
        Largest norm of the gradient.
    max_length : int
        Longest prompt with its completion, in tokens.
    """

    learning_rate: float = 1e-6
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 8
    accumulation: int = 1
    schedule: str = "cosine"
    warmup: float = 0.1
    lora: LoraOptions | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    order: str | None = None
    save_every: int = 100
    eval_every: int = 50
    log_every: int = 10
    grad_clip: float = 1.0
    max_length: int = 1024

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("batch_size", "accumulation", "save_every", "eval_every", "log_every", "max_length")}
        small = [f"{name} {value}" for name, value in counts.items() if not isinstance(value, int) or value < 1]
        if small or (self.max_steps is not None and self.max_steps < 1):
            raise DataError(f"The training got {', '.join(small) or f'max_steps {self.max_steps}'}. Expected whole numbers of at least 1.")
        sizes = {"learning_rate": self.learning_rate, "epochs": self.epochs, "grad_clip": self.grad_clip}
        wrong = [f"{name} {value}" for name, value in sizes.items() if not (math.isfinite(value) and value > 0)]
        if wrong or not (math.isfinite(self.warmup) and self.warmup >= 0):
            raise DataError(f"The training got {', '.join(wrong) or f'warmup {self.warmup}'}. Expected finite numbers above 0 (warmup may be 0).")
        for name, given, known in (("schedule", self.schedule, SCHEDULES), ("order", self.order, (None, *ORDERS))):
            if given not in known:
                options = ", ".join(map(repr, known))
                raise DataError(f"Unknown {name} {given!r}. Expected one of {options}.{did_you_mean(str(given), [k for k in known if k])}")

    @property
    def effective_batch(self) -> int:
        """Rows that one step sees, per device."""
        return self.batch_size * self.accumulation

    def smaller_batch(self, at_least: int = 1) -> tuple[int, int] | None:
        """Find batch size and accumulation of the same step at half the memory or less.

        Parameters
        ----------
        at_least : int
            Smallest batch the method can use.

        Returns
        -------
        (int, int) or None
            None when the batch cannot shrink.
        """
        fits = [size for size in range(self.batch_size // 2, at_least - 1, -1) if self.effective_batch % size == 0]
        return (fits[0], self.effective_batch // fits[0]) if fits else None

    def decisive(self) -> dict[str, Any]:
        """What a training that is continued must agree on: everything that changes the weights but the split of a step into passes."""
        free = {"batch_size", "accumulation", "gradient_checkpointing", "save_every", "eval_every", "log_every"}
        return {**{k: v for k, v in asdict(self).items() if k not in free}, "rows_per_step": self.effective_batch}

    def arguments(self, folder: str, *, device: str, order: str, drop_last: bool) -> dict[str, Any]:
        """Return the keyword arguments of ``transformers.TrainingArguments`` and of TRL's configurations.

        Parameters
        ----------
        folder : str
            Where checkpoints go.
        device : str
            Kind of device the start is on ("cpu", "cuda"): training stays there.
        order : {"shuffled", "sequential"}
            What the method wants where ``self.order`` is None.
        drop_last : bool
            Whether a last batch that is not full is left out.
        """
        return {
            "output_dir": folder,
            "use_cpu": device == "cpu",
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.epochs,
            "max_steps": self.max_steps or -1,
            "per_device_train_batch_size": self.batch_size,
            "gradient_accumulation_steps": self.accumulation,
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup,
            "weight_decay": 0.0,
            "max_grad_norm": self.grad_clip,
            "bf16": self.bf16,
            "activation_checkpointing": self.gradient_checkpointing,
            "seed": self.seed,
            "train_sampling_strategy": "random" if (self.order or order) == "shuffled" else "sequential",
            "dataloader_drop_last": drop_last,
            "dataloader_pin_memory": False,
            "logging_steps": self.log_every,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,
            "save_strategy": "steps",
            "save_steps": self.save_every,
            "save_total_limit": None,  # the engine rotates: only whole checkpoints count
            "report_to": [],
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "ddp_find_unused_parameters": False,
        }
