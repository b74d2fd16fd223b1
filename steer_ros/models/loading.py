"""Find a model's folder and load it: safetensors only, no remote code, the offline cache honoured."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import torch

BUILTIN_PREFIX = "builtin:"
BUILTIN_ROOT = Path(__file__).resolve().parent / "builtin"
PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What is ever fetched from the hub. Pickled weights and Python files are not on the list.
_FETCH = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
# A load changes PyTorch's default dtype, of the whole process, and puts back what it found: two at once would put back
# each other's.
_LOADING = threading.Lock()
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


class ModelLoadError(RuntimeError):
    """A model could not be loaded. The message is one line that says which, why and what to do."""


def builtin_names() -> list[str]:
    """Names of the models that ship inside the package, e.g. ``builtin:lab-vl``."""
    if not BUILTIN_ROOT.is_dir():
        return []
    folders = sorted(path.name for path in BUILTIN_ROOT.iterdir() if (path / "config.json").is_file())
    return [BUILTIN_PREFIX + name for name in folders]


def resolve(model: str | os.PathLike) -> Path:
    """Folder of a model, fetched from the hub only if it is neither built in, on disk nor in the cache.

    Args:
        model: ``builtin:<name>``, a folder, or a hub id (``owner/name``).
    Returns:
        A folder that holds config.json, tokenizer.json and safetensors weights.
    Raises:
        ModelLoadError: nothing usable under that name.
    """
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    if not name.strip() or "\0" in name:
        raise ModelLoadError(f"model {model!r}: give a builtin name, a folder or a hub id (owner/name)")
    if name.startswith(BUILTIN_PREFIX):
        return _checked(_builtin(name), name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder, name)
    if folder.exists():
        raise ModelLoadError(f"model {name!r}: is a file; give the folder that holds config.json")
    if not _HUB_ID.match(name) or ".." in name:
        raise ModelLoadError(f"model {name!r}: no such folder, and not a hub id (owner/name)")
    return _checked(_from_hub(name), name)


def _builtin(name: str) -> Path:
    known = builtin_names()
    if name not in known:
        raise ModelLoadError(f"model {name!r}: unknown built-in; known: {', '.join(known) or 'none installed'}")
    return BUILTIN_ROOT / name[len(BUILTIN_PREFIX) :]


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    # The cache first: a robot starts the same way with and without a network.
    try:
        cached = Path(snapshot_download(name, allow_patterns=_FETCH, local_files_only=True))
        if not _problem(cached):
            return cached
    except Exception:  # not cached: every error of the cache look-up means that
        pass
    if _offline():
        raise ModelLoadError(f"model {name!r}: not in the local cache, and the hub is switched off (HF_HUB_OFFLINE)")
    try:
        return Path(snapshot_download(name, allow_patterns=_FETCH))
    except Exception as error:  # the hub client raises many kinds; all mean one thing here
        raise ModelLoadError(
            f"model {name!r}: not in the local cache and not fetched from the hub: {one_line(error)}"
        ) from error


def _offline() -> bool:
    from huggingface_hub import constants

    flags = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return bool(constants.HF_HUB_OFFLINE) or any(flag.upper() in ("1", "ON", "YES", "TRUE") for flag in flags)


def _checked(folder: Path, name: str) -> Path:
    problem = _problem(folder)
    if problem:
        raise ModelLoadError(f"model {name!r}: {problem}")
    return folder


def _problem(folder: Path) -> str | None:
    """Why a folder can't be loaded, or None."""
    if not (folder / "config.json").is_file():
        return f"no config.json in {folder}"
    if not (folder / "tokenizer.json").is_file():
        return f"no tokenizer.json in {folder}"
    sees = "vision_config" in read_json(folder / "config.json")
    if sees and not any((folder / file).is_file() for file in PREPROCESSOR_FILES):
        return f"no {PREPROCESSOR_FILES[0]} in {folder}"
    if (folder / "model.safetensors").is_file():
        return None
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            return f"{index.name} can't be read"
        missing = [shard for shard in shards if not (folder / Path(shard).name).is_file()]
        return f"weights missing in {folder}: {', '.join(missing)}" if missing else None
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        return f"only pickled weights ({pickles[0]}) in {folder}; convert them to safetensors first"
    return f"no model.safetensors in {folder}"


def read_json(path: Path) -> dict:
    """A JSON object from a model folder; ModelLoadError when it is missing, broken or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} can't be read: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} holds no JSON object")
    return content


def pick_device(device: str | torch.device) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:<n>`` or ``auto`` (a GPU if there is one) as a device; ValueError else."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device {device!r}: must be cpu, cuda, cuda:<n> or auto") from error
    if picked.type not in ("cpu", "cuda"):
        raise ValueError(f"device {str(device)!r}: must be cpu, cuda, cuda:<n> or auto")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {str(device)!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return picked


def pick_dtype(dtype: str | torch.dtype, device: torch.device, folder: Path) -> torch.dtype:
    """The weights' dtype. ``auto``: float32 on a CPU, else what config.json says. ValueError for others."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        config = read_json(folder / "config.json")
        stored = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
        return DTYPES.get(stored, torch.bfloat16)
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: must be auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load_model(model_class, folder: Path, device: torch.device, dtype: torch.dtype, name: str):
    """Weights of a folder in a Transformers class, in eval mode, on the device.

    Raises:
        ModelLoadError: the weights are broken, or do not fill the model (it would be random in part).
    """
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with _LOADING:
            model, info = model_class.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except Exception as error:  # a broken folder raises almost anything
        raise ModelLoadError(f"model {name!r}: {one_line(error)}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(info.get("missing_keys") or [])
    mismatched = sorted(str(key) for key in info.get("mismatched_keys") or [])
    if missing or mismatched:
        first = (missing + mismatched)[0]
        raise ModelLoadError(
            f"model {name!r}: {len(missing) + len(mismatched)} weights absent or misshapen, e.g. {first}"
        )
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(folder: Path, name: str):
    """The tokenizer exactly as tokenizer.json has it (DeepSeek names a class there that would rebuild it)."""
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelLoadError(f"model {name!r}: tokenizer: {one_line(error)}") from error
    if not tokenizer.chat_template:
        raise ModelLoadError(f"model {name!r}: its tokenizer has no chat template")
    return tokenizer


def stop_ids(model, tokenizer) -> frozenset[int]:
    """Every token id that ends an answer: generation_config's list, the config's, and the tokenizer's own."""
    ids: set[int] = set()
    config = model.config.get_text_config()
    for value in (model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id):
        if value is not None:
            ids.update(int(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    if not ids:
        raise ModelLoadError("model: neither generation_config nor the tokenizer names an end token")
    return frozenset(ids)


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
