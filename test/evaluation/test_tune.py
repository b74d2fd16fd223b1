"""`steer-ros tune` on a scene or two: what it writes is what the model then uses, and bad input is named."""

import argparse
import json
import shutil

import cv2
import numpy as np
import pytest

from steer_ros.cli import main
from steer_ros.evaluation.harness.cases import Case, cases
from steer_ros.evaluation.harness.steering_setup import SteeringSetup
from steer_ros.evaluation.tuning import alpha as alpha_module
from steer_ros.evaluation.tuning import gain_network
from steer_ros.evaluation.tuning import heads as heads_module
from steer_ros.lab.seeds import ALPHA_SEEDS, GAIN_NETWORK_JUDGED_SEEDS, GAIN_NETWORK_SEEDS
from steer_ros.models import resolve
from steer_ros.perception import Perceiver
from steer_ros.reasoning import Reasoner
from steer_ros.steering import Gate, SteeringConfig, make_law, session
from steer_ros.steering.schedule import Schedule
from steer_ros.steering.steering_file import SteeringFile, fingerprint, load_steering_file, save_steering_file


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The built-in pair, the reasoner in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("models") / "lab-r1"
    shutil.copytree(resolve("builtin:lab-r1"), folder)
    (folder / "steering.json").unlink(missing_ok=True)
    return Perceiver.from_pretrained("builtin:lab-vl"), Reasoner.from_pretrained(str(folder)), folder


@pytest.fixture(autouse=True)
def few_controls(monkeypatch):
    """The controls on one other frame."""
    monkeypatch.setattr(heads_module, "CONTROLS", 1)


def options(module, *given):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    parser.add_argument("--json")
    module.add_arguments(parser)
    return parser.parse_args(list(given))


def test_heads_are_found_and_become_the_default(pair):
    perceiver, reasoner, folder = pair
    rows = heads_module.tune(perceiver, reasoner, folder, options(heads_module, "--scenes", "1"))
    tuned = load_steering_file(folder)
    assert tuned.config.gate.pairs and tuned.heads == tuned.config.gate and "heads" in tuned.provenance
    assert rows["chosen"] > rows["random"] and rows["chosen"] > 0.3 * rows["all"]
    assert Reasoner.from_pretrained(str(folder)).config.gate == tuned.config.gate


def test_what_goes_elsewhere_begins_with_the_models_own(pair, tmp_path):
    perceiver, reasoner, folder = pair
    kept = (folder / "steering.json").read_bytes()
    save_steering_file(folder, SteeringFile(SteeringConfig(make_law("conserving", 5.0))))
    try:
        given = options(heads_module, "--scenes", "1", "--out", str(tmp_path / "new"))
        heads_module.tune(perceiver, reasoner, folder, given)
    finally:
        (folder / "steering.json").write_bytes(kept)
    assert load_steering_file(tmp_path / "new", weights=folder).config.law == make_law("conserving", 5.0)


def test_photos_will_do(pair, tmp_path):
    perceiver, _, _ = pair
    for index in range(2):
        shade = np.full((90, 120, 3), 60 + index, np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), shade)
    images = list(heads_module.frames(perceiver, tmp_path, 5))
    assert [image.shape for image in images] == [(90, 120, 3)] * 2
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0\.png: can't be decoded"):
        list(heads_module.frames(perceiver, tmp_path, 5))
    with pytest.raises(ValueError, match="--photos"):
        list(heads_module.frames(perceiver, tmp_path / "none", 5))


class Told:
    """A trial of Optuna's that says what it is told to."""

    def __init__(self, **said):
        self.said = said

    def suggest_categorical(self, name, choices):
        assert self.said[name] in choices
        return self.said[name]

    def suggest_float(self, name, low, high, log=False):
        assert low <= self.said[name] <= high
        return self.said[name]


def suggest(trial, heads):
    return alpha_module.suggest(trial, heads).config


def test_what_the_search_draws_is_a_configuration():
    heads = Gate(pairs=((0, 1),))
    drawn = suggest(
        Told(
            law="conserving",
            alpha=6.0,
            gate="heads",
            prompt=0.0,
            plausibility=0.1,
            guidance=0.5,
            schedule="confidence",
            confidence_threshold=0.9,
        ),
        heads,
    )
    assert (drawn.law, drawn.gate, str(drawn.schedule)) == (
        make_law("conserving", 6.0),
        heads,
        "prompt=0;confidence_threshold=0.9;plausibility=0.1;guidance=0.5",
    )
    drawn = suggest(Told(law="share", share=0.8, prompt=1.0, plausibility=None, guidance=None, schedule="think"), None)
    assert (drawn.law, drawn.gate, str(drawn.schedule)) == (make_law("share", setpoint=0.8), Gate(), "act=0")
    drawn = suggest(
        Told(
            law="target", target=0.3, prompt=1.0, plausibility=None, guidance=None, schedule="half_life", half_life=4.0
        ),
        None,
    )
    assert drawn.law.setpoint == 0.3 and drawn.schedule.half_life == 4.0


def test_quality_is_the_share_of_whole_answers(pair):
    perceiver, reasoner, _ = pair
    asked = list(cases(perceiver, ALPHA_SEEDS.start, 2, names=2))
    right = alpha_module.share_right(
        reasoner, asked, SteeringSetup("x", SteeringConfig(make_law("conserving", 4.0), guard=None))
    )
    assert right in (0.0, 0.25, 0.5, 0.75, 1.0) and right >= 0.5


def test_a_network_learns_on_a_frozen_model(pair):
    perceiver, reasoner, _ = pair
    before = {name: value.clone() for name, value in reasoner.model.state_dict().items()}
    seen = list(cases(perceiver, GAIN_NETWORK_SEEDS.start, 1, names=2))
    net = gain_network.train(reasoner, seen, 2, 0)
    fresh = gain_network.HeadGainNet()
    assert any((a != b).any() for a, b in zip(net.state_dict().values(), fresh.state_dict().values()))
    assert all((before[name] == value).all() for name, value in reasoner.model.state_dict().items())
    plain = reasoner.generate("Pick up one object.", seen[0].features, measure_focus=False)
    assert plain.action  # the model's attention is what it was
    weights, config = (
        seen[0].weights(seen[0].objects[0]),
        {"law": "conserving", "alpha": 1, "gate": "all", "head_gains": net},
    )
    turn = reasoner.generate("Pick up one object.", seen[0].features, weights, config=config)
    assert turn.steered and turn.focus_after > turn.focus_before


def test_lessons_are_where_the_model_is(pair):
    perceiver, _, folder = pair
    (case,) = cases(perceiver, GAIN_NETWORK_SEEDS.start, 1, names=2)
    far = Reasoner.from_pretrained(str(folder))
    for part in (far.model, far.bridge):
        part.to("meta")  # in a GPU's place
    lesson = next(gain_network.lessons_of(far, case))
    parts = {name: getattr(lesson, name).device.type for name in ("embeds", "answer", "weights")}
    assert parts == dict.fromkeys(parts, "meta")


def test_the_fixed_strength_is_chosen_on_the_scenes_that_taught(pair, tmp_path, monkeypatch):
    perceiver, reasoner, folder = pair
    judged = []
    monkeypatch.setattr(gain_network, "cases", lambda perceiver, seed, count, names: [Case(seed, *[None] * 3)] * count)
    monkeypatch.setattr(gain_network, "train", lambda *_: gain_network.HeadGainNet())
    monkeypatch.setattr(
        gain_network, "share_right", lambda reasoner, asked, setup: judged.append([c.key for c in asked]) or 0.5
    )
    monkeypatch.setattr(
        gain_network, "hits_right", lambda reasoner, asked, setup: judged.append([c.key for c in asked]) or [1, 0]
    )
    args = options(gain_network, "--scenes", "3", "--judged", "1")
    args.out = tmp_path
    rows = gain_network.tune(perceiver, reasoner, folder, args)
    seen, others = [GAIN_NETWORK_SEEDS.start] * 3, [GAIN_NETWORK_JUDGED_SEEDS.start]
    assert judged == [seen] * len(gain_network.CURVE) + [others] * 3
    assert rows["fixed_alpha"] == gain_network.CURVE[len(gain_network.CURVE) // 2]  # the middle of equals


@pytest.mark.parametrize(("right", "kept"), [(30, True), (22, False)])
def test_a_network_is_kept_only_if_chance_is_ruled_out(pair, tmp_path, monkeypatch, right, kept):
    """Of 40 answers the fixed strength has 20 right, as has the model's own, another law's."""
    perceiver, reasoner, folder = pair
    hits = {True: [i < right for i in range(40)], False: [i < 20 for i in range(40)]}
    monkeypatch.setattr(gain_network, "train", lambda *_: gain_network.HeadGainNet())
    monkeypatch.setattr(gain_network, "share_right", lambda *_: 0.5)
    monkeypatch.setattr(
        gain_network, "hits_right", lambda reasoner, asked, setup: hits[setup.config.head_gains is not None]
    )
    save_steering_file(tmp_path, SteeringFile(SteeringConfig(make_law("share", 0.0, 0.95))), weights=folder)
    args = options(gain_network, "--scenes", "1", "--judged", "20")
    args.out = tmp_path
    gain_network.tune(perceiver, reasoner, folder, args)
    tuned = load_steering_file(tmp_path, weights=folder)
    assert (tuned.config.head_gains is not None) is kept
    assert tuned.config.law == (make_law("conserving", 1.0) if kept else make_law("share", 0.0, 0.95))
    assert ("kept" if kept else "own setting stays") in tuned.provenance["strength"]


def test_a_network_learns_under_the_gate_and_schedule_that_it_will_have(pair):
    perceiver, reasoner, _ = pair
    (case,) = cases(perceiver, GAIN_NETWORK_SEEDS.start, 1, names=2)
    lesson = next(gain_network.lessons_of(reasoner, case))
    rows, context = lesson.embeds.shape[1], lesson.embeds.shape[1] - len(lesson.answer) + 1
    thought = lesson.answer.tolist().index(reasoner.prompts.think_end)
    plain = gain_network.runs_of(reasoner, lesson, Gate(), Schedule())
    assert plain == [(0, rows, 1.0)]
    parts = gain_network.runs_of(reasoner, lesson, Gate(), Schedule(prompt=0.0, act=0.5))
    assert parts == [(0, context, 0.0), (context, context + thought, 1.0), (context + thought, rows, 0.5)]
    act = gain_network.runs_of(reasoner, lesson, Gate.parse("phases=act"), Schedule())
    assert act == [(0, context + thought, 0.0), (context + thought, rows, 1.0)]


@pytest.mark.parametrize(
    "schedule",
    [
        "constant",
        "prompt=0",
        "prompt=0;confidence_threshold=0.9",
        "confidence_threshold=0.9",
        "plausibility=0.02",
        "prompt=0;think=0",
    ],
)
def test_a_networks_features_are_the_contexts_last_row_whatever_the_schedule(pair, schedule, monkeypatch):
    perceiver, reasoner, _ = pair
    (case,) = cases(perceiver, GAIN_NETWORK_SEEDS.start, 1, names=2)
    seen, features = [], session.head_features
    monkeypatch.setattr(session, "head_features", lambda q, k, *rest: seen.append(k.shape[2]) or features(q, k, *rest))
    weights = case.weights(case.objects[0])
    config = SteeringConfig(
        make_law("conserving", 1.0),
        schedule=Schedule.parse(schedule),
        head_gains=gain_network.HeadGainNet().eval(),
        guard=None,
    )
    turn = reasoner.generate("Pick up one object.", case.features, weights, config=config)
    # A prompt that is steered before its last row is run plain has its strengths one row earlier.
    early = schedule in ("confidence_threshold=0.9", "plausibility=0.02")
    assert seen == [len(turn.prompt_ids) - early] * reasoner.attachment.num_layers


def test_what_goes_elsewhere_takes_its_network_along(pair, tmp_path):
    _, _, folder = pair
    saved = tmp_path / "with"
    save_steering_file(
        saved,
        SteeringFile(SteeringConfig(make_law("conserving", 1.0), head_gains=gain_network.HeadGainNet().eval())),
        weights=folder,
    )
    tuned = load_steering_file(saved, weights=folder)
    save_steering_file(tmp_path / "copy", tuned, weights=folder)
    again = load_steering_file(tmp_path / "copy", weights=folder).config.head_gains
    assert all(
        (a == b).all() for a, b in zip(again.state_dict().values(), tuned.config.head_gains.state_dict().values())
    )


def test_a_gate_that_was_searched_is_not_replaced_by_heads(pair, tmp_path):
    perceiver, reasoner, folder = pair
    args = options(heads_module, "--scenes", "1")
    args.out = tmp_path
    save_steering_file(
        tmp_path, SteeringFile(SteeringConfig(make_law("conserving", 6.0)), {"alpha": "said"}), weights=folder
    )
    rows = heads_module.tune(perceiver, reasoner, folder, args)
    tuned = load_steering_file(tmp_path, weights=folder)
    assert tuned.config.gate == Gate() and tuned.heads.pairs and f"{rows['random']:.2f}" in tuned.provenance["heads"]


def test_a_folder_that_takes_no_file_is_told_before_the_work(pair, tmp_path, monkeypatch, capsys):
    _, _, folder = pair
    other = tmp_path / "lab-r1"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("steering.json"))
    (other / "steering.json").mkdir()
    monkeypatch.setattr(heads_module, "tune", lambda *_: pytest.fail("the work would be lost"))
    assert main(["tune", "heads", "--reasoning", str(other)]) == 2
    error = capsys.readouterr().err
    assert "steering.json" in error and "--out" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"gate": "pairs=9.9"}, ": gate pairs: 9.9"),
        ({"heads": "pairs=9.9"}, "heads: gate pairs: 9.9"),
        ({"head_gains": [[1, 2]]}, r"head_gains: shape \[1, 2\]"),
        ({"law": "share", "alpha": 0.0, "setpoint": 0.9, "head_gains": [[1.0] * 6] * 5}, "with law 'share'"),
        ({"provenance": [1]}, r"provenance: \[1\]"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_as_it_is_loaded(pair, tmp_path, said, names):
    _, _, folder = pair
    other = tmp_path / "lab-r1"
    shutil.copytree(folder, other)
    file = save_steering_file(other, SteeringFile(SteeringConfig(make_law("conserving", 2.0))))
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    with pytest.raises(RuntimeError, match=names):
        Reasoner.from_pretrained(str(other))


def test_weights_and_bridge_are_told_from_others_by_every_byte(pair, tmp_path):
    _, _, folder = pair
    other = tmp_path / "lab-r1"
    shutil.copytree(folder, other)
    whole = fingerprint(folder)
    assert fingerprint(other) == whole
    for name, place in (("model.safetensors", 4 << 20), ("bridge.safetensors", 5_000)):
        data = bytearray((other / name).read_bytes())
        data[place] ^= 1
        (other / name).write_bytes(data)
        assert fingerprint(other) != whole
        (other / name).write_bytes((folder / name).read_bytes())
    with (tmp_path / "model.safetensors").open("wb") as big:  # of a large file, pieces: a hole costs no disk
        big.truncate(200 << 20)
    hole = fingerprint(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as big:
        big.seek((200 << 20) - 1)
        big.write(b"x")
    assert fingerprint(tmp_path) != hole


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["heads", "--scenes", "0"], "--scenes: '0'"),
        (["heads", "--scenes", "1", "--part", "2"], "part: 2"),
        (["heads", "--reasoning", "builtin:nobody"], "nobody"),
        (["strength", "--steps", "0"], "--steps: '0'"),
        (["alpha", "--trials", "0"], "--trials: '0'"),
        (["text", "--steps", "0"], "--steps: '0'"),
        (["text", "--prompts", "0"], "--prompts: '0'"),
        (["text", "--reasoning", "builtin:lab-r1"], "--reasoning: builtin:lab-r1"),
        (["text", "--reasoning", "nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(argv, said, capsys):
    try:
        code = main(["tune", *argv])
    except SystemExit as refused:  # argparse's way
        code = refused.code
    assert code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_another_models_file_is_refused(pair, tmp_path):
    _, _, folder = pair
    other = tmp_path / "lab-r1"
    shutil.copytree(folder, other)
    said = json.loads((folder / "steering.json").read_text())
    (other / "steering.json").write_text(json.dumps({**said, "model": "sha256:of another"}))
    with pytest.raises(Exception, match="found for another model"):
        Reasoner.from_pretrained(str(other))
