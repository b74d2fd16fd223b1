"""`steer-ros train`: make the built-in models lab-vl and lab-r1 from nothing but the renderer.

Four stages, each resumable: the vision tower (dense supervision), then lab-vl's language model and lab-r1 with its
bridge, both on the frozen tower's tokens, then the tower once more, so that it gives these tokens for scenes of other
styles and formats too. Training scenes have seeds from 900,000 up; everything else (held-out scenes, demo, tests)
stays below.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from ...commands.arguments import output_folder, real_number, whole_number
from ...models.bridge import Bridge
from ..scenes.render import SIDE
from ..scenes.visible_objects import PLACES
from ..seeds import LANGUAGE_SEEDS, STYLE_SEEDS, VISION_SEEDS
from .distillation import train_styles
from .language import ROWS, r1_forward, train_language, vl_forward
from .token_dataset import encode_scenes, grounding_sampler, instruction_sampler
from .tokenizers import r1_tokenizer, vl_tokenizer
from .vision import MEAN, STD, train_tower

log = logging.getLogger(__name__)

# Training scenes and steps of each, unless others are asked for.
STAGES = {"vision": (16000, 2600), "vl": (16000, 4000), "r1": (16000, 6000), "styles": (6000, 4000)}


def new_vl(tokenizer) -> Qwen2VLForConditionalGeneration:
    """lab-vl with random weights: a real Qwen2-VL, 2 million parameters."""
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.04,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 4,
        "embed_dim": 128,
        "hidden_size": 128,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )
    return Qwen2VLForConditionalGeneration(config).float()


def new_r1(tokenizer) -> Qwen2ForCausalLM:
    """lab-r1 with random weights: a Qwen2 decoder, 2 million parameters, head size 32, three queries to a key."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
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


def settle_scale(tower: nn.Module, tokens: torch.Tensor) -> float:
    """Fold a factor into the tower's last layer so that its tokens have unit variance; returns the factor."""
    factor = 1.0 / float(tokens.float().std())
    last = tower.merger.mlp[2]
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)
    return factor


class _Pair(nn.Module):
    """A reasoner, its bridge, and the head that is thrown away, checkpointed as one."""

    def __init__(self, model: nn.Module, bridge: nn.Module) -> None:
        super().__init__()
        self.model, self.bridge = model, bridge
        self.places = nn.Linear(bridge.hidden, len(PLACES))


def save_vl(model: Qwen2VLForConditionalGeneration, tokenizer, folder: Path) -> None:
    """Write lab-vl as Transformers does, with its tokenizer, chat template and preprocessor settings."""
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": MEAN,
        "image_std": STD,
        "min_pixels": SIDE * SIDE,
        "max_pixels": SIDE * SIDE,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "rescale_factor": 1 / 255,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def save_r1(model: Qwen2ForCausalLM, bridge: Bridge, tokenizer, folder: Path) -> None:
    """Write lab-r1 as Transformers does, with its tokenizer, chat template and bridge."""
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    bridge.save(folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros train``."""
    parser.add_argument(
        "--out", type=output_folder, default=Path("lab-models"), help="folder that gets lab-vl/ and lab-r1/"
    )
    work = Path("lab-training")
    parser.add_argument("--work", type=output_folder, default=work, help="folder of checkpoints, resumed from")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all", help="one stage, or all in their order")
    parser.add_argument(
        "--minutes", type=real_number(0, above=True), default=45.0, help="wall-clock budget of each stage"
    )
    parser.add_argument(
        "--steps",
        type=whole_number(1),
        help="steps of each stage (default: 2600 vision, 4000 vl, 6000 r1, 4000 styles)",
    )
    parser.add_argument(
        "--scenes", type=whole_number(1), help="training scenes of each stage (default: 16000, styles 6000)"
    )
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes that render")
    parser.add_argument("--threads", type=whole_number(1), default=2, help="threads of PyTorch")
    parser.add_argument(
        "--undecided", type=real_number(0), default=0.5, help="weight of lab-r1's loss on deciding early"
    )
    parser.add_argument(
        "--sight", type=real_number(0), default=0.2, help="weight of lab-r1's loss on where places are read"
    )
    parser.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, help="seed of weights and batches")


def main(args: argparse.Namespace) -> int:
    """Run the stages asked for. Returns 0, or 2 after one line."""
    if args.stage == "styles" and not (args.out / "lab-vl" / "config.json").is_file():
        print(f"steer-ros train: {args.out / 'lab-vl'}: no model here for styles to go on from", file=sys.stderr)
        return 2
    if args.stage in ("vl", "r1") and not any((args.work / name).is_file() for name in ("tower.pt", "tokens.pt")):
        print(f"steer-ros train: {args.work}: no tower.pt here; --stage vision makes it, first", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if args.stage == "all" else (args.stage,):
        scenes, steps = STAGES[stage]
        its = argparse.Namespace(**{**vars(args), "scenes": args.scenes or scenes, "steps": args.steps or steps})
        torch.manual_seed(args.seed)
        {"vision": _vision, "vl": _vl, "r1": _r1, "styles": _styles}[stage](its)
    return 0


def _vision(args: argparse.Namespace) -> None:
    model = new_vl(vl_tokenizer())
    train_tower(
        model.model.visual,
        scenes=args.scenes,
        steps=args.steps,
        minutes=args.minutes,
        workers=args.workers,
        first_seed=VISION_SEEDS.start,
        checkpoint=args.work / "vision.pt",
    )
    torch.save(model.model.visual.state_dict(), args.work / "tower.pt")


def _tokens(args: argparse.Namespace):
    """The trained tower, and the tokens of the language stages' scenes (made once)."""
    tower = new_vl(vl_tokenizer()).model.visual
    settled, cache = args.work / "tower_settled.pt", args.work / "tokens.pt"
    if cache.exists():
        tower.load_state_dict(torch.load(settled, weights_only=True))
        return tower, torch.load(cache, weights_only=False)
    tower.load_state_dict(torch.load(args.work / "tower.pt", weights_only=True))
    tower.eval().requires_grad_(False)
    seeds = range(LANGUAGE_SEEDS.start, LANGUAGE_SEEDS.start + args.scenes)
    data = encode_scenes(tower, seeds, args.workers)
    factor = settle_scale(tower, data.tokens[:1000])
    data.tokens = (data.tokens.float() * factor).half()
    torch.save(tower.state_dict(), settled)
    torch.save(data, cache)
    log.info("tokens of %d scenes", len(data.objects))
    return tower, data


def _kept(folder: Path, make: Callable[[], PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    """The tokenizer that the checkpoints beside it were trained with; made on the first run."""
    if not folder.exists():
        make().save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _vl(args: argparse.Namespace) -> None:
    tower, data = _tokens(args)
    tokenizer = _kept(args.work / "vl-tokenizer", vl_tokenizer)
    model = new_vl(tokenizer)
    model.model.visual.load_state_dict(tower.state_dict())
    text = model.model.language_model
    train_language(
        vl_forward(model, ROWS, ROWS),
        list(text.parameters()),
        text,
        data,
        grounding_sampler(tokenizer),
        steps=args.steps,
        minutes=args.minutes,
        seed=args.seed + 1,
        checkpoint=args.work / "vl.pt",
        name="lab-vl",
    )
    save_vl(model.eval(), tokenizer, args.out / "lab-vl")


def _r1(args: argparse.Namespace) -> None:
    _, data = _tokens(args)
    tokenizer = _kept(args.work / "r1-tokenizer", r1_tokenizer)
    model = new_r1(tokenizer)
    bridge = Bridge(data.tokens.shape[-1], model.config.hidden_size, vl_model="builtin:lab-vl")
    pair = _Pair(model, bridge)
    train_language(
        r1_forward(model, bridge, args.undecided, args.sight, pair.places),
        list(pair.parameters()),
        pair,
        data,
        instruction_sampler(tokenizer),
        steps=args.steps,
        minutes=args.minutes,
        seed=args.seed + 2,
        thin=0.5,
        checkpoint=args.work / "r1.pt",
        name="lab-r1",
    )
    model.set_attn_implementation("sdpa")
    save_r1(model.eval(), bridge, tokenizer, args.out / "lab-r1")


def _styles(args: argparse.Namespace) -> None:
    folder = args.out / "lab-vl"
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    train_styles(
        model.model.visual.train(),
        scenes=args.scenes,
        steps=args.steps,
        minutes=args.minutes,
        workers=args.workers,
        first_seed=STYLE_SEEDS.start,
        checkpoint=args.work / "styles.pt",
    )
    save_vl(model.eval(), PreTrainedTokenizerFast.from_pretrained(folder), folder)
