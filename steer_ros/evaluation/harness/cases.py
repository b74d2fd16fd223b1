"""Held-out scenes: what a suite asks about. The lab's own, or foreign ones from a folder with a truth.json.

A folder of foreign scenes holds ``truth.json`` in the form that `steer_ros.lab.scenes.ground_truth` documents, and
each frame's image as ``<stamp_ns>.png``, ``.jpg`` or ``.jpeg``, beside it; or it is a rosbag2 folder with its truth,
as `steer-ros bag` writes it. Everything in it is checked before the first question is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ...lab.bag import BagError, read_bag
from ...lab.scenes.ground_truth import TRUTH_FILE, BagTruth, read_truth
from ...lab.scenes.render import render
from ...lab.scenes.scene import make_scene
from ...lab.scenes.visible_objects import VisibleObject, visible_objects_of
from ...lab.seeds import FIRST_TRAINING_SEED, TUNING_SEEDS
from ...models import VisualFeatures
from ...perception import Perceiver
from ...regions.boxes import Box, iou
from ...regions.mask import box_weights
from .eval_config import EvalConfig
from .optional_packages import import_optional

SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_NAMED = 5  # files named in one error


class DataError(ValueError):
    """A data folder that can't be used; the message names the folder and the files."""


@dataclass(frozen=True, eq=False)
class Case:
    """One scene as the suites ask about it: its image is encoded once.

    key: the scene's seed, or the frame's stamp; what is drawn about it follows from that.
    image: uint8 RGB. objects: those visible enough to speak of.
    clip: the key of the first frame that shows the same objects, where that is another one.
    """

    key: int
    image: np.ndarray
    objects: tuple[VisibleObject, ...]
    features: VisualFeatures
    clip: int | None = None
    _weights: dict[Box, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def scene(self) -> int:
        """What answers are counted by: the frames of one clip are one scene, whose answers are alike."""
        return self.key if self.clip is None else self.clip

    def rng(self, salt: int) -> np.random.Generator:
        """What a suite draws for this scene, whoever asks about it and in which order."""
        return np.random.default_rng([salt, self.key])

    def box(self, obj: VisibleObject) -> Box:
        """An object's true box in px of the frame."""
        width, height = self.features.frame_size
        return (obj.box[0] * width, obj.box[1] * height, obj.box[2] * width, obj.box[3] * height)

    def weights(self, region: VisibleObject | Box) -> np.ndarray:
        """A region's weights, int8 [rows, cols] on the patch grid: an object's true box, or any box in px."""
        box = self.box(region) if isinstance(region, VisibleObject) else region
        if box not in self._weights:
            self._weights[box] = box_weights(self.features.grid, self.features.frame_size, box)
        return self._weights[box]

    def area(self, obj: VisibleObject) -> float:
        """The part of the frame that an object's box covers, 0-1."""
        x0, y0, x1, y1 = obj.box
        return (x1 - x0) * (y1 - y0)

    def elsewhere(self, region: VisibleObject | Box, rng: np.random.Generator) -> Box:
        """A box of the same size as a region's, placed at random off the region (as far off as 40 draws give)."""
        width, height = self.features.frame_size
        x0, y0, x1, y1 = true = self.box(region) if isinstance(region, VisibleObject) else region
        best, least = true, 2.0
        for _ in range(40):
            left, top = rng.uniform(0, width - (x1 - x0)), rng.uniform(0, height - (y1 - y0))
            drawn = (float(left), float(top), float(left + x1 - x0), float(top + y1 - y0))
            overlap = iou(drawn, true)
            if overlap < least:
                best, least = drawn, overlap
            if overlap == 0.0:
                break
        return best


def cases(
    perceiver: Perceiver,
    first_seed: int,
    count: int,
    data: Path | None = None,
    *,
    names: int = 1,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Case]:
    """Scenes in order, each encoded when its turn comes.

    Args:
        first_seed: the first lab scene's seed; foreign frames come in the order of their stamps.
        count: how many, at most.
        data: the folder of foreign scenes; None: lab scenes.
        names: scenes with fewer differently named objects are passed over.
        part: (index, of): of the scenes in order, only every of-th from that one on.
    Raises:
        DataError, TruthError: a data folder with missing or broken files, or without a single scene to ask about.
    """
    if data is not None:
        yield from _foreign(perceiver, Path(data), count, names, part)
        return
    found, seed = 0, first_seed
    while found < count:
        frame = render(make_scene(seed))
        objects = visible_objects_of(frame)
        if len({o.name for o in objects}) >= names:
            if found % part[1] == part[0]:
                yield Case(seed, frame.image, objects, perceiver.encode(frame.image))
            found += 1
        seed += 1


def check(options: EvalConfig, default: int, *, names: int = 2) -> None:
    """Load the models and look through a data folder, so that what is wrong with them is told before anything else.

    Raises:
        DataError, TruthError: as `cases`. ModelLoadError: a model that can't be loaded.
        ValueError: `options.seed` leads to scenes that something was trained or chosen on.
    """
    if options.seed is not None and options.data is None:
        _check_seeds(options.seed, options.size(default))
    perceiver, count = options.perceiver(), options.size(default)
    options.reasoner()
    if options.data is not None:
        next(cases(perceiver, 0, count, options.data, names=names))


def reach(first: int, count: int) -> range:
    """The seeds that `cases` may look at for so many scenes: some are passed over."""
    return range(first, first + 2 * count + 8)


def _check_seeds(first: int, count: int) -> None:
    last, taken = reach(first, count).stop, ""
    if first < TUNING_SEEDS.stop and last > TUNING_SEEDS.start:
        taken = f"{TUNING_SEEDS.start:,} to {TUNING_SEEDS.stop - 1:,}, on which settings are chosen"
    elif last > FIRST_TRAINING_SEED:
        taken = f"{FIRST_TRAINING_SEED:,} up, on which the built-in models were trained"
    if taken:
        raise ValueError(
            f"--seed: {first:,} with {count:,} scenes; accepted are seeds that stay off those from {taken}"
        )


def _foreign(perceiver: Perceiver, folder: Path, count: int, names: int, part: tuple[int, int]) -> Iterator[Case]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --data wants one with {TRUTH_FILE} and the frames' images")
    truth = read_truth(folder)
    usable = [stamp for stamp in truth.frames if len({o.name for o in truth.visible_objects(stamp)}) >= names]
    if not usable:
        raise DataError(f"{folder}: none of the {len(truth.frames)} frames shows {names} different objects or more")
    used, clips = usable[:count], {}
    for index, (stamp, image) in enumerate(zip(used, _images(folder, used, truth), strict=True)):
        clip = clips.setdefault(frozenset((o.id, o.colour, o.shape) for o in truth.frames[stamp]), stamp)
        if index % part[1] == part[0]:
            yield Case(stamp, image, truth.visible_objects(stamp), perceiver.encode(image, stamp), clip)


def _images(folder: Path, stamps: list[int], truth: BagTruth) -> list[np.ndarray]:
    """The frames' images, RGB, checked. DataError names what is missing or broken."""
    if (folder / "metadata.yaml").exists():
        import_optional("rosbags", "rosbags>=0.10")
        wanted, found = set(stamps), {}
        try:
            for stamp, image in read_bag(folder):
                if stamp in wanted:
                    found[stamp] = image
        except BagError as error:
            raise DataError(str(error)) from error
        missing = [f"the image of stamp {s}" for s in stamps if s not in found]
    else:
        paths = {s: next((p for x in SUFFIXES if (p := folder / f"{s}{x}").is_file()), None) for s in stamps}
        missing = [f"{s}.png (or {', '.join(SUFFIXES[1:])})" for s, path in paths.items() if path is None]
        found = {} if missing else {s: _read(path) for s, path in paths.items()}
    if missing:
        raise DataError(f"{folder}: missing: {_named(missing)}")
    size = (truth.image_height, truth.image_width)
    broken = [f"stamp {s}: can't be decoded" for s in stamps if found[s] is None]
    broken += [
        f"stamp {s}: {found[s].shape[1]}x{found[s].shape[0]} pixels, {TRUTH_FILE} says {size[1]}x{size[0]}"
        for s in stamps
        if found[s] is not None and found[s].shape[:2] != size
    ]
    if broken:
        raise DataError(f"{folder}: broken: {_named(broken)}")
    return [found[s] for s in stamps]


def _read(path: Path) -> np.ndarray | None:
    bgr = cv2.imdecode(np.frombuffer(path.read_bytes() or b"\0", np.uint8), cv2.IMREAD_COLOR)
    return None if bgr is None else np.ascontiguousarray(bgr[..., ::-1])


def _named(items: list[str]) -> str:
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return "; ".join(items[:MOST_NAMED]) + more
