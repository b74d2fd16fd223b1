"""Foreign bench scenes: the lab's five shapes and six colours, drawn in four styles that are not the lab's own.

    python -m steer_ros.lab.foreign OUT --style flat|photo|ink|studio [--scenes 120] [--width 336] [--height 336]

writes OUT/truth.json and one image per frame, ``<stamp_ns>.png`` (``.jpg`` for photo). Only the placement of the
objects is the lab's (`make_scene`); every pixel is drawn here. The same arguments give the same files. Exits with 2,
and one line that says why, if it can't be done.

Masks are the pixels of which an object covers at least half and no object in front of it does. Visibility is their
number over the same count for the object alone, parts outside the image included. Glass counts as covering.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from ...commands.arguments import OneLineParser
from ..scenes.ground_truth import TRUTH_FILE, BagTruth, extent, write_truth
from ..scenes.render import Truth
from ..scenes.scene import make_scene
from ..seeds import FIRST_TRAINING_SEED, FOREIGN_SEEDS
from .flat import draw_flat
from .ink import draw_ink
from .photo import draw_photo
from .sprites import Frame, Sprite, clip
from .studio import draw_studio
from .tabletop import back_to_front

FIRST_STAMP, FRAME_NS = 1_767_225_600_000_000_000, 100_000_000
LEAST_SIDE = 64  # px; smaller objects would have no shape
# A style's place in this order is part of its seeds: append, or every scene changes.
STYLES: dict[str, Callable[[Frame], tuple[np.ndarray, list[Sprite]]]] = {
    "flat": draw_flat,
    "photo": draw_photo,
    "ink": draw_ink,
    "studio": draw_studio,
}
STANDING = ("photo", "studio")  # on a table, where the place decides what is in front; elsewhere it's the lab's order


def draw(seed: int, style: str, width: int, height: int) -> tuple[np.ndarray, tuple[Truth, ...]]:
    """One scene: uint8 RGB ``[height, width, 3]``, and its truth from back to front.

    Raises:
        ValueError: no such style, or a seed below 0.
    """
    rng = np.random.default_rng([seed, list(STYLES).index(style), 77])
    objects = make_scene(seed, int(rng.integers(2, 6)), duplicates=0.0).objects
    if style in STANDING:
        objects = back_to_front(objects)
    image, sprites = STYLES[style](Frame(rng, width, height, objects))
    object_index = np.full((height, width), -1, np.int16)
    for index, sprite in enumerate(sprites):
        to, of = clip(sprite.x0, sprite.y0, sprite.cover, object_index)
        object_index[to][sprite.cover[of] >= 0.5] = index
    truths = []
    for index, (obj, sprite) in enumerate(zip(objects, sprites, strict=True)):
        mask = object_index == index
        whole = max(1, int((sprite.cover >= 0.5).sum()))
        truths.append(Truth(obj.id, obj.colour, obj.shape, extent(mask), mask, float(mask.sum()) / whole))
    return np.uint8(np.clip(image * 255 + 0.5, 0, 255)), tuple(truths)


def write_scenes(out: Path, style: str, seeds: range, width: int, height: int) -> None:
    """Draw the scenes of these seeds into a folder, which is made if it isn't there.

    Raises:
        OSError: it can't be made or written, or holds files that are not of these scenes, which nobody could tell
            from theirs afterwards.
    """
    suffix = ".jpg" if style == "photo" else ".png"
    names = {seed: f"{FIRST_STAMP + seed * FRAME_NS}{suffix}" for seed in seeds}
    if out.is_file():
        raise OSError("is a file; name a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    others = {path.name for path in out.iterdir()} - {TRUTH_FILE, *names.values()}
    if others:
        raise OSError(f"holds {min(others)}, which is not of these scenes; name a new or an empty folder")
    frames = {}
    for index, seed in enumerate(seeds):
        image, truths = draw(seed, style, width, height)
        frames[FIRST_STAMP + seed * FRAME_NS] = truths
        quality = 62 + (seeds.start + 7 * index) % 30  # as cameras' differ
        options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
        _, code = cv2.imencode(suffix, image[..., ::-1], options)
        (out / names[seed]).write_bytes(code)
    write_truth(out / TRUTH_FILE, BagTruth(width, height, frames))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a folder of scenes; returns 0, and exits with 2 on what can't be drawn or written."""
    parser = OneLineParser(prog="foreign", description="Draw bench scenes in a style that is not the lab's own.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for truth.json and the images")
    parser.add_argument("--style", required=True, choices=tuple(STYLES))
    parser.add_argument("--scenes", type=int, default=120, metavar="N", help="how many (default 120)")
    parser.add_argument("--width", type=int, default=336, metavar="PX", help="of the images (default 336)")
    parser.add_argument("--height", type=int, default=336, metavar="PX", help="of the images (default 336)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first scene's (default: each style has a range)")
    args = parser.parse_args(argv)
    if args.seed is None:
        args.seed = FOREIGN_SEEDS[args.style].start
    for option, least in (("scenes", 1), ("width", LEAST_SIDE), ("height", LEAST_SIDE), ("seed", 0)):
        if getattr(args, option) < least:
            parser.error(f"--{option} {getattr(args, option)}: must be {least} or more")
    if args.seed + args.scenes > FIRST_TRAINING_SEED:
        parser.error(f"--seed {args.seed}: scenes must stay below {FIRST_TRAINING_SEED}, from where the models learnt")
    cv2.setNumThreads(1)  # images this small gain nothing from more, and others share the machine
    try:
        write_scenes(args.out, args.style, range(args.seed, args.seed + args.scenes), args.width, args.height)
    except OSError as error:
        parser.error(f"{args.out}: {error.strerror or error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
