"""The network that sets each head's gain: what it reads, what it may give, and how it is kept."""

import numpy as np
import pytest
import torch
from tiny_models import save_r1
from transformers import Qwen2ForCausalLM

from steer_ros.steering import Law, Span, SteeringField, attach, make_law
from steer_ros.steering.head_gains import (
    FILE,
    MAX_OUTPUT,
    HeadGainNet,
    head_features,
    load_head_gains,
    save_head_gains,
)

SPAN = Span(2, 8)


@pytest.fixture
def model(tmp_path):
    return Qwen2ForCausalLM.from_pretrained(save_r1(tmp_path / "r1")).float().eval()


def context(model):
    """The embeddings of 16 keys, and the weights of a region over half of the span."""
    embeds = torch.randn(1, 16, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    return embeds, [np.repeat([127, 0], 4).astype(np.int8)]


def test_features_of_a_head():
    q, k = torch.zeros(1, 4, 1, 8), torch.zeros(1, 2, 10, 8)
    weights, visual = torch.tensor([127, 64, 0, 0], dtype=torch.int8), torch.tensor([True, True, True, False])
    features = head_features(q, k, weights, visual, 3, 1.0, 0.5)
    expected = torch.tensor([torch.tensor(2 / 10).logit(), torch.tensor(3 / 10).logit(), 2 / 3, 0.5])
    torch.testing.assert_close(features, expected.expand(4, 4), rtol=1e-5, atol=1e-5)


def test_a_network_is_kept_bounded_and_used(model, tmp_path):
    net = HeadGainNet()
    assert net(torch.zeros(4)).item() == pytest.approx(2.0, abs=0.01)
    assert sum(p.numel() for p in net.parameters()) < 5000
    save_head_gains(tmp_path, net)
    again = load_head_gains(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    with torch.no_grad():
        again.layers[-1].bias.fill_(50.0)
    assert again(torch.zeros(4)).item() <= MAX_OUTPUT
    embeds, weights = context(model)
    logits = {}
    with attach(model) as attachment, torch.no_grad():
        for name, law, network in (
            ("fixed", make_law("conserving", 2.0), None),
            ("net", make_law("conserving", 1.0), net),  # that gives 2, to e4m3's rounding
            ("strong", make_law("conserving", 1.0), again),
        ):
            field = SteeringField([SPAN], weights)
            with attachment.steer(field, law, head_gains=network):
                logits[name] = model(inputs_embeds=embeds).logits
        field = SteeringField([SPAN], weights)
        with (
            pytest.raises(ValueError, match="head_gains"),
            attachment.steer(field, Law("share", 0, 0.9), head_gains=net),
        ):
            pass
    torch.testing.assert_close(logits["net"], logits["fixed"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits["strong"], logits["fixed"], atol=1e-4)


def test_a_network_keeps_its_weights_while_another_model_loads(tmp_path, another_load):
    net = HeadGainNet()
    save_head_gains(tmp_path, net)
    with another_load():
        again = load_head_gains(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_what_is_no_network_is_named(model):
    field = SteeringField([SPAN], context(model)[1])
    with attach(model) as attachment:
        for network in (2.0, torch.ones(4, 4)):
            refused = pytest.raises(ValueError, match=r"^head_gains: .*accepted is a HeadGainNet")
            with refused, attachment.steer(field, make_law("conserving"), head_gains=network):
                pass


def test_no_network_where_one_is_named(tmp_path):
    with pytest.raises(ValueError, match=FILE):
        load_head_gains(tmp_path)
