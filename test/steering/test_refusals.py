"""Steering is loud when it does nothing, refuses what it can't do rightly, and is gone when detached."""

import copy
import threading

import numpy as np
import pytest
import torch
import transformers as hf
from steering_helpers import IDS, SIZES, build, field, greedy, llama, qwen2, qwen2_vl, weights

from steer_ros.steering import Span, SteeringField, SteeringNotAppliedError, UnsteerableModelError, attach, make_law


@pytest.fixture(scope="module")
def qwen():
    return build(qwen2)


def test_a_steering_that_never_reached_attention_raises(qwen):
    with attach(qwen) as attachment:
        never = pytest.raises(SteeringNotAppliedError, match="Qwen2ForCausalLM: no attention call came")
        with never, attachment.steer(field(), make_law("additive", 2)):
            pass
        beyond = SteeringField([Span(100, 20)], weights())
        elsewhere = pytest.raises(SteeringNotAppliedError, match="do the spans lie where")
        with elsewhere, attachment.steer(beyond, make_law("additive", 2)):
            qwen(IDS)
        with pytest.raises(KeyError), attachment.steer(field(), make_law("additive", 2)):
            raise KeyError  # an error of the caller's own is not hidden behind ours
        with pytest.raises(SteeringNotAppliedError), attachment.steer(field(), make_law("additive", 2)):
            qwen.set_attn_implementation("sdpa")
            qwen(IDS)


@pytest.mark.parametrize("previous", ["sdpa", "eager"])
def test_detaching_restores_the_implementation(previous):
    model = build(qwen2_vl)
    model.set_attn_implementation({"text_config": previous, "vision_config": "eager"})
    attachment = attach(model)
    assert model.config.vision_config._attn_implementation == "eager"
    assert model.config.text_config._attn_implementation == "steer_ros"
    with pytest.raises(ValueError, match="attached already"):
        attach(model)
    with pytest.raises(UnsteerableModelError, match="not attached"):
        copy.deepcopy(model)(IDS)
    attachment.detach()
    attachment.detach()
    assert model.config.text_config._attn_implementation == previous
    with pytest.raises(ValueError, match="was detached"), attachment.steer(field(), make_law("none")):
        pass
    attach(model).detach()


def test_wrong_uses_are_named(qwen):
    with attach(qwen) as attachment, torch.no_grad():
        for options, name in (
            ({"impl": "flash"}, "impl"),
            ({"measure_focus": "all"}, "measure_focus"),
            ({"regions": []}, "regions"),
            ({"gate": "layers=9"}, "gate layers"),
        ):
            with pytest.raises(ValueError, match=f"^{name}"), attachment.steer(field(), make_law("none"), **options):
                pass
        with pytest.raises(ValueError, match=r"^law"), attachment.steer(field(), "additive"):
            pass
        with pytest.raises(ValueError, match=r"^phase"):
            attachment.phase = "dream"
        with attachment.steer(field(), make_law("none")):
            with pytest.raises(ValueError, match="already"), attachment.steer(field(), make_law("none")):
                pass
            with pytest.raises(ValueError, match="being steered"):
                attachment.detach()
            with pytest.raises(UnsteerableModelError, match="output_attentions"):
                qwen(IDS, output_attentions=True)
            qwen(IDS)


SMALL = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
REFUSED = {
    "T5": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=97, d_model=16, d_ff=16, num_layers=1)),
           "an encoder-decoder"),
    "Mamba": (lambda: hf.MambaForCausalLM(hf.MambaConfig(**SMALL)), "attention"),
    "Gemma2": (lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SIZES, head_dim=16)), "softcapping"),
    "Bloom": (lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=97, hidden_size=16, n_layer=1, n_head=2)),
              "does not go through Transformers' attention interface"),
    "Bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL, num_attention_heads=4, intermediate_size=16)),
             "not causal"),
    "GptOss": (lambda: hf.GptOssForCausalLM(hf.GptOssConfig(**SIZES, head_dim=16, num_local_experts=2)), "sinks"),
    "Llama4": (lambda: hf.Llama4ForCausalLM(hf.Llama4TextConfig(**SIZES, head_dim=16, intermediate_size_mlp=16)),
               "chunked_attention"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_models_that_cannot_be_steered_are_refused_by_name(name):
    make, reason = REFUSED[name]
    model = make().eval()
    previous = model.config.get_text_config()._attn_implementation
    with pytest.raises(UnsteerableModelError, match=f"^{name}.*{reason}"):
        attach(model)
    assert model.config.get_text_config()._attn_implementation == previous
    with pytest.raises(UnsteerableModelError, match="Linear: not a Transformers model"):
        attach(torch.nn.Linear(1, 1))


def moe_that_slides():
    config = hf.Qwen2MoeConfig(
        **SIZES, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32, shared_expert_intermediate_size=32,
        use_sliding_window=True, sliding_window=16, max_window_layers=1,
    )  # fmt: skip
    return hf.Qwen2MoeForCausalLM(config)


def phi_moe():
    return hf.PhimoeForCausalLM(
        hf.PhimoeConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1, sliding_window=16)
    )


@pytest.mark.parametrize("make", [moe_that_slides, phi_moe])
def test_a_window_that_the_attention_call_does_not_tell_of_is_known_all_the_same(make):
    model = make().eval()
    mask = SteeringField([Span(2, 4)], np.array([127, 127, 0, 0], np.int8))
    options = dict(min_new_tokens=12, max_new_tokens=12, do_sample=False)
    with attach(model) as attachment:
        with attachment.steer(mask, make_law("conserving")):
            model.generate(IDS[:, :12], max_new_tokens=3, do_sample=False)
        outgrown = pytest.raises(UnsteerableModelError, match="slides a window of 16 keys")
        with outgrown, attachment.steer(mask, make_law("conserving")):
            model.generate(IDS[:, :12], **options)
        model.generate(IDS[:, :12], **options)  # unsteered it may


def test_attention_that_is_not_causal_is_refused():
    model = qwen2().eval()
    refused = pytest.raises(ValueError, match="is_causal")
    with attach(model) as a, torch.no_grad(), refused, a.steer(field(), make_law("additive")):
        model(IDS, is_causal=False)


def test_a_sliding_window_is_refused_when_the_context_outgrows_it():
    for window, fits in ((41, True), (40, False)):
        torch.manual_seed(0)
        model = hf.MistralForCausalLM(hf.MistralConfig(**SIZES, sliding_window=window)).eval()
        with torch.no_grad(), attach(model) as attachment:
            if fits:
                with attachment.steer(field(), make_law("additive", 2)) as report:
                    model(IDS)
                assert report.steered_rows == 15
            else:
                outgrown = pytest.raises(
                    UnsteerableModelError, match="MistralAttention: layer 0 slides a window of 40"
                )
                with outgrown, attachment.steer(field(), make_law("additive", 2)):
                    model(IDS)


def test_two_models_in_two_threads_share_nothing():
    """Each thread steers its own model with its own law; neither sees the other's, or the other's updates."""
    models = [build(qwen2), build(llama)]
    laws = [make_law("additive", 4), make_law("conserving", -3)]
    wanted = []
    for model, law in zip(models, laws, strict=True):
        with attach(model) as attachment, attachment.steer(field(), law):
            wanted.append(greedy(model))
    start, wrong = threading.Barrier(2), []

    def lane(model, law, text):
        try:
            start.wait(30)
            for _ in range(6):
                with attach(model) as attachment, attachment.steer(field(), law) as report:
                    if not torch.equal(greedy(model), text) or report.calls_seen != 8 * 3:
                        wrong.append(law)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=lane, args=x) for x in zip(models, laws, wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
