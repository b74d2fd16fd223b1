"""The token bridge: a small trained projector from a vision-language model's space to a reasoner's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from .loading import ModelLoadError, one_line, read_json

CONFIG_FILE, WEIGHTS_FILE = "bridge.json", "bridge.safetensors"
KINDS = ("mlp", "identity")


class Bridge(nn.Module):
    """Visual tokens of width vl_hidden to reasoner embeddings of width hidden.

    ``mlp`` is norm, linear, GELU, linear. ``identity`` (no weights) is for a reasoner that was trained on the
    vision-language model's own space; equal widths alone do not make two spaces equal.
    """

    def __init__(self, vl_hidden: int, hidden: int, inner: int | None = None, kind: str = "mlp", vl_model: str = ""):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: must be one of {', '.join(KINDS)}")
        if min(vl_hidden, hidden, inner or 1) < 1:
            raise ValueError(f"vl_hidden {vl_hidden}, hidden {hidden}, inner {inner}: must be positive")
        if kind == "identity" and vl_hidden != hidden:
            raise ValueError(f"kind 'identity': vl_hidden {vl_hidden} and hidden {hidden} must be equal")
        self.vl_hidden, self.hidden, self.kind, self.vl_model = vl_hidden, hidden, kind, vl_model
        self.inner = inner or 2 * hidden
        if kind == "mlp":
            self.norm = nn.LayerNorm(vl_hidden)
            self.up = nn.Linear(vl_hidden, self.inner)
            self.down = nn.Linear(self.inner, hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[..., vl_hidden] to [..., hidden]."""
        if self.kind == "identity":
            return tokens
        tokens = tokens.to(self.up.weight.device, self.up.weight.dtype)
        return self.down(nn.functional.gelu(self.up(self.norm(tokens))))

    def save(self, folder: str | Path) -> None:
        """Write bridge.json and bridge.safetensors beside the reasoner's own files."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "kind": self.kind,
            "vl_hidden": self.vl_hidden,
            "hidden": self.hidden,
            "inner": self.inner,
            "vl_model": self.vl_model,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_bridge(
    folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Bridge | None:
    """The bridge of a model folder, in eval mode; None when the folder has none.

    Raises:
        ModelLoadError: its files are broken or do not fit together.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        return None
    config = read_json(folder / CONFIG_FILE)
    try:
        bridge = Bridge(
            **{key: config[key] for key in ("kind", "vl_hidden", "hidden", "inner", "vl_model") if key in config}
        ).float()  # another model's load may have PyTorch make it in another dtype
        if bridge.kind == "mlp":
            bridge.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except Exception as error:  # a missing key, shape or file: all mean a broken bridge
        raise ModelLoadError(f"bridge in {folder}: {one_line(error)}") from error
    return bridge.to(device, dtype).eval().requires_grad_(False)
