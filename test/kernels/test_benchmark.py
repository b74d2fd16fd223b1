"""benchmark/kernels.py on a CPU: refuses what is wrong, times the rest, writes the form that a GPU run writes."""

import json
import os
import subprocess
import sys

import pytest
import torch

MODULES = ("cases", "extras", "kernels", "providers", "report", "timing")
LAWS = ("none", "additive", "conserving", "share", "target")
CPU = torch.device("cpu")


@pytest.fixture
def bench(repo, monkeypatch):
    """benchmark/kernels.py as a module; the folder's modules, whose names are common ones, are forgotten after."""
    monkeypatch.syspath_prepend(str(repo / "benchmark"))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import kernels

    yield kernels
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_command_on_a_cpu(repo, tmp_path):
    out = tmp_path / "new" / "result.json"
    command = [
        sys.executable,
        str(repo / "benchmark" / "kernels.py"),
        "--device",
        "cpu",
        "--keys",
        "48",
        "--rounds",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--json", str(out)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    result = json.loads(out.read_text())
    assert set(result) == {
        "environment", "settings", "fp8_scores", "rows", "turn", "sweep", "memory", "goals", "left_out", "seconds",
    }  # fmt: skip
    assert result["environment"]["torch"] == torch.__version__
    assert result["environment"]["device"] == "cpu" and result["environment"]["card"] is None
    assert result["settings"]["dtype"] == "float32"

    rows = result["rows"]
    for stage in ("decode", "prefill", "text rows"):
        mine = [r for r in rows if r["stage"] == stage and r["name"] != "sdpa packed"]
        assert {(r["name"], r["law"]) for r in mine} == {
            *(("ours", law) for law in LAWS),
            *((name, law) for name in ("sdpa", "eager") for law in ("none", "additive")),
        }
        for r in mine:
            assert (r["keys"], r["group"], r["note"]) == (48, 6, "")
            assert r["warm_us"] > 0 and r["gb_s"] > 0 and r["tflop_s"] > 0 and r["cold_us"] is None
            assert 0 < r["error"] < 1e-5
        (unsteered,) = (r for r in mine if (r["name"], r["law"]) == ("ours", "none"))
        assert unsteered["over_ours_none"] == 1
    packed = {(r["stage"], r["law"]): r for r in rows if r["name"] == "sdpa packed"}
    assert packed["decode", "none"]["warm_us"] > 0
    assert packed["prefill", "none"]["warm_us"] is None and "for one row" in packed["prefill", "none"]["note"]
    assert result["turn"]["attention_calls"] == 924
    assert set(result["turn"]["added_ms"]) == set(LAWS) and result["turn"]["added_ms"]["none"] == 0
    assert [point["keys"] for point in result["sweep"]] == [48, 96, 192, 384]
    memory = result["memory"]
    assert memory["tokens"] == 2304 and memory["field_bytes"] < 16 * 1024
    if memory["workspace_bytes"] is not None:
        assert max(memory["workspace_bytes"].values()) + memory["field_bytes"] < 1.5e6
    goals = {g["goal"]: g["met"] for g in result["goals"]}
    assert set(goals.values()) <= {True, False} and {f"{law} over plain SDPA, decode" for law in LAWS[1:]} < set(goals)
    assert goals["masks of 2,304 tokens, bytes"] is True
    assert "FP8" in done.stdout and "over plain SDPA" in done.stdout


def test_a_wrong_kernel_is_not_timed(bench, capsys, monkeypatch, tmp_path):
    steered = sys.modules["providers"].steered_attention

    def almost(q, k, v, field, law, **arguments):
        out, focus = steered(q, k, v, field, law, **arguments)
        return out * (1.001 if law == "conserving" else 1.0), focus

    monkeypatch.setattr(sys.modules["providers"], "steered_attention", almost)
    out = tmp_path / "result.json"
    assert bench.main(["--device", "cpu", "--keys", "32", "--rounds", "1", "--json", str(out)]) == 1
    assert "refused to time a wrong kernel" in (err := capsys.readouterr().err)
    assert "ours, law conserving" in err
    assert not out.exists()


def test_one_wrong_row_is_an_error(bench):
    cases = sys.modules["cases"]
    exact = torch.randn(1, 4, 64, 16, dtype=torch.float64)
    out = exact.clone()
    out[0, 2, 17] += 0.01
    found = cases.error_of(out.float(), exact)
    assert found.whole < 1e-3 < found.worst_row
    assert not found.within(cases.Error(1e-3, 1e-3))
    assert found.within(cases.Error(1e-3, 0.1))
    out[0, 0, 0, 0] = float("nan")
    assert cases.error_of(out, exact).whole == float("inf")
    assert cases.error_of(exact[:, :1], exact).worst_row == float("inf")


def test_eager_is_what_transformers_does(bench):
    from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

    cases, providers = sys.modules["cases"], sys.modules["providers"]
    inputs = cases.Inputs(cases.BenchmarkCase("text rows", 40, 6, head_size=16), torch.bfloat16, CPU)
    module = torch.nn.Module()
    module.num_key_value_groups = 6
    bias = inputs.bias("additive", torch.bfloat16)
    theirs, _ = eager_attention_forward(module.eval(), inputs.q, inputs.k[0], inputs.v[0], bias, scaling=16**-0.5)
    ours = providers.eager_attention(inputs.q, inputs.k[0], inputs.v[0], bias)
    assert torch.equal(ours, theirs.transpose(1, 2))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_is_given_the_same_bias(bench, monkeypatch):
    cases, providers = sys.modules["cases"], sys.modules["providers"]
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # eager: right, and slow
    for case in (
        cases.BenchmarkCase("decode", 96, 6, head_size=16),
        cases.BenchmarkCase("prefill", 128, 6, head_size=16),
    ):
        inputs = cases.Inputs(case, torch.float32, CPU, copies=2)
        exact = cases.exact_outputs(inputs, ("additive",))["additive"]
        first, second = providers.Provider("flex", "additive", "", providers._flex).calls(inputs)
        assert cases.error_of(first(), exact).worst_row < 1e-5
        assert cases.error_of(second(), exact).worst_row > 0.1  # its own K and V


def test_flop_and_bytes(bench):
    case = sys.modules["cases"].BenchmarkCase("decode", 640, 6)
    assert case.flop == 4 * 12 * 128 * 640
    assert case.bytes_moved(2) == 2 * 2 * 128 * (2 * 640 + 12)
    assert sys.modules["cases"].BenchmarkCase("prefill", 640, 6).flop == 4 * 12 * 128 * 640 * 641 // 2


def test_goals_look_at_the_worst_case(bench):
    report = sys.modules["report"]

    def row(group, name, law, warm, cold):
        return {
            "stage": "decode",
            "keys": 640,
            "group": group,
            "name": name,
            "law": law,
            "warm_us": warm,
            "cold_us": cold,
        }

    rows = [
        row(6, "ours", "none", 10.0, 20.0),
        row(6, "ours", "additive", 10.1, 20.1),
        row(6, "flex", "additive", 25.0, 60.0),
    ]
    rows += [row(7, "ours", "none", 10.0, 20.0), row(7, "ours", "additive", 10.0, 21.0)]
    found = {g["goal"]: g for g in report.goals(rows, cuda=True)}
    steered = found["additive over unsteered, decode"]
    assert (steered["worst"], steered["met"], steered["where"]) == (1.05, False, "decode, 640 keys, group 7, cold")
    flex = found["FlexAttention over ours, same bias, decode"]
    assert (flex["worst"], flex["met"], flex["limit"]) == (2.475, True, 2.0)
    assert found["share over unsteered, decode"]["met"] is None


def test_no_gpu_is_said_in_one_line(bench, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "kernels.py: --device cuda: PyTorch sees no GPU here; accepted is cpu\n"
