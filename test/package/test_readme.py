"""The README's Python is run as written, and what it says of names is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_block_does_what_its_comments_say(capsys):
    names: dict = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    printed = capsys.readouterr().out
    said = re.search(r"print\(turn\.thought.*?# (.*)", BLOCKS[0]).group(1)
    assert printed.splitlines()[0].replace("\n", "") == said
    turn = names["turn"]
    assert turn.steered and turn.focus_after > turn.focus_before
    assert len(names["features"].tokens) == 144


def test_the_second_block_steers_a_model_of_transformers(capsys):
    names: dict = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), names)
    report = names["report"]
    assert report.attention_calls == names["model"].config.num_hidden_layers
    assert report.focus_after > report.focus_before


@pytest.mark.parametrize("file", re.findall(r"\]\(([\w./]+)\)", README))
def test_linked_files_exist(file):
    assert (ROOT / file).is_file()


def test_the_architecture_page_names_files_that_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+/[\w.]+\.(?:py|json|yaml|md))`", page))
    assert len(named) > 20
    roots = (ROOT, ROOT / "steer_ros")
    assert not [name for name in sorted(named) if not any((root / name).is_file() for root in roots)]


def test_every_command_of_the_cli_has_its_module():
    import importlib

    from steer_ros.cli import COMMANDS

    for module, text in COMMANDS.values():
        command = importlib.import_module(module)
        assert callable(command.add_arguments) and callable(command.main) and text
