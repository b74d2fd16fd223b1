"""Head gains by a small network: each head's alpha follows from what the head does with the region anyway.

Features of a head, measured in the last row of the context, before the law holds there: the log-odds of the region's
share of the row, the log-odds of the visual share, the region's part of V, and the layer's depth (0 first, 1 last).
About 1,300 parameters, the same for all layers and heads. What it gives holds for the rest of the turn. (The simpler
way, a table of gains learnt head by head, needs nothing of this: it is a field's gain.)
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from steer_ros.kernels import steered_attention_reference

FILE = "head_gains.safetensors"
FEATURES = 4
HIDDEN = 32
MAX_OUTPUT = 16.0  # the largest alpha that it can give
_MIN_SHARE = 1e-4


class HeadGainNet(nn.Module):
    """Features ``[..., 4]`` to alpha ``[...]``, 0 to `MAX_OUTPUT`. Fresh from the box it gives about 2 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.constant_(self.layers[-1].bias, -1.95)  # sigmoid(−1.95) · 16 = 2

    def forward(self, features: Tensor) -> Tensor:
        return MAX_OUTPUT * self.layers(features).squeeze(-1).sigmoid()


@torch.no_grad()
def head_features(
    q: Tensor, k: Tensor, weights: Tensor, visual: Tensor, start: int, scale: float, depth: float
) -> Tensor:
    """What `HeadGainNet` reads of one attention call: float32 ``[Hq, 4]``.

    Args:
        q: ``[1, Hq, 1, D]``, the row. k: ``[1, Hk, K, D]``, the keys that it sees.
        weights: int8 ``[n]``, visual: bool ``[n]``, from key position `start`; n is at most K − start.
        depth: of the layer, 0 to 1.
    """
    k = k.float().repeat_interleave(q.shape[1] // k.shape[1], 1)
    row = (q.float() @ k.transpose(2, 3) * scale).softmax(-1)[0, :, 0, start : start + len(visual)]  # [Hq, n]
    region = visual & (weights > 0)
    shares = torch.stack([row[:, region].sum(-1), row[:, visual].sum(-1)], -1).clamp(_MIN_SHARE, 1 - _MIN_SHARE)
    size = region.sum(dtype=torch.float32) / visual.sum().clamp(min=1)
    rest = torch.stack([size, size.new_tensor(depth)]).expand(len(shares), 2)
    return torch.cat([shares.logit(), rest], -1)


def learnable_attention(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, start: int, alpha: Tensor, scale: float
) -> Tensor:
    """Causal attention of a context's last rows, those behind the span steered (conserving), differentiable in alpha.

    Args:
        q: ``[B, Hq, S, D]``, k, v: ``[B, Hk, K, D]``. weights: int8 ``[n]`` or ``[B, n]`` of the span that begins at
            `start`. alpha: ``[Hq]``.
    Returns:
        ``[B, S, Hq, D]``, as Transformers' attention functions give it.
    """
    keys, end = k.shape[2], start + weights.shape[-1]
    first = keys - q.shape[2]
    dense = torch.zeros(*weights.shape[:-1], keys, dtype=torch.int8, device=k.device)
    dense[..., start:end] = weights
    position = torch.arange(keys, device=k.device)
    out = steered_attention_reference(
        q,
        k,
        v,
        dense,
        (position >= start) & (position < end),
        law="conserving",
        gain=alpha,
        rows=position[first:] >= end,
        scale=scale,
        q_start=first,
    ).out
    return out.transpose(1, 2)


def save_head_gains(folder: str | Path, net: HeadGainNet) -> None:
    """Write the network's weights into a model's folder."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, Path(folder) / FILE)


def load_head_gains(folder: str | Path) -> HeadGainNet:
    """The network in a model's folder.

    Raises:
        ValueError: it is missing, broken, or of another shape.
    """
    from safetensors.torch import load_file

    net = HeadGainNet().float()  # another model's load may have PyTorch make it in another dtype
    try:
        net.load_state_dict(load_file(Path(folder) / FILE))
    except Exception as error:  # a missing file, a broken one, other names or shapes
        raise ValueError(f"{Path(folder) / FILE}: {' '.join(str(error).split())}") from error
    return net.eval().requires_grad_(False)
