"""Models steered by Triton's kernels: the same text as by the specification. Without a GPU, in the interpreter."""

import contextlib

import numpy as np
import pytest
import torch
from steering_helpers import IDS, SPAN, build, greedy, prefill_and_decode, qwen2

from steer_ros.kernels import triton_unsupported_reason
from steer_ros.steering import Span, SteeringField, attach, make_law

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_PROBE = torch.zeros(1, 1, 1, 64, device=DEVICE)
pytestmark = [
    pytest.mark.skipif(
        bool(triton_unsupported_reason(_PROBE, _PROBE, _PROBE)),
        reason=triton_unsupported_reason(_PROBE, _PROBE, _PROBE),
    ),
    pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning"),
]
LAWS = (
    make_law("additive", 3),
    make_law("conserving", 4),
    make_law("share", setpoint=0.9),
    make_law("target", setpoint=0.5),
)
IDS = IDS.to(DEVICE)


@pytest.fixture(scope="module")
def model():
    return build(lambda: qwen2(head_dim=64, num_hidden_layers=2)).to(DEVICE)


def weights(law, region=range(3, 9)):
    array = np.zeros(20, np.int8)
    array[list(region)] = 127
    array[region[0]] = 50
    if law.name in ("additive", "conserving"):
        array[-2:] = -100
    return array


def field(law, **options):
    return SteeringField([SPAN], weights(law), device=DEVICE, **options)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_triton_and_the_specification_write_the_same_text(model, law):
    texts, focus = [], []
    with attach(model) as attachment:
        for impl in ("reference", "triton"):
            with attachment.steer(field(law), law, impl=impl, measure_focus=True) as report:
                texts.append(greedy(model, IDS))
            assert report.steered_rows == 15 + 7
            focus.append((report.focus_before, report.focus_after))
    assert torch.equal(texts[0], texts[1])
    assert focus[1] == pytest.approx(focus[0], abs=1e-3 if DEVICE == "cuda" else 1e-5)


@pytest.mark.parametrize("law", [LAWS[1], LAWS[2]], ids=lambda law: law.name)
def test_gains_go_to_the_kernel_as_e4m3(model, law):
    gain = torch.tensor([[0.9, 0.0, 1.0, 0.5], [1.0, 1.0, 0.0, 0.3]])
    logits = []
    with attach(model) as attachment, torch.no_grad():
        for impl in ("reference", "triton"):
            with attachment.steer(field(law, gain=gain), law, "heads=0,1,3", impl=impl):
                logits.append(model(IDS).logits)
    assert torch.allclose(logits[0], logits[1], atol=2e-3 if DEVICE == "cuda" else 1e-4)


def test_a_prefill_in_chunks_and_a_new_mask(model):
    """Chunks end before, inside and after the frames; a mask set between tokens counts from the next one on."""
    law = LAWS[1]
    logits = {}
    with attach(model) as attachment, torch.no_grad():
        for impl in ("reference", "triton"):
            two = SteeringField(
                [Span(5, 8), Span(18, 6)], [weights(law)[:8], weights(law, range(1, 4))[:6]], device=DEVICE
            )
            with attachment.steer(two, law, impl=impl) as report:
                cache, pieces = None, []
                for first, last in ((0, 3), (3, 11), (11, 27), (27, 28), (28, 40)):
                    out = model(IDS[:, first:last], past_key_values=cache, use_cache=True)
                    cache = out.past_key_values
                    pieces.append(out.logits)
                two.update([weights(law, range(4, 7))[:8], np.zeros(6, np.int8)])
                pieces.append(model(torch.tensor([[7]], device=DEVICE), past_key_values=cache).logits)
            assert report.field_version == 1
            logits[impl] = torch.cat(pieces, 1)
    assert torch.allclose(logits["reference"], logits["triton"], atol=2e-3 if DEVICE == "cuda" else 1e-4)


def test_a_field_without_weights_is_sdpa_bit_for_bit(model):
    plain = prefill_and_decode(model) if DEVICE == "cpu" else model(IDS).logits
    empty = SteeringField([SPAN], np.zeros(20, np.int8), device=DEVICE)
    with attach(model) as attachment, attachment.steer(empty, LAWS[0], impl="triton") as report:
        again = prefill_and_decode(model) if DEVICE == "cpu" else model(IDS).logits
    assert torch.equal(again, plain)
    assert report.nothing_to_steer == "all weights are 0"


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_another_models_load_changes_nothing(model, law, another_load):
    logits = []
    with attach(model) as attachment, torch.no_grad():
        for context in (contextlib.nullcontext, another_load):
            with context(), attachment.steer(field(law), law, impl="triton", measure_focus=True) as report:
                logits.append(model(IDS).logits)
            assert report.attention_calls == 2
    assert torch.equal(*logits)
