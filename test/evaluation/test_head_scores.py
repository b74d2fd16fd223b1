"""Head discovery: the heads that look are found, and what is found stays with the model it was found for."""

import json

import numpy as np
import pytest
import torch
from tiny_models import save_r1
from transformers import Qwen2ForCausalLM

from steer_ros.evaluation.tuning.head_scores import Probe, choose_heads, divergence, score_heads
from steer_ros.models.loading import ModelLoadError
from steer_ros.reasoning import Reasoner
from steer_ros.steering import Gate, Law, Span, SteeringField, attach, make_law
from steer_ros.steering.config import Tuned, TunedError, load_tuned, save_tuned
from steer_ros.steering.head_gains import FILE, MOST, StrengthNet, head_features, load_strength, save_strength
from steer_ros.steering.schedule import Schedule

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


TUNED = Tuned(
    Law("conserving", 6.0),
    Gate(pairs=((0, 1), (1, 3))),
    Schedule(sure=0.9),
    found={"heads": "how"},
    heads=Gate(pairs=((0, 1),)),
)


def test_what_is_tuned_is_the_models_default(folder, tmp_path):
    target = save_r1(tmp_path / "model")
    save_tuned(target, TUNED)
    assert load_tuned(target) == TUNED
    reasoner = Reasoner.from_pretrained(str(target))
    turn = reasoner.generate("Go.", max_new_tokens=2)
    assert (turn.law, turn.alpha, turn.gate, turn.schedule) == ("conserving", 6.0, "pairs=0.1,1.3", "sure=0.9")
    turn = reasoner.generate("Go.", max_new_tokens=2, law="additive", gate="all", schedule="constant")
    assert (turn.law, turn.alpha, turn.gate, turn.schedule) == ("additive", 2.0, "all", "constant")
    assert reasoner.generate("Go.", max_new_tokens=2, alpha=3).alpha == 3.0
    assert load_tuned(folder) is None


def test_a_table_of_gains_is_kept(tmp_path):
    target = save_r1(tmp_path / "model")
    table = torch.tensor([[0.5, 448.0], [-1.0, 0.0]])
    file = save_tuned(target, Tuned(make_law("conserving", 8.0), strength=table))
    assert torch.equal(load_tuned(target).strength, table)
    assert len(file.read_text().splitlines()) < 20  # a layer a line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gains": [[1.0, "x"]]}, "gains"),
        ({"gains": [[1.0], [1.0, 2.0]]}, "gains"),
        ({"gains": [[1000.0]]}, "gains"),
        ({"gains": 2.0}, "gains"),
        ({"model": "sha256:0"}, "found for another model"),
        ({"version": 2}, "version 1"),
        ({"law": "louder"}, "louder"),
        ({"gate": "layers=x"}, "gate"),
        ({"heads": "pairs=x"}, "pairs"),
        ({"schedule": "later"}, "schedule"),
        ({"adaptive": True}, FILE),
        (None, "not JSON"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, change, said):
    folder = save_r1(tmp_path)
    file = save_tuned(folder, TUNED)
    text = "{" if change is None else json.dumps({**json.loads(file.read_text()), **change})
    file.write_text(text)
    with pytest.raises(TunedError, match=said) as raised:
        load_tuned(folder)
    assert str(file.name) in str(raised.value)
    with pytest.raises(ModelLoadError, match=said):
        Reasoner.from_pretrained(str(folder))


def test_a_folder_without_weights_can_hold_none(tmp_path):
    with pytest.raises(TunedError, match="no model"):
        save_tuned(tmp_path, TUNED)


def test_features_of_a_head():
    q, k = torch.zeros(1, 4, 1, 8), torch.zeros(1, 2, 10, 8)
    weights, visual = torch.tensor([127, 64, 0, 0], dtype=torch.int8), torch.tensor([True, True, True, False])
    features = head_features(q, k, weights, visual, 3, 1.0, 0.5)
    expected = torch.tensor([torch.tensor(2 / 10).logit(), torch.tensor(3 / 10).logit(), 2 / 3, 0.5])
    torch.testing.assert_close(features, expected.expand(4, 4), rtol=1e-5, atol=1e-5)


def test_adaptive_strength_is_kept_bounded_and_used(model, tmp_path):
    net = StrengthNet()
    assert net(torch.zeros(4)).item() == pytest.approx(2.0, abs=0.01)
    assert sum(p.numel() for p in net.parameters()) < 5000
    save_strength(tmp_path, net)
    again = load_strength(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    with torch.no_grad():
        again.layers[-1].bias.fill_(50.0)
    assert again(torch.zeros(4)).item() <= MOST
    case = probe(model)
    logits = {}
    with attach(model) as attachment, torch.no_grad():
        for name, law, adaptive in (
            ("fixed", make_law("conserving", 2.0), None),
            ("net", make_law("conserving", 1.0), net),  # that gives 2, to e4m3's rounding
            ("strong", make_law("conserving", 1.0), again),
        ):
            field = SteeringField([SPAN], case.regions[0])
            with attachment.steer(field, law, adaptive=adaptive):
                logits[name] = model(inputs_embeds=case.embeds).logits
        field = SteeringField([SPAN], case.regions[0])
        with pytest.raises(ValueError, match="adaptive"), attachment.steer(field, Law("share", 0, 0.9), adaptive=net):
            pass
    torch.testing.assert_close(logits["net"], logits["fixed"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits["strong"], logits["fixed"], atol=1e-4)


def test_a_network_keeps_its_weights_while_another_model_loads(tmp_path, another_load):
    net = StrengthNet()
    save_strength(tmp_path, net)
    with another_load():
        again = load_strength(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_alpha_or_mark_alone_is_of_the_models_own_law():
    tuned = Tuned(make_law("share", 1.5, 0.9), strength=torch.ones(2, 2))
    assert tuned.law_as(None) == (tuned.law, tuned.strength)
    assert tuned.law_as(None, alpha=3.0) == (make_law("share", 3.0, 0.9), None)
    assert tuned.law_as(None, mark=0.5) == (make_law("share", 1.5, 0.5), None)
    assert tuned.law_as("target", mark=0.5) == (make_law("target", 0.0, 0.5), None)
    with pytest.raises(ValueError, match="setpoint: None"):
        tuned.law_as("share", 3.0)  # a law that is named begins anew
    with pytest.raises(ValueError, match=r"setpoint: 0\.5 with law additive"):
        Tuned(make_law("additive")).law_as(None, mark=0.5)


def test_what_is_no_network_is_named(model):
    field = SteeringField([SPAN], probe(model).regions[0])
    with attach(model) as attachment:
        for adaptive in (2.0, torch.ones(4, 4)):
            refused = pytest.raises(ValueError, match=r"^adaptive: .*accepted is a StrengthNet")
            with refused, attachment.steer(field, make_law("conserving"), adaptive=adaptive):
                pass


def test_no_network_where_one_is_named(tmp_path):
    with pytest.raises(ValueError, match=FILE):
        load_strength(tmp_path)
