"""steering.json: what is kept of a tuned model comes back, and what does not fit is refused by name."""

import json

import pytest
import torch
from tiny_models import save_r1

from steer_ros.models.loading import ModelLoadError
from steer_ros.reasoning import Limits, Reasoner
from steer_ros.steering import Gate, Guard, Law, Schedule, SteeringConfig, head_gains, make_law
from steer_ros.steering.steering_file import SteeringFile, SteeringFileError, load_steering_file, save_steering_file

TUNED = SteeringFile(
    SteeringConfig(
        Law("conserving", 6.0),
        Gate(pairs=((0, 1), (1, 3))),
        Schedule(confidence_threshold=0.9),
        guard=Guard(check_interval=4),
    ),
    provenance={"heads": "how"},
    heads=Gate(pairs=((0, 1),)),
)


def test_what_is_tuned_is_the_models_default(tmp_path):
    target = save_r1(tmp_path / "model")
    save_steering_file(target, TUNED)
    assert load_steering_file(target) == TUNED
    reasoner = Reasoner.from_pretrained(str(target))
    limits = Limits(max_new_tokens=2)
    assert reasoner.config == TUNED.config == reasoner.generate("Go.", limits=limits).config
    changes = {"law": "additive", "gate": "all", "schedule": "constant", "guard": "off"}
    turn = reasoner.generate("Go.", config=changes, limits=limits)
    assert turn.config == SteeringConfig(make_law("additive", 2.0), guard=None)
    assert reasoner.generate("Go.", alpha=3, limits=limits).config == TUNED.config.override(alpha=3.0)
    assert load_steering_file(save_r1(tmp_path / "other")) is None


def test_a_table_of_gains_is_kept(tmp_path):
    target = save_r1(tmp_path / "model")
    table = torch.tensor([[0.5, 448.0], [-1.0, 0.0]])
    file = save_steering_file(target, SteeringFile(SteeringConfig(make_law("conserving", 8.0), head_gains=table)))
    assert torch.equal(load_steering_file(target).config.head_gains, table)
    assert len(file.read_text().splitlines()) < 20  # a layer a line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_gains": [[1.0, "x"]]}, "head_gains"),
        ({"head_gains": [[1.0], [1.0, 2.0]]}, "head_gains"),
        ({"head_gains": [[1000.0]]}, "head_gains"),
        ({"head_gains": 2.0}, "head_gains"),
        ({"head_gains": "table"}, "head_gains"),
        ({"model": "sha256:0"}, "found for another model"),
        ({"version": 3}, "version 3; accepted is a JSON object of version 2"),
        ({"version": 1, "mark": None, "found": {}}, "version 1 .*mark is now setpoint; found is now provenance"),
        ({"law": None}, "law: None; accepted is a law by its name"),
        ({"guard": "scales=1,0"}, "scales is now retry_scales"),
        ({"law": "louder"}, "louder"),
        ({"gate": "layers=x"}, "gate"),
        ({"heads": "pairs=x"}, "heads: gate: 'pairs=x'"),
        ({"heads": ""}, "heads: gate: ''"),
        ({"guards": "on"}, "guards: 'on'; accepted is no such field"),
        ({"schedule": "later"}, "schedule"),
        ({"head_gains": "network"}, head_gains.FILE),
        (None, "not JSON"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, change, said):
    folder = save_r1(tmp_path)
    file = save_steering_file(folder, TUNED)
    text = "{" if change is None else json.dumps({**json.loads(file.read_text()), **change})
    file.write_text(text)
    with pytest.raises(SteeringFileError, match=said) as raised:
        load_steering_file(folder)
    assert str(file.name) in str(raised.value)
    with pytest.raises(ModelLoadError, match=said):
        Reasoner.from_pretrained(str(folder))


def test_a_folder_without_weights_can_hold_none(tmp_path):
    with pytest.raises(SteeringFileError, match="no model"):
        save_steering_file(tmp_path, TUNED)
