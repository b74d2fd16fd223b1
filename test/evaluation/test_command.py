"""`steer-ros evaluate steering`: arguments refused in one line, JSON, reports, and optional packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from evaluation_helpers import World

from steer_ros import cli
from steer_ros.evaluation import command
from steer_ros.evaluation.harness import optional_packages
from steer_ros.evaluation.harness.eval_config import EvalConfig
from steer_ros.evaluation.harness.intervals import share
from steer_ros.evaluation.harness.steering_setup import SteeringSetup, override
from steer_ros.evaluation.suites import harm, redirect
from steer_ros.steering import SteeringConfig, make_law

ROWS = {"hits": share([True, False]), "range4x_1": share([True]), "range4x_2": share([False, True])}


@pytest.fixture
def suites(monkeypatch):
    """Two suites of paper; what each was run with."""
    ran = []

    def run(options):
        ran.append(options)
        options.progress("asked")
        return dict(ROWS)

    def broken(options):
        raise optional_packages.MissingPackageError("easy_vqa is missing\nand can't be had")

    for name, function in (("good", run), ("bad", broken)):
        module = ModuleType(f"paper_{name}", doc=f"Suite `{name}`: does it work?\n\nMore.")
        module.run, module.KEYS = function, {"hits": "how often | it hits"}
        monkeypatch.setitem(sys.modules, f"paper_{name}", module)
    monkeypatch.setattr(command, "SUITES", {"good": "paper_good", "bad": "paper_bad"})
    return ran


def test_a_suite_to_json(suites, tmp_path, capsys):
    path = tmp_path / "new" / "out.json"
    assert cli.main(["evaluate", "steering", "--suite", "good", "--json", str(path), "--limit", "3"]) == 0
    assert json.loads(path.read_text()) == ROWS
    assert suites[0].limit == 3 and suites[0].seed is None
    assert "hits" in capsys.readouterr().out


def test_all_suites_go_on_when_one_fails(suites, tmp_path, capsys):
    path = tmp_path / "out.json"
    assert cli.main(["evaluate", "steering", "--suite", "all", "--json", str(path)]) == 1
    assert json.loads(path.read_text()) == {"good": ROWS}
    assert "evaluate: bad: easy_vqa is missing and can't be had\n" in capsys.readouterr().err


def test_all_suites_on_a_folder_are_those_that_it_says_something_to(suites, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "SUITES", {"good": "paper_good", "text": "paper_bad", "vqa": "paper_bad"})
    assert cli.main(["evaluate", "steering", "--suite", "all", "--data", str(tmp_path)]) == 0
    assert [options.data for options in suites] == [tmp_path]
    assert capsys.readouterr().out.startswith("steer-ros evaluate: without text and vqa: ")


def test_a_setpoint_alone_is_for_the_law_that_the_model_has(suites):
    assert cli.main(["evaluate", "steering", "--suite", "good", "--setpoint", "0.95"]) == 0
    own = SteeringSetup("ours", SteeringConfig(make_law("share", 1.5, 0.9)))
    assert override(own, suites[0].overrides).config.law == make_law("share", 1.5, 0.95)
    with pytest.raises(ValueError, match=r"setpoint: 0\.95 with law conserving"):
        override(SteeringSetup("ours", SteeringConfig()), suites[0].overrides)


def test_a_suite_that_fails_alone(suites, capsys):
    assert cli.main(["evaluate", "steering", "--suite", "bad"]) == 2
    assert capsys.readouterr().err == "steer-ros evaluate: bad: easy_vqa is missing and can't be had\n"


def test_a_report(suites, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.md"
    assert (
        cli.main(["evaluate", "steering", "--suite", "good", "--report", str(path), "--gate", "layers=1;heads=0"]) == 0
    )
    text = path.read_text()
    assert '`steer-ros evaluate steering --suite good --gate "layers=1;heads=0"`' in text
    assert "Does it work?" in text and "| `hits` | 0.500 |" in text and "how often / it hits" in text
    for name in ("report_good.png", "report_good_strength.png"):
        assert f"![good](images/{name})" in text
        assert (tmp_path / "images" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--limit", "0"], "--limit: 0; accepted is at least 1"),
        (["--seed", "-1"], "--seed: -1; accepted are seeds from 0"),
        (["--kind", "pope"], "--kind: pope; accepted with --suite public"),
        (["--data", "/nowhere/at/all"], "--data: /nowhere/at/all: no such folder"),
        (["--alpha", "65"], "alpha: 65"),
        (["--alpha", "nan"], "alpha: nan"),
        (["--law", "share"], "setpoint"),
        (["--setpoint", "1.5"], "setpoint: 1.5"),
        (["--setpoint", "nan", "--alpha", "3"], "setpoint: nan"),
        (["--law", "share", "--setpoint", "1.5"], "setpoint"),
        (["--law", "additive", "--setpoint", "0.5"], "setpoint"),
        (["--guard", "copies=3"], "guard: 'copies=3' at 'copies=3'; copies is now min_repeats"),
        (["--schedule", "sure=0.9"], "schedule: 'sure=0.9' at 'sure=0.9'; sure is now confidence_threshold"),
        (["--gate", "rows=3"], "gate: 'rows=3'"),
        (["--schedule", "think=2"], "schedule think: 2.0"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(suites, arguments, says, capsys):
    assert cli.main(["evaluate", "steering", "--suite", "good", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and not suites


def test_a_suite_without_use_for_data_refuses_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "restart_with_optional", lambda modules, say: None)
    monkeypatch.setattr(command, "run_suite", lambda name, options: pytest.fail("it would leave the folder out"))
    assert cli.main(["evaluate", "steering", "--suite", "text", "--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert f"--data: {tmp_path}" in err and err.count("\n") == 1


def test_models_that_are_not_there(capsys):
    assert cli.main(["evaluate", "steering", "--suite", "harm", "--reasoning", "builtin:lab-r9"]) == 2
    err = capsys.readouterr().err
    assert "lab-r9" in err and err.count("\n") == 1


def test_a_broken_data_folder(tmp_path, capsys, monkeypatch):
    (tmp_path / "truth.json").write_text("[]")
    world = World()
    monkeypatch.setattr(EvalConfig, "_load", lambda self, kind, name: world)
    assert cli.main(["evaluate", "steering", "--suite", "redirect", "--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "truth.json") in err and err.count("\n") == 1


def test_every_suite_of_this_file_s_explains_its_keys():
    for module in (redirect, harm):
        assert module.KEYS and ": " in module.__doc__
    assert set(command.SUITES) == {"redirect", "refer", "pope", "vqa", "public", "text", "harm", "compare"}


def test_an_optional_package_that_is_there_is_not_installed(monkeypatch):
    monkeypatch.setattr(optional_packages, "_install", lambda packages: pytest.fail("it is there already"))
    assert optional_packages.import_optional("json") is json


def test_a_missing_optional_package_is_installed_and_said(monkeypatch):
    said, ran = [], []

    def pip(arguments, **given):
        ran.append((arguments, Path(arguments[arguments.index("--constraint") + 1]).read_text()))
        monkeypatch.setitem(sys.modules, "paper_extra", ModuleType("paper_extra"))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    module = optional_packages.import_optional("paper_extra", "paper-extra>=1", say=said.append)
    assert module.__name__ == "paper_extra" and said == ["paper_extra is missing: installing paper-extra>=1"]
    arguments, pins = ran[0]
    assert arguments[:4] == [sys.executable, "-m", "pip", "install"] and arguments[-1] == "paper-extra>=1"
    assert "numpy==" in pins and "torch==" in pins  # what is there stays as it is


def test_what_transformers_looks_for_at_import_is_installed_and_the_process_begins_anew(monkeypatch):
    installed, begun = [], []

    def install(packages):
        installed.extend(packages)
        monkeypatch.setitem(sys.modules, packages[0], ModuleType(packages[0]))
        return ""

    monkeypatch.setattr(optional_packages, "_install", install)
    monkeypatch.setattr(os, "execv", lambda program, arguments: begun.append((program, arguments)))
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "steer_ros.cli", "evaluate"])
    optional_packages.restart_with_optional(["json"], lambda _: None)
    assert not installed and not begun
    optional_packages.restart_with_optional(["json", "paper_late"], lambda _: None)
    assert installed == ["paper_late"]
    assert begun == [(sys.executable, [sys.executable, "-m", "steer_ros.cli", "evaluate"])]


def test_a_suite_that_needs_packages_asks_before_its_work(monkeypatch):
    order = []
    monkeypatch.setattr(command, "restart_with_optional", lambda modules, say: order.append(tuple(modules)))
    monkeypatch.setattr(command, "run_suite", lambda name, options: order.append(name) or {})
    assert cli.main(["evaluate", "steering", "--suite", "text"]) == 0
    assert order == [("gguf", "accelerate"), "text"]
    order.clear()
    assert cli.main(["evaluate", "steering", "--suite", "text", "--reasoning", "a/model"]) == 0
    assert order == [(), "text"]
    order.clear()
    assert cli.main(["evaluate", "steering", "--suite", "harm"]) == 0
    assert order == ["harm"]


def test_a_package_that_cannot_be_had_stops_its_suite_alone(monkeypatch, capsys):
    def refuse(*_):
        raise optional_packages.MissingPackageError("accelerate is missing")

    ran = []
    monkeypatch.setattr(command, "SUITES", {name: command.SUITES[name] for name in ("harm", "text")})
    monkeypatch.setattr(command, "restart_with_optional", refuse)
    monkeypatch.setattr(
        command, "run_suite", lambda name, options: refuse() if name == "text" else ran.append(name) or {}
    )
    assert cli.main(["evaluate", "steering", "--suite", "all"]) == 1
    assert ran == ["harm"] and "text: accelerate is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "result", [SimpleNamespace(returncode=1, stdout="", stderr="x\nERROR: no such thing\n"), OSError("no pip")]
)
def test_an_optional_package_that_cannot_be_had(monkeypatch, result):
    def pip(*_, **__):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(
        optional_packages.MissingPackageError, match="paper_nothing is missing and could not be installed"
    ) as error:
        optional_packages.import_optional("paper_nothing", say=lambda _: None)
    assert "pip install paper_nothing" in str(error.value) and "\n" not in str(error.value)
