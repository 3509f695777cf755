"""A model's identity in one short hash: its configuration and a cross section of every weight."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

#: Configuration entries that say where or how a model was stored, not what it computes.
_INCIDENTAL = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
    "attn_implementation",
    "_attn_implementation",
}


def _cross_section(weight: Tensor) -> Tensor:
    """Two columns of every row and two rows of every column: a change of one row, one column or low rank shows."""
    if weight.dim() < 2:
        return weight.detach().reshape(-1).float()
    matrix = weight.detach().reshape(-1, weight.shape[-1])
    rows, columns = matrix.shape
    return torch.cat([matrix[:, columns // 3], matrix[:, (2 * columns) // 3], matrix[rows // 3], matrix[(2 * rows) // 3]]).float()


def _essence(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: _essence(v) for k, v in sorted(config.items(), key=lambda item: str(item[0])) if k not in _INCIDENTAL}
    return config


def fingerprint(model: Any) -> str:
    """Identify a model by its configuration and a cross section of its weights.

    Of each matrix two whole columns and two whole rows enter, of each vector everything: fast on large models, and the
    same on any device and in any precision that holds the stored weights exactly. A change to single entries of a
    matrix that misses these rows and columns is not seen.

    Parameters
    ----------
    model : PreTrainedModel
        Weights on any device; offloaded ones enter by shape only.

    Returns
    -------
    str
        16 hex digits.
    """
    digest = hashlib.sha256(json.dumps(_essence(model.config.to_dict()), sort_keys=True, default=str).encode())
    with torch.no_grad():
        sections = []
        for name, weight in model.named_parameters():
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            if weight.device.type != "meta":
                sections.append(_cross_section(weight).cpu())
        if sections:
            digest.update(torch.cat(sections).numpy().tobytes())
    return digest.hexdigest()[:16]
