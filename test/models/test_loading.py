"""Models are found, checked and loaded, or refused with one line that says why."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_models import bridged_folder, perceiver, r1_folder, save_r1, vl_folder

from steer_ros.models import Bridge, ModelLoadError, load_bridge, loading, resolve
from steer_ros.perception import Perceiver
from steer_ros.reasoning import Reasoner


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty hub cache and no network; gives the cache's folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


@pytest.fixture
def copy(tmp_path):
    """A copy of a tiny model to break."""

    def make(source):
        return shutil.copytree(source, tmp_path / "copy")

    return make


def refused(load, *args, **kwargs) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def edit(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        content.pop(key, None) if value is None else content.update({key: value})
    path.write_text(json.dumps(content), encoding="utf-8")


def test_unknown_builtin_lists_the_known(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "BUILTIN_ROOT", tmp_path)
    assert "none installed" in refused(resolve, "builtin:lab-xl")
    shutil.copytree(vl_folder(), tmp_path / "lab-vl")
    assert "known: builtin:lab-vl" in refused(resolve, "builtin:lab-xl")
    assert refused(resolve, "builtin:../lab-vl")
    assert resolve("builtin:lab-vl") == tmp_path / "lab-vl"


@pytest.mark.parametrize(
    "name", ["", "  ", "a\0b", None, 7, "../up/there", "/no/such/folder", "one", "a/b/c", "a/b c"]
)
def test_names_that_are_no_model(name, offline):
    assert repr(name) in refused(resolve, name)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert "is a file" in refused(resolve, str(tmp_path / "model.safetensors"))


def test_folder_without_config(copy):
    folder = copy(r1_folder())
    (folder / "config.json").unlink()
    assert "no config.json" in refused(Reasoner.from_pretrained, str(folder))


def test_folder_without_tokenizer(copy):
    folder = copy(r1_folder())
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refused(Reasoner.from_pretrained, str(folder))


def test_pickled_weights_are_refused(copy):
    folder = copy(r1_folder())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    text = refused(Reasoner.from_pretrained, str(folder))
    assert "pytorch_model.bin" in text and "safetensors" in text


def test_missing_shard(copy):
    folder = copy(r1_folder())
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in refused(resolve, str(folder))


def test_truncated_weights(copy):
    folder = copy(r1_folder())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert str(folder) in refused(Reasoner.from_pretrained, str(folder))


def test_weights_that_do_not_fill_the_model(copy):
    folder = copy(r1_folder())
    edit(folder / "config.json", num_hidden_layers=5, layer_types=None)
    assert "absent or misshapen" in refused(Reasoner.from_pretrained, str(folder))


def test_wrong_classes():
    assert "'qwen2'" in refused(Perceiver.from_pretrained, str(r1_folder()))
    assert "'qwen2_vl'" in refused(Reasoner.from_pretrained, str(vl_folder()))


def test_remote_code_never_runs(copy):
    folder = copy(r1_folder())
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')\n")
    edit(
        folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    )
    assert "'evil'" in refused(Reasoner.from_pretrained, str(folder))


def test_no_chat_template(copy):
    folder = copy(r1_folder())
    edit(folder / "tokenizer_config.json", chat_template=None)
    assert "chat template" in refused(Reasoner.from_pretrained, str(folder))


@pytest.mark.parametrize("template", ["{{ bos_token }}", "{{ messages[0]['content'] * 2 }}", "{% for %}"])
def test_templates_that_lose_the_text(copy, template):
    folder = copy(r1_folder())
    edit(folder / "tokenizer_config.json", chat_template=template)
    assert "chat template" in refused(Reasoner.from_pretrained, str(folder))


def test_preprocessor_missing_or_absurd(copy):
    folder = copy(vl_folder())
    edit(folder / "preprocessor_config.json", patch_size=16)
    assert "patch" in refused(Perceiver.from_pretrained, str(folder))
    edit(folder / "preprocessor_config.json", patch_size="x")
    assert refused(Perceiver.from_pretrained, str(folder))
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refused(Perceiver.from_pretrained, str(folder))


def test_pixel_bounds():
    wide = Perceiver.from_pretrained(str(vl_folder()), min_pixels=56 * 56, max_pixels=56 * 56)
    assert wide.preprocessor.grid_for(640, 640).num_patches == 16
    with pytest.raises(ValueError, match="min_pixels"):
        Perceiver.from_pretrained(str(vl_folder()), min_pixels=10**6)


def test_the_hubs_own_layout(copy):
    """Qwen2-VL-2B-Instruct's config.json is flat, its weights have older names, and its head is tied."""
    folder = copy(vl_folder())
    config = json.loads((folder / "config.json").read_text())
    text, vision = config.pop("text_config"), config.pop("vision_config")
    of_text = (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size "
        "max_position_embeddings rms_norm_eps"
    )
    of_vision = "depth embed_dim num_heads mlp_ratio hidden_size patch_size spatial_merge_size temporal_patch_size"
    flat = config | {key: text[key] for key in of_text.split()}
    flat["vision_config"] = {key: vision[key] for key in of_vision.split()} | {"in_chans": 3}
    flat |= {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}
    flat |= {"use_sliding_window": False, "sliding_window": 1024, "max_window_layers": 4}
    flat |= {"tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(flat))
    weights = load_file(folder / "model.safetensors")
    weights = {key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
               for key, value in weights.items() if key != "lm_head.weight"}  # fmt: skip
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ours, theirs = perceiver(), Perceiver.from_pretrained(str(folder))
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert torch.equal(ours.encode(image).tokens, theirs.encode(image).tokens)
    assert np.array_equal(ours.saliency("cube", ours.encode(image)), theirs.saliency("cube", theirs.encode(image)))
    assert theirs.model.lm_head.weight is theirs.model.get_input_embeddings().weight


def test_hub_id_offline(offline):
    text = refused(Perceiver.from_pretrained, "Qwen/Qwen2-VL-2B-Instruct")
    assert "HF_HUB_OFFLINE" in text and "cache" in text


def test_hub_id_from_the_cache(offline):
    for name, source in (
        ("Qwen/Qwen2-VL-2B-Instruct", vl_folder()),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", bridged_folder()),
    ):
        cached = offline / f"models--{name.replace('/', '--')}"
        shutil.copytree(source, cached / "snapshots" / "0123abc")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0123abc")
    assert Perceiver.from_pretrained("Qwen/Qwen2-VL-2B-Instruct").name == "Qwen/Qwen2-VL-2B-Instruct"
    assert Reasoner.from_pretrained("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B").bridge is not None


def test_unreachable_hub_is_one_line(offline, monkeypatch):
    import huggingface_hub

    def unreachable(*args, local_files_only=False, **kwargs):
        raise OSError("not cached" if local_files_only else "no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "no route to host" in refused(resolve, "Qwen/Qwen2-VL-2B-Instruct")


def test_a_cache_that_lacks_a_file_is_filled_up(monkeypatch, tmp_path):
    """As another program leaves it that wanted the model for text alone."""
    import shutil

    import huggingface_hub
    from huggingface_hub import constants

    cached = tmp_path / "snapshot"
    shutil.copytree(loading.BUILTIN_ROOT / "lab-vl", cached)
    settings = cached / "preprocessor_config.json"
    whole = settings.read_bytes()
    settings.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked = []

    def download(name, local_files_only=False, **kwargs):
        asked.append(local_files_only)
        if not local_files_only:
            settings.write_bytes(whole)
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert resolve("some/model") == cached and settings.is_file() and asked == [True, False]
    assert resolve("some/model") == cached and asked == [True, False, True]


def test_only_harmless_files_are_fetched():
    assert not any(pattern.endswith(("bin", "pt", "py", "*")) for pattern in loading._FETCH)


@pytest.mark.parametrize(
    "argument", [{"device": "warp"}, {"device": "cuda:99"}, {"dtype": "int4"}, {"dtype": torch.int8}]
)
def test_unknown_device_or_dtype(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        Reasoner.from_pretrained(str(r1_folder()), **argument)


def test_dtype():
    assert Reasoner.from_pretrained(str(r1_folder()), dtype="bfloat16").model.dtype == torch.bfloat16
    assert Reasoner.from_pretrained(str(r1_folder())).model.dtype == torch.float32


def test_every_end_token_counts():
    reasoner = Reasoner.from_pretrained(str(r1_folder()))
    assert len(reasoner.model.generation_config.eos_token_id) == 2
    assert reasoner._stop >= set(reasoner.model.generation_config.eos_token_id)


def test_tokenizer_is_tokenizer_json(tmp_path):
    """DeepSeek names a Llama tokenizer, which would split words in another way than tokenizer.json does."""
    folder = save_r1(tmp_path / "r1")
    tokenizer = loading.load_tokenizer(folder, "r1")
    for text in ("Pick up  the\nred beaker.", " leading", "naïve 🙂"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "cuda:99", "gpu", "", None])
def test_devices_that_are_none(device):
    with pytest.raises(ValueError, match=r"^device .*(must be cpu, cuda, cuda:<n> or auto|this machine has \d+ CUDA)"):
        loading.pick_device(device)


def test_two_loads_put_the_default_dtype_back():
    inside, most = [], []

    class Model:
        @staticmethod
        def from_pretrained(folder, dtype, **given):  # as Transformers does
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            inside.append(dtype)
            most.append(len(inside))
            time.sleep(0.1)
            inside.remove(dtype)
            torch.set_default_dtype(before)
            return torch.nn.Linear(1, 1), {}

    def load(dtype):
        loading.load_model(Model, None, torch.device("cpu"), dtype, "stand-in")

    threads = [threading.Thread(target=load, args=(dtype,)) for dtype in (torch.bfloat16, torch.float16)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1, 1] and torch.get_default_dtype() == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_bridge_keeps_its_weights_while_another_model_loads(tmp_path, another_load):
    bridge = Bridge(32, 24)
    bridge.save(tmp_path)
    with another_load():
        loaded = load_bridge(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(bridge.parameters(), loaded.parameters(), strict=True))


def test_bridge_round_trip(tmp_path):
    bridge = Bridge(32, 24, inner=40, vl_model="builtin:lab-vl")
    bridge.save(tmp_path)
    loaded = load_bridge(tmp_path)
    tokens = torch.randn(5, 32)
    assert torch.equal(bridge(tokens), loaded(tokens))
    assert (loaded.vl_hidden, loaded.hidden, loaded.inner, loaded.vl_model) == (32, 24, 40, "builtin:lab-vl")
    assert load_bridge(tmp_path / "elsewhere") is None


def test_identity_bridge(tmp_path):
    Bridge(24, 24, kind="identity").save(tmp_path)
    tokens = torch.randn(5, 24)
    assert load_bridge(tmp_path)(tokens) is tokens
    with pytest.raises(ValueError, match="identity"):
        Bridge(32, 24, kind="identity")


def test_broken_bridges(copy, tmp_path):
    folder = copy(bridged_folder())
    edit(folder / "bridge.json", vl_hidden=48)
    assert "bridge" in refused(Reasoner.from_pretrained, str(folder))
    edit(folder / "bridge.json", kind="magic")
    assert "magic" in refused(load_bridge, folder)
    edit(folder / "bridge.json", kind="mlp", vl_hidden=32)
    (folder / "bridge.safetensors").unlink()
    assert "bridge" in refused(load_bridge, folder)
    assert "no bridge.json" in refused(Reasoner.from_pretrained, str(r1_folder()), bridge=tmp_path / "none")
    Bridge(32, 25).save(tmp_path / "other")
    assert "width 25" in refused(Reasoner.from_pretrained, str(r1_folder()), bridge=tmp_path / "other")
