"""Train the small models of the `vqa` suite, vqa-vl and vqa-r1, on easy-VQA's training images.

    python -m steer_ros.evaluation.suites.easy_vqa.train --out FOLDER

A quarter of an hour on one CPU core. Two stages, as for the built-in models: the vision tower by dense supervision
(every visual token predicts the colour and shape under it), then the reasoner and its bridge on the frozen tower's
tokens. Single images, 2x2 and 3x3 mosaics; a question about a mosaic is about any one of its images, drawn at random.
No attention is ever biased: no region, mask or steering takes part.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from ....lab.training.language import r1_forward, train_language
from ....lab.training.loop import TrainingRun, mixed_precision
from ....lab.training.tokenizers import r1_tokenizer, vl_tokenizer
from ....lab.training.train import save_r1, save_vl, settle_scale
from ....lab.training.vision import to_patches, tower_forward
from ....models.bridge import Bridge
from ....perception.perceiver import Perceiver
from .data import CELLS, TILE, Mosaic, Tile, VqaQuestion, draw_mosaic, load_tiles
from .training_samples import (
    KINDS,
    MosaicSet,
    TileSample,
    encode_mosaics,
    lay_out,
    question_sampler,
    sentences,
    token_kinds,
)

log = logging.getLogger(__name__)

VL_NAME, R1_NAME = "vqa-vl", "vqa-r1"
HIDDEN = 96  # width of a visual token
STAGES = ("tower", "reasoner")
# The reasoner's lessons: chances of 1x1, 2x2 and 3x3 mosaics, steps as a part of the tower's, samples in a batch.
LESSONS = (((1.0, 0.0, 0.0), 0.8, 64), ((0.2, 0.8, 0.0), 0.3, 48), ((0.15, 0.25, 0.6), 1.0, 32))


def new_vl(tokenizer) -> Qwen2VLForConditionalGeneration:
    """vqa-vl with random weights: a real Qwen2-VL, of which only the vision tower is trained and used."""
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    vision = {"depth": 3, "embed_dim": 96, "hidden_size": HIDDEN, "num_heads": 3, "mlp_ratio": 2, "patch_size": 14}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    return Qwen2VLForConditionalGeneration(config).float()


def new_r1(tokenizer) -> Qwen2ForCausalLM:
    """vqa-r1 with random weights: a Qwen2 decoder of under a million parameters."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.04,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).float()


def train_tower(tower: nn.Module, tiles: Sequence[Tile], *, steps: int, minutes: float, lr: float, seed: int) -> None:
    """Train the vision tower in place: a linear head reads off each token what it shows, and is thrown away."""
    images, kinds = torch.from_numpy(np.stack([t.image for t in tiles])), token_kinds(tiles)
    head = nn.Sequential(nn.LayerNorm(HIDDEN, elementwise_affine=False), nn.Linear(HIDDEN, KINDS))
    run = TrainingRun([*tower.parameters(), *head.parameters()], lr=lr, steps=steps, minutes=minutes, warm=100)
    weight = torch.ones(KINDS)
    weight[0] = 0.15  # most of a tile is ground
    generator = torch.Generator().manual_seed(seed)
    rng, right = np.random.default_rng(seed), 0.0
    while run.goes_on():
        side, batch = ((1, 48), (2, 16), (3, 6))[int(rng.choice(3, p=(0.5, 0.3, 0.2)))]
        pick = torch.randint(len(tiles), (batch, side * side), generator=generator)
        x, target = lay_out(images, pick), lay_out(kinds.view(-1, CELLS, CELLS), pick).flatten(1)
        if rng.random() < 0.5:  # mirrored left to right
            x = x.flip(2)
            target = target.view(batch, side * CELLS, side * CELLS).flip(2).flatten(1)
        with mixed_precision():
            tokens = tower_forward(tower, to_patches(x), x.shape[1] // 14, x.shape[2] // 14)
        logits = head(tokens.float()).flatten(0, 1)
        target = target.flatten()
        loss = F.cross_entropy(logits, target, weight=weight, ignore_index=-100)
        run.learn(loss)
        shown = target > 0
        right = 0.97 * right + 0.03 * float((logits.argmax(-1) == target)[shown].float().mean())
        if run.step % 50 == 0:
            log.info("tower step %d, %.0f s: loss %.4f, tokens right %.4f", run.step, run.elapsed, loss.item(), right)


def undecided_forward(model: nn.Module, bridge: nn.Module, undecided: float) -> Callable:
    """lab-r1's forward and its loss on deciding early, over the tiles that the question may be about."""
    forward = r1_forward(model, bridge, undecided, 0.0)

    def over_candidates(samples: list[TileSample], frames: list[torch.Tensor], objects: list[torch.Tensor]) -> tuple:
        return forward(samples, frames, [own[list(s.candidates)] for s, own in zip(samples, objects)])

    return over_candidates


def train_reasoner(
    model: nn.Module, bridge: nn.Module, tokenizer, data: Sequence[MosaicSet], questions: Sequence[VqaQuestion], args
) -> None:
    """Train the reasoner and its bridge in place, on the parts of `data` one after the other: small frames first."""
    pair = nn.ModuleList([model, bridge])
    forward = undecided_forward(model, bridge, args.undecided)
    sampler = question_sampler(tokenizer, questions)
    for part, (_, steps, batch) in zip(data, LESSONS):
        train_language(
            forward,
            list(pair.parameters()),
            pair,
            part,
            sampler,
            steps=max(1, round(steps * args.steps)),
            batch=batch,
            lr=1.5e-3,
            minutes=args.minutes,
            seed=args.seed,
            thin=0.5,
            name=R1_NAME,
        )


def make_mosaics(tiles: Sequence[Tile], count: int, sides: Sequence[float], seed: int) -> list[Mosaic]:
    """Mosaics of 1x1, 2x2 and 3x3 tiles with the chances of `sides`."""
    rng = np.random.default_rng(seed)
    return [draw_mosaic(rng, tiles, int(side)) for side in rng.choice((1, 2, 3), count, p=sides)]


def save_tower(model: Qwen2VLForConditionalGeneration, tokenizer, folder: Path) -> None:
    """Write vqa-vl; a mosaic of up to 3x3 tiles is read as it is."""
    save_vl(model.eval(), tokenizer, folder)
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings |= {"min_pixels": TILE * TILE, "max_pixels": 9 * TILE * TILE}
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--out", type=Path, default=Path("vqa-models"), help=f"gets {VL_NAME}/ and {R1_NAME}/")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all", help="one stage, or both")
    parser.add_argument("--steps", type=int, default=1000, help="of the tower; the reasoner takes 2.1 times as many")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="wall-clock budget of the tower and of each lesson"
    )
    parser.add_argument("--mosaics", type=int, default=3000, help="that each of the reasoner's lessons draws from")
    parser.add_argument("--tiles", type=int, help="training images used (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--undecided", type=float, default=0.3, help="weight of the loss on deciding early")
    parser.add_argument("--seed", type=int, default=0, help="of weights, mosaics and batches")


def run(args: argparse.Namespace) -> int:
    """Train the models and write them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    tiles = [tile for tile in load_tiles("train", args.tiles) if tile.kind]
    questions = sorted({q for tile in tiles for q, _ in tile.asked}, key=lambda q: q.text)
    log.info("%d training images of known colour and shape, %d questions", len(tiles), len(questions))
    for stage in STAGES if args.stage == "all" else (args.stage,):
        torch.manual_seed(args.seed)
        {"tower": _tower, "reasoner": _reasoner}[stage](args, tiles, questions)
    return 0


def _tower(args: argparse.Namespace, tiles: list[Tile], questions: list[VqaQuestion]) -> None:
    tokenizer = vl_tokenizer(sentences(questions))
    model = new_vl(tokenizer)
    tower = model.model.visual
    train_tower(tower, tiles, steps=args.steps, minutes=args.minutes, lr=1.5e-3, seed=args.seed)
    tower.eval()
    some = encode_mosaics(tower, [Mosaic((tile,)) for tile in tiles[:500]])
    settle_scale(tower, torch.stack(some.tokens))
    save_tower(model, tokenizer, args.out / VL_NAME)
    log.info("wrote %s", args.out / VL_NAME)


def _reasoner(args: argparse.Namespace, tiles: list[Tile], questions: list[VqaQuestion]) -> None:
    tower = Perceiver.from_pretrained(str(args.out / VL_NAME)).model.model.visual
    data = [
        encode_mosaics(tower, make_mosaics(tiles, args.mosaics, sides, args.seed + number))
        for number, (sides, _, _) in enumerate(LESSONS)
    ]
    log.info("tokens of %d mosaics for each of %d lessons", args.mosaics, len(LESSONS))
    tokenizer = r1_tokenizer(sentences(questions))
    model = new_r1(tokenizer)
    bridge = Bridge(HIDDEN, model.config.hidden_size, vl_model=f"builtin:{VL_NAME}")
    train_reasoner(model, bridge, tokenizer, data, questions, args)
    model.set_attn_implementation("sdpa")
    save_r1(model.eval(), bridge, tokenizer, args.out / R1_NAME)
    log.info("wrote %s", args.out / R1_NAME)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m steer_ros.evaluation.suites.easy_vqa.train", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
