"""Tiny random-weight models of real classes, with a field over the same 40 tokens. For tests only."""

import numpy as np
import torch
import transformers as hf

from steer_ros.steering import Span, SteeringField

torch.set_num_threads(1)
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
VL_IDS = {"image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
IDS = torch.arange(40).remainder(29).add(3)[None]  # 40 tokens; V is 5…24
SPAN = Span(5, 20)


def qwen2(**changes):
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES | changes))


def llama(**changes):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES | changes))


def qwen2_vl():
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 64, "num_heads": 2, "patch_size": 4}
    config = hf.Qwen2VLConfig(text_config=SIZES | {"rope_parameters": rope}, vision_config=vision, **VL_IDS)
    return hf.Qwen2VLForConditionalGeneration(config)


MODELS = {"qwen2": qwen2, "llama": llama, "qwen2_vl": qwen2_vl}


def build(make, dtype=torch.float32):
    torch.manual_seed(0)
    model = make().to(dtype).eval()
    with torch.no_grad():  # attention that matters more than at initialisation
        for name, weight in model.named_parameters():
            if "self_attn" in name and name.endswith("weight"):
                weight *= 4
    return model


def weights(length=20, region=range(3, 9)):
    array = np.zeros(length, np.int8)
    array[list(region)] = 127
    array[-2:] = -100
    return array


def field():
    return SteeringField([SPAN], weights())


def prefill_and_decode(model, steps=3):
    """Logits of a prefill and of single-token steps over its cache: [1, 40 + steps, vocabulary]."""
    with torch.no_grad():
        out = model(IDS, use_cache=True)
        logits = [out.logits]
        for step in range(steps):
            out = model(torch.tensor([[7 + step]]), past_key_values=out.past_key_values, use_cache=True)
            logits.append(out.logits)
    return torch.cat(logits, dim=1)


def greedy(model, ids=IDS, **options):
    return model.generate(ids, max_new_tokens=8, do_sample=False, **options)[:, ids.shape[1] :]


def text_config(model):
    return model.config.get_text_config()
