"""`steer-ros tune text` on a tiny model: what is learnt goes through the law that steers, and becomes the default."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_models
import torch

from steer_ros.cli import main
from steer_ros.evaluation.harness.batch_decoder import pick
from steer_ros.evaluation.harness.eval_config import EvalConfig
from steer_ros.evaluation.suites.text import suite as text
from steer_ros.evaluation.suites.text.prompts import TUNING, draw_prompts
from steer_ros.evaluation.tuning import text_gains
from steer_ros.models.tokenization import encode_plain
from steer_ros.steering import SteeringField
from steer_ros.steering.steering_file import load_steering_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_r1(tmp_path_factory.mktemp("text"), max_length=1024)


@pytest.fixture(scope="module")
def model(folder):
    return text.model_of(EvalConfig(reasoning=str(folder)))[0]


@pytest.fixture(scope="module")
def lesson(model):
    batch = max(text.batches(model, draw_prompts(TUNING[:1], 12, 0)), key=lambda batch: len(batch.prompts))
    return batch, model.read(batch.laid)


def start(model):
    return torch.full((model.attachment.num_layers, model.attachment.num_heads), 4.0)


def test_the_loss_is_that_of_the_steering_itself(model, lesson):
    """Each row by Transformers with the model attached and steered, in place of the differentiable attention."""
    batch, reading = lesson
    alpha = start(model) * torch.linspace(0.5, 1.5, model.attachment.num_heads)
    alpha = alpha.to(torch.float8_e4m3fn).float()  # what a field keeps
    targets = [index % len(batch.prompts[0].facts) for index in range(len(batch.prompts))]
    seen, real = [], text_gains.chosen_by

    def chosen_by(steered, plain, schedule):
        seen.append((steered.detach(), plain))
        return real(steered, plain, schedule)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_gains, "chosen_by", chosen_by)
        text_gains.loss_of(model, batch, reading, targets, alpha)
    steered, plain = (logits.view(len(targets), -1, logits.shape[-1]) for logits in seen[0])
    model.attachment.phase = "act"
    for row, target in enumerate(targets):
        laid = batch.laid[row]
        word = encode_plain(model.tokenizer, f" {batch.prompts[row].facts[target].words[0]}")
        ids = torch.tensor([[*laid.tail, *laid.opening, *word[:-1]]])
        weights = [np.full(span.length, 127 * (index == target), np.int8) for index, span in enumerate(laid.spans)]
        field = SteeringField(laid.spans, weights, alpha)
        with torch.no_grad():
            wanted = model.logits(pick(reading.cache, [row]), ids, len(word))
            torch.testing.assert_close(plain[row : row + 1, : len(word)], wanted, rtol=1e-3, atol=1e-3)
            with model.attachment.steer(field, text_gains.setup_of(alpha).config.law):
                wanted = model.logits(pick(reading.cache, [row]), ids, len(word))
        torch.testing.assert_close(steered[row : row + 1, : len(word)], wanted, rtol=1e-3, atol=1e-3)


def test_strengths_learn_and_the_model_does_not(model):
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    learnt = text_gains.learn(model, TUNING[:2], 3, 3, 0)
    assert learnt.shape == start(model).shape and (learnt >= 0).all()
    assert (learnt != 4.0).any() and torch.equal(learnt, learnt.to(torch.float8_e4m3fn).float())
    assert torch.equal(learnt, text_gains.learn(model, TUNING[:2], 3, 3, 0))
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("better", [True, False])
def test_what_is_learnt_is_kept_only_if_it_is_better(folder, tmp_path, monkeypatch, capsys, better):
    taught = []

    def judge(model, kinds, prompts, setup, results):
        assert not {kind.name for kind in kinds} & taught[-1]  # judged on what did not teach
        results.add("steered", (setup.config.gain_table is not None) == better, 0)

    def learn(model, kinds, *given):
        taught.append({kind.name for kind in kinds})
        return start(model)

    monkeypatch.setattr(text_gains, "judge", judge)
    monkeypatch.setattr(text_gains, "learn", learn)
    out, rows = tmp_path / "out", tmp_path / "rows.json"
    assert main(["tune", "text", "--reasoning", str(folder), "--out", str(out), "--json", str(rows)]) == 0
    said = capsys.readouterr().out
    assert ("kept" in said) == better and ("not better" in said) != better
    assert json.loads(rows.read_text())["learnt"]["value"] == float(better)
    tuned = load_steering_file(out, weights=folder)
    if better:
        assert taught[-1] == {kind.name for kind in TUNING}
        assert (tuned.config.head_gains == 4.0).all() and "text" in tuned.provenance
        assert torch.equal(text.setup_for(folder, out).config.gain_table, tuned.config.gain_table)
    else:
        assert tuned is None and text.setup_for(folder, out) is text.SETUP
