"""The command line: what is refused before any work, and how an interrupt and a closed pipe end a command."""

import argparse
import os
import subprocess
import sys
import time

import pytest

from steer_ros import cli
from steer_ros.commands.arguments import output_file, output_folder, real_number, whole_number
from steer_ros.commands.processes import spawned
from steer_ros.lab.bag import write_bag
from steer_ros.lab.scenes.clip import make_clip


@pytest.mark.parametrize(
    ("convert", "good", "bad"),
    [
        (whole_number(1), ["1", "7"], ["0", "-3", "1.5", "x", ""]),
        (whole_number(0, 3), ["0", "3"], ["4", "-1"]),
        (real_number(0, above=True), ["1e-9", "5"], ["0", "nan", "inf", "-1", "x"]),
        (real_number(-2, 2), ["-2", "2"], ["2.1", "nan"]),
    ],
)
def test_numbers_within_bounds_are_taken(convert, good, bad):
    for text in good:
        assert convert(text) == float(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="accepted are"):
            convert(text)


def test_files_and_folders_are_tried_before_the_work(tmp_path):
    assert output_file(str(tmp_path / "new" / "out.json")).parent.is_dir()
    assert not (tmp_path / "new" / "out.json").exists()
    kept = tmp_path / "kept.json"
    kept.write_text("kept")
    output_file(str(kept))
    assert kept.read_text() == "kept"
    output_folder(str(tmp_path / "a" / "b"))
    output_folder(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.json", "new"]
    for convert, path in ((output_file, tmp_path), (output_file, kept / "x"), (output_folder, kept)):
        with pytest.raises(argparse.ArgumentTypeError, match=r"accepted is a (file|folder)"):
            convert(str(path))


@pytest.mark.parametrize(
    "command",
    [
        "examine --scenes 0",
        "examine --seed 900000",
        "examine --width 0",
        "examine --json .",
        "evaluate steering --suite redirect --json .",
        "evaluate steering --suite redirect --report .",
        "tune heads --json .",
        "tune heads --out LICENSE/x",
        "tune alpha --seed -1",
        "demo --alpha 100",
        "demo --timeout 0",
        "train --threads 0",
        "train --minutes -1",
        "bag --out . --objects 9",
        "bag --out . --fps 0",
    ],
)
def test_a_wrong_argument_is_named_before_the_work(command, capsys, repo, monkeypatch):
    monkeypatch.chdir(repo)
    words = command.split()
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    option = next(word for word in reversed(words) if word.startswith("--"))
    error = capsys.readouterr().err
    assert f"argument {option}: " in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    ["examine --perception nope", "examine --reasoning builtin:lab-vl", "examine --law share", "train --stage vl"],
)
def test_what_a_command_cannot_do_is_one_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_bag_is_replaced_by_a_whole_one_only(tmp_path):
    path = tmp_path / "bag"
    write_bag(path, make_clip(7, 2))
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def breaks_off():
        yield from make_clip(8, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bag(path, breaks_off(), force=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["bag"]
    write_bag(path, make_clip(8, 1), force=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} != before


def test_a_closed_pipe_and_a_missing_file_are_no_tracebacks(tmp_path):
    command = [sys.executable, "-m", "steer_ros.cli", "simulate", "--seeds", "1"]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_an_interrupt_is_one_line(capsys, monkeypatch):
    import steer_ros.commands.simulate as simulate

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "main", interrupted)
    assert cli.main(["simulate"]) == 130
    assert capsys.readouterr().err == "steer-ros simulate: interrupted\n"


def test_what_fails_does_not_wait_for_its_processes():
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="mine"), spawned(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        pool.submit(time.sleep, 600)
        raise RuntimeError("mine")
    assert time.monotonic() - started < 300  # it slept on, otherwise
