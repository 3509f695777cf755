"""Who is asked: loading, chat templates, positions, hooks and the self-check.

Examples
--------
>>> from workbench.models import load_model  # doctest: +SKIP
>>> chat = load_model("organism:aligned")  # doctest: +SKIP
"""

from workbench.models.chat import ChatModel, Tokens
from workbench.models.compression import bits_per_byte
from workbench.models.load import load_model, untrained_like

__all__ = ["ChatModel", "Tokens", "bits_per_byte", "load_model", "untrained_like"]
