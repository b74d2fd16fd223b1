"""`steer-ros tune heads`: head discovery on scenes or photos, with random heads and all heads as controls."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from ...commands.arguments import whole_number
from ...lab.demo.plan import INSTRUCTION
from ...lab.seeds import HEADS_SEEDS
from ...models import VisualFeatures
from ...perception import Perceiver
from ...reasoning import Reasoner
from ...reasoning.prompt import embed
from ...regions.mask import box_weights, pool_to_tokens
from ...steering import Gate, Span
from ...steering.steering_file import SteeringFile, load_steering_file, save_steering_file
from ..harness.cases import SUFFIXES, cases
from ..harness.steering_setup import random_heads
from ..harness.turns import must_see
from .head_scores import Probe, choose_heads, effect, score_heads

DRAWS = 5  # of random heads
CONTROLS = 8  # other frames, on which the chosen heads are set beside those


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``steer-ros tune heads``."""
    count = whole_number(1)
    parser.add_argument("--scenes", type=count, default=24, help="frames to look at")
    parser.add_argument("--photos", type=Path, help="a folder of images to look at in place of bench scenes")
    parser.add_argument("--prompt", default=INSTRUCTION, help="what is asked about each frame")
    parser.add_argument("--part", type=float, default=0.9, help="of all the effect, what the chosen heads must have")


def tune(perceiver: Perceiver, reasoner: Reasoner, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Find the heads, measure them against the controls, and write them to steering.json; what was measured.

    Raises:
        ValueError: an argument; photos that can't be read; a reasoner that sees no frames (it has no bridge).
    """
    choose_heads(torch.ones(1, 1), args.part)  # a wrong part is told before minutes of work
    started = time.perf_counter()
    probes = [
        probe_of(reasoner, perceiver.encode(image), args.prompt)
        for image in frames(perceiver, args.photos, args.scenes)
    ]
    scores = score_heads(
        reasoner.attachment, probes, progress=lambda n: print(f"heads: {n} of {len(probes)} frames", flush=True)
    )
    pairs = choose_heads(scores, args.part)
    more = [
        probe_of(reasoner, perceiver.encode(image), args.prompt)
        for image in frames(perceiver, args.photos, CONTROLS, args.scenes)
    ]
    rows = controls(reasoner, more or probes, pairs)
    rows["seconds"] = time.perf_counter() - started
    print_scores(scores, pairs, rows)
    before = load_steering_file(args.out or folder, weights=folder) or load_steering_file(folder) or SteeringFile()
    said = (
        f"steer-ros tune heads: {len(pairs)} of {scores.numel()} heads have {args.part:.0%} of the effect; together "
        f"{rows['chosen']:.2f} nats on {'other' if more else 'the same'} frames, as many at random "
        f"{rows['random']:.2f}, all {rows['all']:.2f}"
    )
    print(said)
    heads = Gate(pairs=pairs)
    # A setting that `tune alpha` found has been judged with the gate that it has; it may try these heads next.
    gate = before.config.gate if "alpha" in before.provenance else heads
    provenance = {**before.provenance, "heads": said}
    tuned = SteeringFile(replace(before.config, gate=gate), provenance, heads)
    if args.json:
        measured = {**rows, "heads": [f"{layer}.{head}" for layer, head in pairs], "scores": scores.tolist()}
        args.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(save_steering_file(args.out or folder, tuned, weights=folder))
    return rows


def frames(perceiver: Perceiver, photos: Path | None, count: int, passed: int = 0) -> Iterator[np.ndarray]:
    """uint8 RGB images: photos in the order of their names, or bench scenes; those after the first `passed`."""
    if photos is None:
        found = cases(perceiver, HEADS_SEEDS.start, passed + count)
        yield from (case.image for case in islice(found, passed, None))
        return
    files = sorted(f for f in photos.glob("*") if f.suffix.lower() in SUFFIXES) if photos.is_dir() else []
    if not files:
        raise ValueError(f"--photos: {photos}; accepted is a folder with images ({', '.join(SUFFIXES)})")
    for file in files[passed : passed + count]:
        bgr = cv2.imdecode(np.frombuffer(file.read_bytes() or b"\0", np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError(f"--photos: {file}: can't be decoded")
        yield np.ascontiguousarray(bgr[..., ::-1])


@torch.no_grad()
def probe_of(reasoner: Reasoner, features: VisualFeatures, prompt: str) -> Probe:
    """A frame's question with the answer that the model gives unsteered; its quarters are the regions."""
    must_see(reasoner, features)
    turn = reasoner.generate(prompt, features, config={"guard": "off"}, measure_focus=False)
    laid_out = reasoner.prompts.with_tokens(prompt, [int(features.tokens.shape[0])])
    embeds = embed(reasoner.model, laid_out, [features.tokens], reasoner.bridge)
    written = torch.tensor([turn.output_ids[:-1]], dtype=torch.long, device=embeds.device)
    embeds = torch.cat([embeds, reasoner.model.get_input_embeddings()(written)], 1)
    spans = tuple(Span(*span) for span in laid_out.spans)
    return Probe(embeds, spans, len(turn.output_ids), tuple([quarter] for quarter in quarters(features)))


def quarters(features: VisualFeatures) -> list[np.ndarray]:
    """The four quarters of a frame as token weights, int8 [tokens]."""
    (width, height), grid = features.frame_size, features.grid
    x, y = width / 2, height / 2
    boxes = [(0.0, 0.0, x, y), (x, 0.0, width, y), (0.0, y, x, height), (x, y, width, height)]
    return [pool_to_tokens(box_weights(grid, features.frame_size, box), grid.merge).reshape(-1) for box in boxes]


@torch.no_grad()
def controls(reasoner: Reasoner, probes: list[Probe], pairs: tuple[tuple[int, int], ...]) -> dict[str, float]:
    """The joint effect, in nats, of the chosen heads, of as many random ones (mean of some draws) and of all; on
    frames that did not choose them, where there are any."""

    def joint(gate: Gate) -> float:
        table = gate.table(reasoner.attachment.num_layers, reasoner.attachment.num_heads)
        return float(np.mean([effect(reasoner.attachment, probe, table) for probe in probes]))

    drawn = [joint(Gate(pairs=random_heads(reasoner, len(pairs), seed))) for seed in range(DRAWS)]
    return {"chosen": joint(Gate(pairs=pairs)), "random": float(np.mean(drawn)), "all": joint(Gate())}


def print_scores(scores: torch.Tensor, pairs: tuple[tuple[int, int], ...], rows: dict[str, float]) -> None:
    """The table of scores, the chosen heads in brackets, and the controls."""
    print("effect of each head alone, nats (rows: layers; [chosen])")
    for layer, row in enumerate(scores.tolist()):
        cells = (f"[{s:.3f}]" if (layer, head) in pairs else f" {s:.3f} " for head, s in enumerate(row))
        print(f"{layer:3d} {' '.join(cells)}")
    print(
        f"together: chosen {rows['chosen']:.3f}, as many at random {rows['random']:.3f}, all heads {rows['all']:.3f}"
        f" ({rows['seconds']:.0f} s)"
    )
