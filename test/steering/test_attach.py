"""Steering inside real Transformers classes with random weights: exact on text rows, sdpa bit for bit elsewhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from steering_helpers import IDS, MODELS, SPAN, build, field, greedy, prefill_and_decode, qwen2, text_config, weights

from steer_ros import steering
from steer_ros.steering import Gate, Span, SteeringField, SteeringReport, attach, make_law

# Newer Transformers call it `cache`; older ones, which we support too, know only this name.
pytestmark = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    return build(MODELS[request.param])


@pytest.fixture(scope="module")
def qwen():
    return build(qwen2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(MODELS))
def test_unsteered_is_sdpa_bit_for_bit(name, dtype):
    model = build(MODELS[name], dtype)
    assert text_config(model)._attn_implementation == "sdpa"
    plain = prefill_and_decode(model)
    empty = SteeringField([SPAN], np.zeros(20, np.int8))
    with attach(model) as attachment:
        assert torch.equal(prefill_and_decode(model), plain)
        for law, mask, why in (
            (make_law("additive", 0), field(), "alpha 0"),
            (make_law("conserving", 0.0), field(), "alpha 0"),
            (make_law("none"), field(), "law none"),
            (make_law("additive", 2), empty, "all weights are 0"),
            (make_law("conserving", 2), SteeringField([SPAN], np.full(20, 64, np.int8)), "the same on all"),
            (make_law("additive", 2), SteeringField([], []), "no visual span"),
        ):
            with attachment.steer(mask, law, measure_focus=True) as report:
                assert torch.equal(prefill_and_decode(model), plain)
            assert report.attention_calls == report.steered_rows == 0
            assert why in report.nothing_to_steer
            assert report.calls_seen == 4 * 3
    assert torch.equal(prefill_and_decode(model), plain)


@pytest.mark.parametrize("law", ["additive", "conserving"])
def test_specification_and_fast_path_write_the_same_text(model, law):
    texts, logits, reports = [], [], []
    plain = prefill_and_decode(model)
    with attach(model) as attachment:
        for impl in ("reference", "sdpa", "auto"):
            with attachment.steer(field(), make_law(law, 4), impl=impl, measure_focus=True) as report:
                texts.append(greedy(model))
            reports.append(report)
            with attachment.steer(field(), make_law(law, 4), impl=impl):
                logits.append(prefill_and_decode(model))
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[1], texts[2])
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    assert (logits[0] - plain)[:, -1].abs().max() > 0.1
    assert {r.steered_rows for r in reports} == {15 + 7}
    assert {r.attention_calls for r in reports} == {3 * 8}
    assert all(r.focus_after > 2 * r.focus_before > 0 for r in reports)


def test_cached_static_and_uncached_decoding_agree(model):
    texts, focus = [], []
    with attach(model) as attachment:
        for options in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
            with attachment.steer(field(), make_law("conserving", 4), measure_focus=True) as report:
                texts.append(greedy(model, **options))
            focus.append(report.focus_after)
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])
    assert focus[0] == pytest.approx(focus[1], abs=1e-6)


def test_a_prefill_in_chunks_is_the_prefill(qwen):
    with torch.no_grad(), attach(qwen) as attachment:
        with attachment.steer(field(), make_law("conserving", 4)):
            whole = qwen(IDS).logits
        for cache in (hf.DynamicCache(), hf.StaticCache(config=qwen.config, max_cache_len=64)):
            with attachment.steer(field(), make_law("conserving", 4)) as report:
                parts = [
                    qwen(IDS[:, first:last], past_key_values=cache).logits
                    for first, last in ((0, 3), (3, 11), (11, 27), (27, 28), (28, 40))
                ]
            assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
            assert report.steered_rows == 15
            assert report.forwards == 5


@pytest.mark.parametrize("law", ["additive", "conserving"])
def test_only_text_rows_after_the_image_are_steered(qwen, law):
    two = SteeringField([Span(5, 8), Span(18, 6)], [weights(8, [0, 3]), weights(6, [1, 2])])
    plain = prefill_and_decode(qwen)
    with attach(qwen) as attachment, torch.no_grad():
        layer = qwen.model.layers[0].self_attn  # what comes later mixes the rows
        outs = []
        handle = layer.register_forward_hook(lambda module, inputs, output: outs.append(output[0]))
        for impl in ("sdpa", "reference"):
            qwen(IDS)
            with attachment.steer(two, make_law(law, 3), impl=impl):
                qwen(IDS)
        handle.remove()
    for unsteered, steered in (outs[:2], outs[2:]):
        changed = (unsteered != steered).any(-1)[0]
        text = torch.zeros(40, dtype=torch.bool)
        text[13:18] = text[24:] = True
        assert torch.equal(changed, text)
    assert torch.allclose(outs[1], outs[3], atol=1e-6)
    assert torch.equal(prefill_and_decode(qwen), plain)


def test_gates_choose_layers_heads_and_phases(qwen):
    with attach(qwen) as attachment, torch.no_grad():
        plain = qwen(IDS).logits
        outs = []
        handle = qwen.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda m, args: outs.append(args[0]))
        qwen(IDS)
        with attachment.steer(field(), make_law("additive", 3), "layers=1;heads=1,2", measure_focus="rows") as report:
            qwen(IDS)
        handle.remove()
        assert report.attention_calls == 1
        assert [rows.layer for rows in report.rows] == [1]
        changed = ((outs[0] - outs[1]).abs() > 1e-6).view(40, 4, 16).any(-1)[25:].any(0)
        assert changed.tolist() == [False, True, True, False]
        before = report.rows[0].before[0, 1:3].mean()
        assert report.focus_before == pytest.approx(float(before), abs=1e-6)

        with attachment.steer(field(), make_law("additive", 3), Gate(phases="act"), measure_focus=True) as report:
            assert torch.equal(qwen(IDS).logits, plain)
            attachment.phase = "act"
            assert not torch.equal(qwen(IDS).logits, plain)
        assert report.focus("think") is None
        assert report.focus("act") == (report.focus_before, report.focus_after)
        with attachment.steer(field(), make_law("additive", 3), "phases=think") as report:
            qwen(IDS)
        assert report.nothing_to_steer == "gate closed in phase act"
        attachment.phase = "think"


def test_gains_multiply_the_strength(qwen):
    gain = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0], [0.5, 1.0, 0.0, -1.0]])
    graded = SteeringField([SPAN], weights(), gain=gain)
    with attach(qwen) as attachment, torch.no_grad():
        logits = []
        for impl in ("reference", "sdpa"):
            for law in ("additive", "conserving"):
                with attachment.steer(graded, make_law(law, 4), impl=impl, measure_focus=True) as report:
                    logits.append(prefill_and_decode(qwen))
                assert report.attention_calls == 2 * 4
        assert torch.allclose(logits[0], logits[2], atol=1e-5)
        assert torch.allclose(logits[1], logits[3], atol=1e-5)
        with (
            pytest.raises(ValueError, match=r"^gain: shape \(2, 2\)"),
            attachment.steer(SteeringField([SPAN], weights(), gain=torch.ones(2, 2)), make_law("additive", 1)),
        ):
            pass
        with (
            pytest.raises(ValueError, match=r"^gain: alpha 20 times a gain of 4 "),
            attachment.steer(SteeringField([SPAN], weights(), gain=torch.full((3, 4), 4.0)), make_law("additive", 20)),
        ):
            pass


def test_a_batch_of_one_field_is_each_alone(qwen):
    ids = torch.cat([IDS, IDS.flip(1)])
    with attach(qwen) as attachment:
        outs = []
        for batch in (ids, ids[:1], ids[1:]):
            with attachment.steer(field(), make_law("conserving", 4)) as report:
                outs.append(greedy(qwen, batch))
        assert torch.equal(outs[0], torch.cat(outs[1:]))
        assert report.steered_rows == 22
        padded = torch.ones_like(ids)
        for hole in (slice(0, 3), slice(37, 40)):
            padded[1, hole] = 0
            with (
                pytest.raises(ValueError, match="attention_mask: Qwen2Attention got padding"),
                attachment.steer(field(), make_law("conserving", 4)),
            ):
                qwen(ids, attention_mask=padded)
            padded[1] = 1


def test_a_new_mask_counts_from_the_next_token_on(qwen):
    """An update in the middle of a forward pass leaves that pass alone, in all its layers."""
    steps = range(4)

    def decode(update_before, update_within):
        steered = SteeringField([SPAN], weights())
        logits, versions, due = [], [], []

        def after_the_first_layer(*_):
            if due:
                due.pop()
                steered.update(weights(region=range(10, 15)))

        hook = qwen.model.layers[0].register_forward_hook(after_the_first_layer)
        with torch.no_grad(), attach(qwen) as attachment, attachment.steer(steered, make_law("additive", 3)) as report:
            out = qwen(IDS, use_cache=True)
            for step in steps:
                if step == update_before:
                    steered.update(weights(region=range(10, 15)))
                if step == update_within:
                    due.append(step)
                out = qwen(torch.tensor([[7]]), past_key_values=out.past_key_values, use_cache=True)
                logits.append(out.logits)
                versions.append(report.field_version)
        hook.remove()
        return logits, versions

    never, between, within = decode(None, None), decode(2, None), decode(None, 1)
    assert between[1] == within[1] == [0, 0, 1, 1]
    assert all(torch.equal(between[0][i], within[0][i]) for i in steps)
    assert [torch.equal(between[0][i], never[0][i]) for i in steps] == [True, True, False, False]


def test_focus_of_regions_and_of_unsteered_turns(qwen):
    halves = np.arange(20) < 10, np.arange(20) >= 10
    with attach(qwen) as attachment, torch.no_grad():
        options = {"measure_focus": True, "regions": halves}
        with attachment.steer(field(), make_law("none"), **options) as unsteered:
            qwen(IDS)
        with attachment.steer(field(), make_law("conserving", 3), "layers=0", **options) as steered:
            qwen(IDS)
    assert unsteered.focus_before == unsteered.focus_after
    assert unsteered.regions_before == unsteered.regions_after
    assert sum(steered.regions_after) == pytest.approx(sum(steered.regions_before), abs=1e-6)  # V keeps its total
    assert steered.regions_after[0] > steered.regions_before[0]


def test_a_picture_passes_the_vision_tower_unsteered():
    """The whole Qwen2-VL model, pixels in: its vision tower keeps its own attention, the text is steered."""
    model = build(MODELS["qwen2_vl"])
    torch.manual_seed(1)
    ids = torch.tensor([[3, 4, 92, 90, 90, 90, 90, 93, 5, 6, 7, 8]])
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.randn(16, 3 * 2 * 4 * 4),  # 4×4 patches of 4 px, two frames deep; 2×2 tokens
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (ids == 90).int(),
    }
    mask = SteeringField([Span(3, 4)], np.array([[127, 0], [0, -127]], np.int8))
    with torch.no_grad(), attach(model) as attachment:
        plain = model(**inputs).logits
        with attachment.steer(mask, make_law("conserving", 4), measure_focus=True) as report:
            steered = model(**inputs).logits
    assert report.steered_rows == 5
    assert report.attention_calls == 3
    assert report.focus_after > report.focus_before > 0
    assert (steered != plain).any(-1)[0].tolist() == [False] * 7 + [True] * 5


def test_attach_is_the_function_whatever_was_imported_before_it():
    modules = sorted(file.stem for file in Path(steering.__file__).parent.glob("*.py") if file.stem != "__init__")
    first = "".join(f"import steer_ros.steering.{name}\n" for name in modules)
    then = "from steer_ros.steering import attach\nassert callable(attach), attach"
    subprocess.run([sys.executable, "-c", first + then], check=True)


def test_focus_is_added_up_over_the_devices_of_one_model(monkeypatch):
    report, cpu = SteeringReport(), torch.Tensor.cpu
    # "meta" in a second GPU's place, all of whose numbers are 0
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape) if self.is_meta else cpu(self))
    for device in ("cpu", "meta", "cpu"):
        both = torch.full((1, 4, 1, 2, 2), 0.3, device=device)
        report.add_focus("think", both, torch.ones(4, device=device), 4)
    assert report.focus_before == pytest.approx(0.2) == report.regions_after[0]


def test_compiled_generation_steers_each_layer_as_itself(qwen):
    """On CUDA, `generate` with a static cache compiles by itself; here it is made to."""
    compiled = hf.CompileConfig(backend="eager", mode=None)
    compiled._compile_all_devices = True
    options = dict(max_new_tokens=5, min_new_tokens=5, do_sample=False, cache_implementation="static")
    gains = torch.tensor([[8.0] * 4, [0.0] * 4, [0.0] * 4])
    results = []
    with attach(qwen) as attachment:
        for how in ({"disable_compile": True}, {"compile_config": compiled}):
            mask = SteeringField([SPAN], np.maximum(weights(), 0), gains)
            with attachment.steer(mask, make_law("conserving", 4)) as report:
                out = qwen.generate(IDS, **options, **how, output_logits=True, return_dict_in_generate=True)
            results.append((torch.stack(out.logits), report.forwards, report.attention_calls))
    torch._dynamo.reset()
    (eager, *counts), (logits, *compiled_counts) = results
    assert torch.equal(logits, eager)
    assert compiled_counts == counts == [5, 5]


@pytest.mark.parametrize("measured", [False, True])
def test_rows_that_do_not_see_the_region_have_no_part_in_the_focus(qwen, measured):
    spans = [Span(5, 8), Span(20, 8)]
    mask = SteeringField(spans, [np.zeros(8, np.int8), weights(8, range(2, 5))])
    regions = [[np.ones(8, bool), np.ones(8, bool)]] if measured else None
    options = {"measure_focus": "rows", "regions": regions}
    with torch.no_grad(), attach(qwen) as a, a.steer(mask, make_law("conserving", 4), **options) as report:
        qwen(IDS)
    assert {rows.first for rows in report.rows} == {28}  # the text between the spans sees the first alone
    assert report.focus_after > report.focus_before > 0


def test_under_autocast_a_model_is_steered_in_the_dtype_that_it_computes_in(qwen):
    with torch.no_grad(), attach(qwen) as attachment, torch.autocast("cpu", dtype=torch.bfloat16):
        plain = prefill_and_decode(qwen)
        logits = []
        for law in (make_law("additive", 0), make_law("target", setpoint=0.6)):
            for impl in ("sdpa", "reference"):
                mask = SteeringField([SPAN], np.maximum(weights(), 0))
                with attachment.steer(mask, law, measure_focus=True, impl=impl) as report:
                    logits.append(prefill_and_decode(qwen))
    assert torch.equal(logits[0], plain) and torch.equal(logits[1], plain)
    assert report.focus_after == pytest.approx(0.6, abs=1e-3)
    assert torch.allclose(logits[2], logits[3], atol=0.02)
    assert (logits[2] - plain).abs().max() > 0.1
