"""Which models can be steered: every layer must be plain causal attention that goes through Transformers'
interface."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

from .errors import UnsteerableModelError

# layer_types of a config whose layers are causal softmax attention over keys in order of position. Sliding layers are,
# as long as the context is shorter than their window: a call with more is refused (forward_plan.refuse_call).
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}


def text_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part of `model` whose config is its text model's. Raises UnsteerableModelError, naming class and reason."""
    if not isinstance(model, PreTrainedModel):
        raise UnsteerableModelError(f"{type(model).__name__}: not a Transformers model")
    name, config = type(model).__name__, model.config
    if getattr(config, "is_encoder_decoder", False):
        raise UnsteerableModelError(f"{name}: an encoder-decoder; accepted are decoder-only language models")
    text = config.get_text_config(decoder=True)
    decoder = next((m for m in model.modules() if isinstance(m, PreTrainedModel) and m.config is text), None)
    if decoder is None:
        raise UnsteerableModelError(f"{name}: no part of it has the text config")
    name = type(decoder).__name__ if decoder is model else f"{name} ({type(decoder).__name__})"
    for setting in ("attn_logit_softcapping", "attn_logit_softcap"):
        if getattr(text, setting, None):
            raise UnsteerableModelError(
                f"{name}: {setting} = {getattr(text, setting)}; capped scores can't be steered"
            )
    other = set(getattr(text, "layer_types", None) or ()) - _PLAIN_LAYERS
    if other:
        raise UnsteerableModelError(f"{name}: layers of type {', '.join(sorted(other))}; accepted are plain attention")
    kinds = {type(m).__name__ for m in decoder.modules() if isinstance(getattr(m, "layer_idx", None), int)}
    if kinds and not any("attention" in kind.lower() for kind in kinds):
        raise UnsteerableModelError(f"{name}: it has no attention, only {', '.join(sorted(kinds))}")
    if any(getattr(m, "sinks", None) is not None for m in decoder.modules()):
        raise UnsteerableModelError(f"{name}: its attention has sinks, scores of their own that can't be steered")
    if not getattr(text, "is_causal", True):
        raise UnsteerableModelError(f"{name}: its attention is not causal")
    if not getattr(decoder, "_supports_attention_backend", False) or not decoder._supports_sdpa:
        raise UnsteerableModelError(f"{name}: its attention does not go through Transformers' attention interface")
    return decoder


def attention_layers(model: PreTrainedModel, decoder: PreTrainedModel) -> list[nn.Module]:
    """The attention modules of the decoder, one a layer, in order. Raises UnsteerableModelError."""
    name, config = type(model).__name__, decoder.config
    found: dict[int, list[nn.Module]] = {}
    for module in decoder.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and hasattr(module, "is_causal") and getattr(module, "config", None) is config:
            if getattr(module, "is_cross_attention", False) or not module.is_causal:
                raise UnsteerableModelError(
                    f"{name}: layer {index} ({type(module).__name__}) is not causal self-attention"
                )
            found.setdefault(index, []).append(module)
    count = int(config.num_hidden_layers)
    for index in range(count):
        if len(found.get(index, ())) != 1:
            kinds = ", ".join(type(m).__name__ for m in found.get(index, ())) or "none"
            raise UnsteerableModelError(f"{name}: layer {index} has not one attention module but: {kinds}")
    return [found[index][0] for index in range(count)]


def window_of(config: PretrainedConfig, layer: int, module: nn.Module) -> int | None:
    """The window in keys that a layer slides, None for none. Some models don't tell their attention function of it,
    and hand over the last keys only, once there are more."""
    window = getattr(config, "sliding_window", None)
    if kinds := getattr(config, "layer_types", None):
        return window if kinds[layer] == "sliding_attention" else None
    if hasattr(module, "sliding_window"):
        return module.sliding_window
    return window if getattr(config, "use_sliding_window", True) is not False else None


def min_window(a: int | None, b: int | None) -> int | None:
    """The smaller of two windows, either of which may be none."""
    return min((window for window in (a, b) if window is not None), default=None)
