"""A world of paper for the suites' own logic: a perceiver that knows each scene's truth, and a reasoner that does what
a test says. For tests only."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from steer_ros.evaluation.harness.eval_config import EvalConfig, silent
from steer_ros.evaluation.harness.results import Results
from steer_ros.lab.scenes.instructions import OPEN, exists_answer, open_action, open_thought
from steer_ros.lab.scenes.render import render
from steer_ros.lab.scenes.scene import make_scene
from steer_ros.lab.scenes.visible_objects import VisibleObject, visible_objects_of
from steer_ros.models import VisualFeatures
from steer_ros.perception.grounding import Grounding
from steer_ros.reasoning import Callbacks, Turn
from steer_ros.regions.grid import PatchGrid
from steer_ros.regions.mask import box_weights
from steer_ros.steering import SteeringConfig

KIND = {prompt: kind for kind, prompts in OPEN.items() for prompt in prompts}


def count_scenes(options, index, of):
    """A part that two processes can be given."""
    results = Results()
    for scene in range(index, options.size(8), of):
        results.add("scene", scene % 3 == 0, scene)
    return results


class World:
    """Scenes by their images. `mood`: what the reasoner does with an open question.

    "follow": speaks of the object with most weight under it, as the mask stands when the thought's name and then the
    action are written; "deaf": of the scene's first object, whatever is steered; "mute": says nothing well-formed.
    """

    def __init__(self, mood: str = "follow") -> None:
        self.mood = mood
        self.scenes: dict[int, tuple[VisibleObject, ...]] = {}
        self.asked: list[dict] = []
        self.encoded = 0
        self.model = SimpleNamespace(
            config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=4, num_attention_heads=4))
        )
        self.steering_file = None

    @property
    def config(self) -> SteeringConfig:
        """As a reasoner's."""
        return SteeringConfig() if self.steering_file is None else self.steering_file.config

    def learn(self, image: np.ndarray, objects: tuple[VisibleObject, ...]) -> None:
        """A frame that may be shown, and what is on it."""
        self.scenes[hash(image.tobytes())] = objects

    def learn_seeds(self, first: int, count: int) -> None:
        """Lab scenes from that seed up."""
        for seed in range(first, first + count):
            frame = render(make_scene(seed))
            self.learn(frame.image, visible_objects_of(frame))

    def options(self, **given: object) -> EvalConfig:
        """Options that find this world in place of the built-in pair."""
        options = EvalConfig(progress=silent, parallel=False, **given)
        options._models[("Perceiver", "builtin:lab-vl")] = self
        options._models[("Reasoner", "builtin:lab-r1")] = self
        return options

    def tokenizer(self, text: str, **_: object) -> dict:
        """A word is a token."""
        return {"input_ids": text.split()}

    # as a perceiver
    def encode(self, image: np.ndarray, stamp: int | None = None) -> VisualFeatures:
        """Features whose model name is the image's key."""
        self.encoded += 1
        height, width = image.shape[:2]
        grid = PatchGrid(24, 24)
        return VisualFeatures(torch.zeros(144, 2), grid, (width, height), str(hash(image.tobytes())), stamp)

    def ground(self, phrase: str, features: VisualFeatures) -> list[Grounding]:
        """The true boxes of what bears the name."""
        side = features.frame_size * 2
        return [
            Grounding(phrase, tuple(float(c * s) for c, s in zip(obj.box, side, strict=True)), 1.0)
            for obj in self.objects(features)
            if obj.name == phrase
        ]

    def objects(self, features: VisualFeatures) -> tuple[VisibleObject, ...]:
        """What is on the frame; () for one that nobody has told of."""
        return self.scenes.get(int(features.model), ())

    # as a reasoner
    def generate(
        self,
        prompt: str,
        features: VisualFeatures,
        masks=None,
        *,
        config: SteeringConfig,
        callbacks: Callbacks | None = None,
        **given: object,
    ) -> Turn:
        """One turn, as the mood says; the mask is looked at before the name and again before the action."""
        self.asked.append({"prompt": prompt, "mask": masks, "config": config, **given})
        callbacks = callbacks or Callbacks()
        objects = self.objects(features)
        turn = Turn(prompt, output_ids=[1] * 8, timings={"prefill": 1.0, "decode": 1.0, "total": 2.0})
        kind = KIND.get(prompt.split(". ", 1)[-1] if prompt.startswith("Look at the ") else prompt)
        if self.mood == "mute" or not objects:
            turn.thought, turn.action = "look look", "the the the"
            return turn
        mask = masks
        if kind is None:
            self._closed(prompt, objects, turn)
            return turn
        for _ in range(5):  # before the prompt, and before each token of "I look at the"
            mask = self._newer(callbacks.update_masks, mask)
        first = self._looked_at(features, objects, mask)
        turn.thought = open_thought(kind, first)
        if callbacks.on_text is not None:
            callbacks.on_text("think", turn.thought)
        turn.action = open_action(kind, self._looked_at(features, objects, self._newer(callbacks.update_masks, mask)))
        return turn

    @staticmethod
    def _newer(update_masks, mask):
        newer = update_masks() if update_masks is not None else None
        return mask if newer is None else newer

    def _looked_at(self, features: VisualFeatures, objects: tuple[VisibleObject, ...], mask) -> VisibleObject:
        if mask is None or self.mood == "deaf" or not np.any(mask):
            return objects[0]
        side = features.frame_size * 2
        covered = [
            box_weights(features.grid, features.frame_size, [c * s for c, s in zip(o.box, side, strict=True)])
            for o in objects
        ]
        spread = mask.astype(float) - float(mask.min())
        fits = [float((spread * c).sum()) / float(np.linalg.norm(c.astype(float))) for c in covered]
        return objects[int(np.argmax(fits))]

    @staticmethod
    def _closed(prompt: str, objects: tuple[VisibleObject, ...], turn: Turn) -> None:
        found = [o for o in objects if o.name in prompt]
        if prompt.startswith("Is there"):
            thing = prompt.split(" ", 3)[3].rstrip("?")
            answer = exists_answer(thing, [o for o in objects if o.name == thing])
            turn.thought, turn.action = answer.thought, answer.action
        elif found:
            name = found[0].name
            turn.thought = f"I look for the {name}. I see it."
            where = prompt.startswith("Where")
            turn.action = f"It is at the {found[0].place}." if where else f"Pick up the {name}."
        else:
            turn.thought, turn.action = "I look for the thing. I do not see it.", "There is no red cube."
