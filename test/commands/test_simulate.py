"""`steer-ros simulate`: the note's numbers in the note's format."""

import argparse
import re

import pytest

from steer_ros.commands import simulate


def run(capsys, *words):
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    code = simulate.main(parser.parse_args(words))
    out, err = capsys.readouterr()
    return code, out, err


def increases(out):
    return [float(x) for x in re.findall(r"^Focus Increase: (-?[\d.]+)%$", out, re.MULTILINE)]


def test_the_note_and_its_text_in_two_blocks(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert out.count("Focus Increase:") == 2
    few, many = increases(out)
    assert 100 < few < 120
    assert 380 < many < 430
    focus = [float(x) for x in re.findall(r"^(?:Baseline|Steered) ROI Focus: (0\.\d{6})$", out, re.MULTILINE)]
    assert focus == pytest.approx([1 / 128, 0.0164, 1 / 704, 0.0072], rel=0.02)
    closed = [float(x) for x in re.findall(r"Closed form .*: \+([\d.]+)%", out)]
    assert closed == pytest.approx([111.37, 408.27], abs=0.01)
    assert out.count("standard deviation") == 2


def test_strength_seed_keys_and_region(capsys):
    code, out, _ = run(capsys, "--alpha", "1", "--keys", "128", "--seeds", "3")
    assert code == 0
    (one,) = increases(out)
    assert 58 < one < 68
    assert run(capsys, "--alpha", "1", "--keys", "128", "--seeds", "3")[1] == out
    assert run(capsys, "--alpha", "1", "--keys", "128", "--seeds", "3", "--seed", "5")[1] != out
    out = run(capsys, "--alpha", "0", "--keys", "700", "--roi", "20", "--seeds", "1")[1]
    assert "124 text and 576 visual), region 0-19 (20 keys)" in out
    assert increases(out) == [0.0]


@pytest.mark.parametrize(
    "words",
    [
        ["--alpha", "nan"],
        ["--alpha", "inf"],
        ["--alpha", "much"],
        ["--keys", "0"],
        ["--keys", "128", "x"],
        ["--keys", "40"],
        ["--roi", "50-128"],
        ["--roi", "9-3"],
        ["--roi", "0"],
        ["--seed", "-1"],
        ["--seeds", "0"],
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_2(capsys, words):
    if words[1].startswith("-"):
        words = [f"{words[0]}={words[1]}"]
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"steer-ros simulate: .*accepted.*\n", err)
    assert words[0].lstrip("-").split("=")[0] in err or "--roi" in err
