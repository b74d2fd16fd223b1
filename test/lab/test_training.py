"""Training's short cuts are the models themselves: the same patches, the same tower, the same positions."""

import numpy as np
import pytest
import torch
from tiny_models import save_r1, save_vl
from transformers import Qwen2ForCausalLM, Qwen2VLForConditionalGeneration

from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import make_scene
from steer_ros.lab.scenes.visible_objects import visible_objects_of
from steer_ros.lab.training import tokenizers as tokenizers_module
from steer_ros.lab.training.attention_losses import SIGHT_HEADS, SIGHT_LAYERS, AttentionTaps
from steer_ros.lab.training.language import assemble, mrope_positions, r1_forward, vl_forward
from steer_ros.lab.training.loop import TrainingRun
from steer_ros.lab.training.token_dataset import Sample, grounding_sampler, instruction_sampler, thin_out
from steer_ros.lab.training.vision import to_patches, tower_forward
from steer_ros.models.bridge import Bridge
from steer_ros.perception.preprocess import FramePreprocessor


@pytest.fixture(scope="module")
def vl(tmp_path_factory):
    folder = save_vl(tmp_path_factory.mktemp("vl"))
    return Qwen2VLForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa").float().eval()


@pytest.fixture(scope="module")
def tokenizers():
    sentences = list(tokenizers_module.sentences(scenes=8))  # fewer than in training: only the words matter here
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers_module, "sentences", lambda: sentences)
        return tokenizers_module.vl_tokenizer(), tokenizers_module.r1_tokenizer()


def images(size=(112, 168), count=3):
    return np.stack([render(make_scene(seed), size[1], size[0]).image for seed in range(count)])


def test_patches_are_the_preprocessors():
    batch = images()
    preprocessor = FramePreprocessor(min_pixels=56 * 56, max_pixels=1 << 20)
    grid = preprocessor.grid_for(168, 112)
    ours = to_patches(torch.from_numpy(batch))
    for image, patches in zip(batch, ours):
        theirs = preprocessor.patches(image, grid, torch.device("cpu"))
        twice = patches.view(-1, 3, 1, 196).expand(-1, 3, 2, 196).flatten(1)  # both halves in time are the image
        torch.testing.assert_close(twice, theirs, rtol=0, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize(("rows", "cols"), [(8, 12), (8, 8), (2, 6)])
def test_the_tower_in_training_is_the_tower(vl, rows, cols):
    patches = to_patches(torch.from_numpy(images((rows * 14, cols * 14))))
    ours = tower_forward(vl.model.visual, patches, rows, cols)
    thw = torch.tensor([[1, rows, cols]] * len(patches))
    twice = patches.view(len(patches), -1, 3, 1, 196).expand(-1, -1, 3, 2, 196).flatten(2).flatten(0, 1)
    theirs = torch.cat(tuple(vl.model.get_image_features(twice, thw).pooler_output)).view_as(ours)
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)


def random_samples(rng, count=4):
    return [
        Sample(*([int(i) for i in rng.integers(5, 90, rng.integers(1, 9))] for _ in range(3))) for _ in range(count)
    ]


@pytest.mark.parametrize(("rows", "cols"), [(4, 6), (6, 4), (1, 1)])
def test_positions_are_qwens_own(vl, rows, cols):
    pad = vl.config.image_token_id
    samples = random_samples(np.random.default_rng(rows))
    longest = max(len(s.before) + rows * cols + len(s.after) + len(s.answer) for s in samples)
    ours = mrope_positions(samples, rows, cols, longest)
    for index, s in enumerate(samples):
        ids = torch.tensor([[*s.before, *[pad] * (rows * cols), *s.after, *s.answer]])
        theirs, _ = vl.model.get_rope_index(
            ids, mm_token_type_ids=(ids == pad).int(), image_grid_thw=torch.tensor([[1, 2 * rows, 2 * cols]])
        )
        torch.testing.assert_close(ours[:, index, : ids.shape[1]], theirs[:, 0].long())


@torch.no_grad()
def test_the_language_model_in_training_is_the_model(vl):
    """Logits of a padded batch over given visual tokens are those of the whole model on each sample alone."""
    rows, cols, pad = 4, 6, vl.config.image_token_id
    samples = random_samples(np.random.default_rng(5), 3)
    patches = to_patches(torch.from_numpy(images((rows * 28, cols * 28))))
    tokens = tower_forward(vl.model.visual, patches, 2 * rows, 2 * cols)
    logits, labels, weights, further = vl_forward(vl, rows, cols)(samples, list(tokens), [])
    assert len(weights) == len(labels) and further == 0
    assert labels.tolist() == [token for s in samples for token in s.answer]
    start = 0
    for s, patch in zip(samples, patches):
        ids = torch.tensor([[*s.before, *[pad] * (rows * cols), *s.after, *s.answer]])
        whole = vl(
            input_ids=ids,
            pixel_values=patch.view(-1, 3, 1, 196).expand(-1, 3, 2, 196).flatten(1),
            image_grid_thw=torch.tensor([[1, 2 * rows, 2 * cols]]),
            mm_token_type_ids=(ids == pad).int(),
        ).logits[0]
        mine = logits[start : start + len(s.answer)]
        torch.testing.assert_close(mine, whole[-len(s.answer) - 1 : -1], rtol=1e-3, atol=1e-3)
        start += len(s.answer)


@torch.no_grad()
def test_the_reasoner_in_training_is_the_model(tmp_path):
    folder = save_r1(tmp_path)
    model, trained = (
        Qwen2ForCausalLM.from_pretrained(folder, attn_implementation="sdpa").float().eval() for _ in range(2)
    )
    bridge = Bridge(16, model.config.hidden_size)
    samples = random_samples(np.random.default_rng(6), 3)
    frames = [torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in (4, 7, 5)]
    objects = [torch.arange(len(f))[None] < 2 for f in frames]
    logits, labels, weights, _ = r1_forward(trained, bridge, undecided=0.0, sight=0.0)(samples, frames, objects)
    assert len(logits) == len(labels) == len(weights)
    table, start = model.get_input_embeddings(), 0
    for s, frame in zip(samples, frames):
        text = [table(torch.tensor(part)) for part in (s.before, [*s.after, *s.answer])]
        whole = model(inputs_embeds=torch.cat([text[0], bridge(frame), text[1]])[None]).logits[0]
        mine = logits[start : start + len(s.answer)]
        torch.testing.assert_close(mine, whole[-len(s.answer) - 1 : -1], rtol=1e-3, atol=1e-3)
        start += len(s.answer)


def test_samples_are_laid_out_with_labels_on_the_answers_alone():
    samples = [Sample([1], [2, 3], [4, 5], weights=(0.5, 2.0)), Sample([6, 7], [8], [9])]
    table = torch.nn.Embedding(10, 3)
    frames = [torch.full((2, 3), 10.0), torch.full((4, 3), 20.0)]
    embeds, labels, weights, starts = assemble(samples, frames, table)
    assert embeds.shape == (2, 8, 3) and starts.tolist() == [5, 7]
    assert (embeds[0, 1:3] == 10).all() and (embeds[1, 2:6] == 20).all()
    assert labels[0].tolist() == [-100] * 5 + [4, 5, -100] and labels[1].tolist() == [-100] * 7 + [9]
    assert weights[0].tolist() == [1.0] * 5 + [0.5, 2.0, 1.0] and (weights[1] == 1).all()
    torch.testing.assert_close(embeds[1, 6], table.weight[8])


def test_thinning_keeps_every_object():
    bare = torch.tensor([True] * 50 + [False] * 20 + [True] * 30)
    rng = np.random.default_rng(0)
    kept = [thin_out(bare, rng) for _ in range(20)]
    assert all(k[50:70].all() for k in kept) and len({int(k.sum()) for k in kept}) > 5


def decidedness(query, key, rows, valid, objects):
    taps = AttentionTaps.__new__(AttentionTaps)
    taps.seen = [(query, key, 1.0)]
    return float(taps.decidedness(torch.tensor(rows), torch.tensor(valid), objects))


def test_an_even_look_is_undecided_and_one_at_a_single_object_is_not():
    objects = torch.zeros(1, 2, 6, dtype=torch.bool)
    objects[0, 0, 1:3] = objects[0, 1, 3:5] = True
    query, key = torch.zeros(1, 2, 6, 4), torch.zeros(1, 1, 6, 4)
    even = decidedness(query, key, [[5]], [[True]], objects)
    assert even == pytest.approx(0.0, abs=1e-6)
    query[..., 0], key[0, 0, 1:3, 0] = 10.0, 10.0
    assert decidedness(query, key, [[5]], [[True]], objects) == pytest.approx(np.log(2), abs=1e-3)
    assert decidedness(query, key, [[5]], [[False]], objects) == 0.0
    objects[0, 0, 2] = False  # one key against two: shares of a third and two thirds
    shares = np.array([1 / 3, 2 / 3])
    lean = decidedness(torch.zeros(1, 2, 6, 4), key, [[5]], [[True]], objects)
    assert lean == pytest.approx((shares * np.log(shares)).sum() + np.log(2), abs=1e-5)


def test_sight_is_what_the_named_object_gets_of_a_row():
    taps = AttentionTaps.__new__(AttentionTaps)
    query, key = torch.zeros(1, 4, 6, 4), torch.zeros(1, 2, 6, 4)
    taps.seen = [(query, key, 1.0)] * (max(SIGHT_LAYERS) + 1)
    target = torch.zeros(1, 6, dtype=torch.bool)
    target[0, 1:3] = True
    rows, valid = torch.tensor([[3, 5]]), torch.tensor([[True, True]])
    even = float(taps.sight(rows, valid, target))  # of the 4 and 6 keys that these rows see, 2 are the object's
    assert even == pytest.approx(-(np.log(2 / 4) + np.log(2 / 6)) / 2, abs=1e-5)
    assert float(taps.sight(rows, torch.tensor([[True, False]]), target)) == pytest.approx(np.log(2), abs=1e-5)
    query[:, :SIGHT_HEADS, :, 0], key[0, :, 1:3, 0] = 10.0, 10.0
    assert float(taps.sight(rows, valid, target)) == pytest.approx(0.0, abs=1e-3)
    taps.forget()
    assert not taps.seen


def test_places_are_read_off_the_object_that_was_named(tokenizers):
    objects = visible_objects_of(render(make_scene(5)))
    rng, sample = np.random.default_rng(2), instruction_sampler(tokenizers[1])
    placed = 0
    for s in (sample(rng, objects) for _ in range(80)):
        words = tokenizers[1].decode(s.answer[s.place[0] : s.place[1]])
        assert (s.named >= 0) == bool(words)
        if words:
            placed += 1
            assert words.strip() == f"{objects[s.named].place}."
            assert objects[s.named].name in tokenizers[1].decode(s.answer)
    assert placed > 10


def test_samples_are_the_models_own_dialogues(tokenizers):
    """Tokens join up to the text that the model sees when it runs, special tokens whole."""
    objects = visible_objects_of(render(make_scene(5)))
    rng = np.random.default_rng(0)
    for tokenizer, sampler in zip(tokenizers, (grounding_sampler, instruction_sampler)):
        sample = sampler(tokenizer)
        for _ in range(20):
            s = sample(rng, objects)
            assert tokenizer.decode(s.before).endswith("<|vision_start|>")
            after, answer = tokenizer.decode(s.after), tokenizer.decode(s.answer)
            assert after.startswith("<|vision_end|>") and answer.endswith(tokenizer.eos_token)
            if sampler is grounding_sampler:
                assert after.endswith("<|im_start|>assistant\n")
                assert answer.startswith("<|object_ref_start|>") or answer == "none<|im_end|>"
            else:
                assert after.endswith("<｜Assistant｜><think>\n") and answer.count("</think>\n\n") == 1
            assert len(s.weights) in (0, len(s.answer)) and all(weight > 0 for weight in s.weights)
            ids = [tokenizer.convert_tokens_to_ids(t) for t in ("<|vision_start|>", "<|vision_end|>")]
            assert (s.before[-1], s.after[0]) == tuple(ids) and s.answer[-1] == tokenizer.eos_token_id


def test_what_decides_an_answer_weighs_most(tokenizers):
    objects = visible_objects_of(render(make_scene(5)))
    rng = np.random.default_rng(0)
    vl_tokens, r1_tokens = tokenizers
    for sample in (grounding_sampler(vl_tokens)(rng, objects) for _ in range(20)):
        words = vl_tokens.convert_ids_to_tokens(sample.answer)
        ends = [w for before, w in zip(words, sample.weights[1:]) if before == "<|box_end|>"]
        assert len(sample.weights) == len(words) and sample.weights[0] == 5.0 and set(ends) <= {4.0}
    for sample in (instruction_sampler(r1_tokens)(rng, objects) for _ in range(40)):
        heavy = r1_tokens.decode([t for t, w in zip(sample.answer, sample.weights) if w > 1])
        answer = r1_tokens.decode(sample.answer)
        assert heavy in answer and not heavy.endswith(r1_tokens.eos_token)
        assert bool(heavy) == ("I look for" in answer or "at the" in answer.split("</think>")[1])


def test_a_run_ends_with_its_budget_and_goes_on_from_what_was_saved(tmp_path):
    kept = tmp_path / "run.pt"

    def start(steps, minutes=60.0):
        layer = torch.nn.Linear(1, 1)
        return layer, TrainingRun(
            layer.parameters(), lr=0.1, steps=steps, minutes=minutes, warm=2, checkpoint=kept, every=2, layer=layer
        )

    layer, run = start(5)
    while run.goes_on():
        run.learn((layer(torch.ones(1, 1)) - 3).square().sum())
        if run.step == 4:
            saved = layer.weight.detach().clone()
    assert run.step == 5 and not torch.equal(layer.weight, saved)
    again, resumed = start(5)
    assert (resumed.step, resumed.goes_on()) == (4, True)  # saved at an even step
    assert torch.equal(again.weight, saved)
    assert not start(4)[1].goes_on()
    assert not start(100, minutes=1e-12)[1].goes_on()
