"""Head discovery: the heads that look are found, and what is found stays with the model it was found for."""

import numpy as np
import pytest
import torch
from tiny_models import save_r1
from transformers import Qwen2ForCausalLM

from steer_ros.evaluation.tuning.head_scores import Probe, choose_heads, divergence, score_heads
from steer_ros.steering import Span, attach

SPAN = Span(2, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_r1(tmp_path_factory.mktemp("r1"))


@pytest.fixture
def model(folder):
    return Qwen2ForCausalLM.from_pretrained(folder).float().eval()


def probe(model, seed=0):
    embeds = torch.randn(1, 16, model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    left, right = np.zeros(8, np.int8), np.zeros(8, np.int8)
    left[:4] = right[4:] = 127
    return Probe(embeds, (SPAN,), 3, ([left], [right]))


def silence(model, but):
    """Leave one head's output: no other head can carry anything."""
    size = model.config.hidden_size // model.config.num_attention_heads
    with torch.no_grad():
        for layer, block in enumerate(model.model.layers):
            for head in range(model.config.num_attention_heads):
                if (layer, head) != but:
                    block.self_attn.o_proj.weight[:, head * size : (head + 1) * size] = 0


def test_the_only_head_that_carries_anything_is_found(model):
    silence(model, (1, 2))
    with attach(model) as attachment:
        scores = score_heads(attachment, [probe(model), probe(model, 1)])
    assert scores.shape == (attachment.num_layers, attachment.num_heads)
    assert choose_heads(scores) == ((1, 2),)
    assert float(scores.sum() - scores[1, 2]) == pytest.approx(0.0, abs=1e-6) and scores[1, 2] > 0


def test_bad_probes_are_named(model):
    one = Probe(torch.zeros(1, 16, model.config.hidden_size), (SPAN,), 1, ([np.zeros(8, np.int8)],))
    with attach(model) as attachment:
        with pytest.raises(ValueError, match="regions: 1; accepted are at least 2"):
            score_heads(attachment, [one])
        with pytest.raises(ValueError, match="probes: none"):
            score_heads(attachment, [])


def test_the_fewest_heads_that_have_enough():
    scores = torch.tensor([[0.5, 0.0], [0.3, 0.2]])
    assert choose_heads(scores, 0.5) == ((0, 0),)
    assert choose_heads(scores, 0.8) == ((0, 0), (1, 0))
    assert choose_heads(scores, 1.0) == ((0, 0), (1, 0), (1, 1))
    for part in (0.0, 1.5):
        with pytest.raises(ValueError, match="part"):
            choose_heads(scores, part)
    with pytest.raises(ValueError, match="no head changes anything"):
        choose_heads(torch.zeros(2, 2))


def test_divergence_of_like_and_unlike():
    sure = torch.tensor([[1.0, 1e-9], [1e-9, 1.0]]).log()[:, None]
    assert float(divergence(sure)) == pytest.approx(np.log(2), abs=1e-6)
    assert float(divergence(sure[:1].expand(3, 1, 2))) == pytest.approx(0.0, abs=1e-6)
