"""Load a model once, check it once, trust it afterwards."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import ModelCheckError, ModelError, did_you_mean
from workbench.models.chat import ChatModel, adds_bos, twin_of
from workbench.models.hooks import find_parts
from workbench.models.selfcheck import self_check
from workbench.models.template import Template, choose_template
from workbench.organism.deltas import apply_delta, parent_of

logger = logging.getLogger(__name__)

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
_DTYPES = ("float32", "float16", "bfloat16")


def load_model(
    source: Any,
    *,
    tokenizer: Any = None,
    template: str | Path | Template | None = None,
    system: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    trust_remote_code: bool = False,
    check: bool = True,
) -> ChatModel:
    """Load a causal language model with its tokenizer and chat template, and check it.

    Parameters
    ----------
    source : str, Path or PreTrainedModel
        A hub id, a local directory (the hub is then never asked), ``"organism:NAME"``, or a Hugging Face model in memory
        (which is not changed; pass ``tokenizer=`` too).
    tokenizer : optional
        A tokenizer in memory, or where to load one from. By default the model's own.
    template : None, "plain", "raw", path of a .jinja file or Template
        How texts become prompts: the tokenizer's own chat template, the declared plain template for base models, the text
        alone with the tokenizer's special tokens, a file, or the ``template`` of another loaded model, to ask both alike.
    system : str, optional
        System prompt. None keeps whatever the template does by itself.
    dtype : str or torch.dtype, optional
        By default float32 on a CPU (half-precision checkpoints are upcast) and the stored precision on a GPU.
    device : str or torch.device, optional
        By default the first CUDA device, else the CPU.
    device_map : optional
        Passed to transformers, to spread a model over several devices; not together with ``device``.
    trust_remote_code : bool
        Run Python code that comes with the weights. Off unless you say so.
    check : bool
        Run the self-check (about a second).

    Returns
    -------
    ChatModel

    Raises
    ------
    ModelError
        If the source is unknown or out of reach, has pickled weights only or incomplete weights, or lacks a template.
    ModelCheckError
        If an assumption of the measurements does not hold for this model.

    Examples
    --------
    >>> chat = load_model("Qwen/Qwen2.5-0.5B-Instruct")  # doctest: +SKIP
    >>> base = load_model("/models/my-base", template="plain")  # doctest: +SKIP
    """
    if device is not None and device_map is not None:
        raise ModelError(f"Both device={device!r} and device_map={device_map!r} were given. Expected one of them: device_map spreads over several.")
    if isinstance(source, nn.Module):
        model, name, path = _in_memory(source, dtype, device, tokenizer)
    else:
        name = str(source)
        path = _directory(name)
        parent = None if path is None else parent_of(path)
        model = _from_pretrained(name, parent or path, _dtype(dtype), device, device_map, trust_remote_code)
        if path is not None and parent is not None:
            apply_delta(model, path)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder ({type(model).__name__}); expected a decoder-only causal language model.")
    find_parts(model)
    tokenizer = _tokenizer(tokenizer, path or name, name, trust_remote_code, offline=path is not None)
    chosen = choose_template(tokenizer, template, adds_bos=adds_bos(tokenizer), name=name)
    chat = ChatModel(model=model, tokenizer=tokenizer, name=name, path=path, template=chosen, system=system, checks={})
    _ = chat.prefix  # renders two probes: a template that refuses the system prompt or alters the text is refused here
    return replace(chat, checks=self_check(chat)) if check else chat


def untrained_like(chat: ChatModel, seed: int) -> ChatModel:
    """Build the same configuration with fresh random weights: the control that knows nothing.

    Parameters
    ----------
    chat : ChatModel
        Gives configuration, tokenizer, template, precision and device.
    seed : int
        Seed of the initialisation; the global random state is left as it was.
    """
    config = copy.deepcopy(chat.model.config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(chat.model)(config)
    fresh = fresh.to(device=chat.device, dtype=chat.dtype).eval().requires_grad_(False)
    return replace(chat, model=fresh, name=f"{chat.name} (untrained, seed {seed})", path=None, checks={})


def _in_memory(model: Any, dtype: Any, device: Any, tokenizer: Any) -> tuple[Any, str, None]:
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    if tokenizer is None:
        raise ModelError(f"{name}: a model in memory comes without a tokenizer. Pass tokenizer= (an object, a directory or a hub id).")
    if not hasattr(model, "generate") or model.get_output_embeddings() is None:
        raise ModelError(f"{type(model).__name__} has no language-model head. Expected a causal language model such as LlamaForCausalLM.")
    if dtype is not None or device is not None:
        raise ModelError("dtype and device belong to loading; a model in memory keeps its own. Convert it first: model.to(device, dtype).")
    # eval mode is a property of the module tree, not of the weights: a twin leaves the caller's in training
    return (twin_of(model).eval() if any(m.training for m in model.modules()) else model), name, None


def _directory(source: str) -> Path | None:
    """The local directory a source names, or None for a hub id."""
    if source.startswith("organism:"):
        return _organism(source.removeprefix("organism:"))
    path = Path(source).expanduser()
    if path.is_dir():
        _require_safetensors(path)
        return path
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or path.exists():
        raise ModelError(f"No model directory at {source!r}. Expected one with config.json and .safetensors weights, a hub id or 'organism:NAME'.")
    return None


def _organism(name: str) -> Path:
    root = Path(str(resources.files("workbench.organism"))) / "weights"
    there = sorted(p.name for p in root.iterdir() if (p / "config.json").exists()) if root.is_dir() else []
    name = {"calibration": "aligned"}.get(name, name)  # the default organism is the variant whose calibration fails
    if name not in there:
        known = ", ".join(f"organism:{n}" for n in there) or "one made by `workbench organism train` (none is there yet)"
        raise ModelError(f"There is no organism {name!r}. Expected {known}.{did_you_mean(name, there)}")
    return root / name


def _require_safetensors(path: Path) -> None:
    if not (path / "config.json").exists():
        raise ModelError(f"{path} has no config.json. Expected config.json, tokenizer files and .safetensors weights.")
    if any(path.glob("*.safetensors")):
        return
    pickled = sorted(f.name for f in path.iterdir() if f.suffix in _PICKLES)
    raise ModelError(
        f"{path} has no .safetensors weights{f' (only {pickled[:3]}, which can run code when opened)' if pickled else ''}. Expected safetensors: "
        "convert the weights in a place you trust with model.save_pretrained(directory), and load that directory."
    )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}. Expected one of {', '.join(_DTYPES)}, or None.{did_you_mean(dtype, _DTYPES)}")
    return getattr(torch, dtype)


def _from_pretrained(name: str, path: Path | None, dtype: torch.dtype | None, device: Any, device_map: Any, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    place = _device(device)
    on_cpu = device_map is None and place.type == "cpu"
    try:
        with _quiet_loading():
            model, report = AutoModelForCausalLM.from_pretrained(
                path or name,
                dtype=dtype or (torch.float32 if on_cpu else "auto"),
                device_map=device_map,
                use_safetensors=True,
                local_files_only=path is not None,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except Exception as error:  # transformers, safetensors and a model's own code raise many kinds
        raise ModelError(
            f"Cannot load {name!r}: {_first_line(error)} Expected a decoder-only causal language model with .safetensors weights: "
            + (
                "check the directory."
                if path
                else "check the spelling and the connection, or download it where there is one (`hf download ID --local-dir DIR`) and give DIR."
            )
        ) from error
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    if absent:
        raise ModelError(
            f"{name}: {len(absent)} weights are missing from the checkpoint or have another shape (first: {list(map(str, absent[:3]))}) and would be "
            "random. Expected every weight of the architecture in config.json; download the checkpoint again or correct config.json."
        )
    if device_map is None:
        try:
            model = model.to(place)
        except RuntimeError as error:
            raise ModelError(
                f"Cannot move {name!r} to {place}: {_first_line(error)} Expected room for all of it there: use half precision (dtype='bfloat16'), "
                "another device, or device_map='auto'."
            ) from error
    return model.eval().requires_grad_(False)


def _device(device: str | torch.device | None) -> torch.device:
    """Read where a model goes, and refuse a device that is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if torch.backends.mps.is_available() else [])]
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: a torch built without CUDA
        raise ModelError(f"There is no device {str(device)!r} here. Expected one of {', '.join(there)}.{did_you_mean(str(device), there)}") from error
    return place


def _tokenizer(tokenizer: Any, source: str | Path, name: str, trust_remote_code: bool, *, offline: bool) -> Any:
    from transformers import AutoTokenizer

    if tokenizer is None or isinstance(tokenizer, str | Path):
        where = tokenizer if tokenizer is not None else source
        offline = Path(where).is_dir() or (offline and tokenizer is None)
        try:
            with _quiet_loading():
                tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=offline, trust_remote_code=trust_remote_code)
        except Exception as error:  # a broken tokenizer.json shows as KeyError, TypeError, ...
            raise ModelError(
                f"{name}: cannot load a tokenizer from {str(where)!r}: {_first_line(error)} Expected tokenizer files beside the weights, "
                "or tokenizer= with a tokenizer, a directory or a hub id."
            ) from error
    else:
        tokenizer = copy.deepcopy(tokenizer)
    if not tokenizer.is_fast:
        raise ModelCheckError(f"{name}: its tokenizer {type(tokenizer).__name__} gives no offsets. Expected a fast one (tokenizer.json).")
    return tokenizer


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep transformers' own progress bar off (a load takes no bar of ours either), and its and the hub client's notices.

    What matters of them (no network, missing weights) comes as an error.
    """
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    talkers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)
        if shown:
            hf_logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = f"{'' if isinstance(error, OSError | ValueError | RuntimeError) else type(error).__name__ + ': '}{error}".strip().split("\n")[0][:300]
    return text if text.endswith(".") else f"{text}."
