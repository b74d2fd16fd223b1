"""steer_ros.lab.foreign: its folders are what the suites read, always the same; what it refuses it says in a line."""

import colorsys
import subprocess
import sys

import numpy as np
import pytest
from evaluation_helpers import World

from steer_ros.evaluation.harness.cases import cases
from steer_ros.lab.foreign import __main__ as foreign
from steer_ros.lab.foreign.sprites import HUES
from steer_ros.lab.scenes.ground_truth import read_truth

SIZES = {"flat": (112, 112), "ink": (112, 112), "photo": (448, 336), "studio": (112, 112)}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def nearest_colour(rgb, hues):
    """The colour whose hue is nearest to that of RGB 0-255."""
    hue = 360 * colorsys.rgb_to_hsv(*rgb / 255)[0]
    return min(hues, key=lambda name: abs((hue - sum(hues[name]) / 2 + 180) % 360 - 180))


@pytest.mark.parametrize("style", SIZES)
def test_a_folder_is_what_the_suites_read(tmp_path, style):
    width, height = SIZES[style]
    command = ["--style", style, "--scenes", "2", "--width", str(width), "--height", str(height)]
    assert foreign.main([str(tmp_path / "a" / "new"), *command]) == 0
    truth = read_truth(tmp_path / "a" / "new")
    assert (truth.image_width, truth.image_height, len(truth.frames)) == (width, height, 2)
    found = list(cases(World(), 0, 10, tmp_path / "a" / "new"))
    assert [case.key for case in found] == list(truth.frames)
    for case in found:
        assert case.image.shape == (height, width, 3)
        for entry in truth.frames[case.key]:
            if entry.visibility > 0.5:
                seen = np.median(case.image[entry.mask], 0)
                assert nearest_colour(seen, HUES) == entry.colour

    first = content(tmp_path / "a" / "new")
    assert {name.rpartition(".")[2] for name in first} == {"json", "jpg" if style == "photo" else "png"}
    for again in ("b", "a/new"):
        assert foreign.main([str(tmp_path / again), *command]) == 0
        assert content(tmp_path / again) == first


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, "-m", "steer_ros.lab.foreign", str(tmp_path / "new"), "--style", "oil"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("foreign: argument --style: invalid choice: 'oil' (choose from ")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--scenes", "0"], "--scenes 0: must be 1 or more"),
        (["--width", "63"], "--width 63: must be 64 or more"),
        (["--height", "-1"], "--height -1: must be 64 or more"),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--scenes", "few"], "argument --scenes: invalid int value: 'few'"),
    ],
)
def test_numbers_out_of_range(tmp_path, capsys, more, says):
    with pytest.raises(SystemExit) as end:
        foreign.main([str(tmp_path / "new"), "--style", "flat", *more])
    assert (end.value.code, capsys.readouterr().err) == (2, f"foreign: {says}\n")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("notes.txt", "is a file; name a new or an empty folder"),
        ("notes.txt/new", "Not a directory"),
        ("", "holds notes.txt, which is not of these scenes; name a new or an empty folder"),
    ],
)
def test_what_is_there_stays(tmp_path, capsys, name, says):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as end:
        foreign.main([str(tmp_path / name), "--style", "flat"])
    assert (end.value.code, capsys.readouterr().err) == (2, f"foreign: {tmp_path / name}: {says}\n")
    assert content(tmp_path) == {"notes.txt": b"mine"}
