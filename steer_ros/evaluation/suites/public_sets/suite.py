"""Suite `public`: a user's copy of VQAv2, GQA or POPE (--data), unsteered and steered, by their official metrics.

Where a question's region comes from: GQA: the boxes, in the scene graph, of the objects that the question is about.
POPE: what perception finds when it looks for the thing asked for. VQAv2: what perception finds for the question. A
question without a region is answered unsteered in both columns; so is one whose region has no name, by a model that
sees regions by their words only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ....models.features import VisualFeatures
from ....perception import Perceiver
from ....reasoning import Limits, Reasoner
from ....regions.mask import Mask, box_weights
from ....steering import SteeringConfig
from ...harness.eval_config import EvalConfig
from ...harness.intervals import Row, difference, share, yes_no
from ...harness.steering_setup import UNSTEERED, SteeringSetup
from ..easy_vqa.data import read_image
from .loaders import POPE_SPLITS, Benchmark, BenchmarkError, Item, load_benchmark
from .metrics import gqa_correct, pope_says_yes, vqa_accuracy

PERCEPTION, REASONING = "builtin:vqa-vl", "builtin:vqa-r1"
SETUP = SteeringSetup(  # for models without a steering.json: what the `vqa` suite's tuning chose
    "ours",
    SteeringConfig.parse({"law": "conserving", "alpha": 6.0, "schedule": "confidence_threshold=0.9"}),
    "conserving, where the model is in doubt",
)
LONGEST = {"builtin": 24, "other": 1024}  # tokens of an answer
SHORT = "\nAnswer the question using a single word or phrase."  # how these sets are put to models that can write more

_YES_NO = {
    "precision": "POPE: of yes",
    "recall": "POPE: of yes",
    "f1": "POPE: of yes",
    "yes_share": "POPE: how often yes is said",
}
_SCORES = {
    "accuracy": "VQAv2's, GQA's or POPE's own accuracy",
    "accuracy_yes/no": "VQAv2: the same, of questions answered yes or no",
    "accuracy_number": "VQAv2: of questions answered by a number",
    "accuracy_other": "VQAv2: of all others",
    **_YES_NO,
    **{
        f"{split}_{name}": f"{text}, of its {split} split"
        for split in POPE_SPLITS
        for name, text in {"accuracy": "POPE's own accuracy", **_YES_NO}.items()
    },
}
KEYS = {
    **{name: f"published set, steered: {text}" for name, text in _SCORES.items()},
    **{f"{name}_unsteered": f"published set, unsteered: {text}" for name, text in _SCORES.items()},
    "gain": "published set: accuracy less accuracy_unsteered",
    "with_region": "published set: questions for which there was a region to steer to",
}


def regions_of(item: Item, kind: str, perceiver: Perceiver, features: VisualFeatures) -> list[Mask]:
    """The regions that a question is steered to; [] if there are none."""
    if kind == "gqa":
        width, height = features.frame_size
        boxes = [(name, b) for name, b in item.regions if b[0] < width and b[1] < height and b[2] > 0 and b[3] > 0]
        return [
            Mask(box_weights(features.grid, features.frame_size, box), label=name, source="roi", box=box)
            for name, box in boxes
        ]
    if kind == "pope" and not item.thing:
        return []
    masks = perceiver.detect_regions(item.thing or item.question, features)
    return [mask for mask in masks if not mask.empty]


def answer(reasoner: Reasoner, item: Item, features: VisualFeatures, masks: list[Mask], setup: SteeringSetup) -> str:
    """The model's short answer: the action's first line."""
    builtin = reasoner.name.startswith("builtin:")
    lists = reasoner.bridge_for(features) == "text"  # then what is in view is said in words, steered or not
    turn = reasoner.generate(
        item.question if builtin else item.question + SHORT,
        features,
        regions=[(mask.label, mask.box) for mask in masks] if lists else None,
        limits=Limits(max_new_tokens=LONGEST["builtin" if builtin else "other"]),
        measure_focus=False,
        **setup.arguments(masks),
    )
    return next(iter(turn.action.strip().splitlines()), "").strip()


def score(kind: str, item: Item, said: str) -> float:
    """The set's own score of one answer, 0-1."""
    if kind == "vqav2":
        return vqa_accuracy(said, item.answers)
    if kind == "gqa":
        return float(gqa_correct(said, item.answers[0]))
    return float(pope_says_yes(said) == (item.answers[0] == "yes"))


def measure(benchmark: Benchmark, perceiver: Perceiver, reasoner: Reasoner, setup: SteeringSetup, say=None) -> dict:
    """The rows of KEYS for a set that was read."""
    said: dict[str, list[str]] = {"": [], "_unsteered": []}
    found: list[bool] = []
    for number, item in enumerate(benchmark.items):
        try:
            features = perceiver.encode(read_image(item.image))
        except ValueError as error:
            raise BenchmarkError(f"question {item.id}: {error}") from error
        masks = regions_of(item, benchmark.kind, perceiver, features)
        if reasoner.bridge_for(features) == "text":  # what is merely salient has no name to be said by
            masks = [mask for mask in masks if mask.label.strip()]
        found.append(bool(masks))
        said["_unsteered"].append(answer(reasoner, item, features, masks, UNSTEERED))
        said[""].append(answer(reasoner, item, features, masks, setup) if masks else said["_unsteered"][-1])
        if say is not None and (number + 1) % 100 == 0:
            say(f"public: {number + 1} of {len(benchmark.items)} questions")
    return rows(benchmark, said, found)


def rows(benchmark: Benchmark, said: dict[str, Sequence[str]], found: Sequence[bool]) -> dict[str, Row]:
    """Scores of answers, steered ("") and unsteered ("_unsteered"), as rows."""
    items, images = benchmark.items, [str(item.image) for item in benchmark.items]
    scores = {end: [score(benchmark.kind, i, s) for i, s in zip(items, texts)] for end, texts in said.items()}
    made: dict[str, Row] = {}
    groups = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.group].append(index)
    for end, values in scores.items():
        by_answer = benchmark.kind == "vqav2"  # its groups are kinds of answer, the others' are sets of questions
        made[f"accuracy{end}"] = share(values, images)
        for group, where in groups.items() if len(groups) > 1 else ():
            key = f"accuracy_{group}{end}" if by_answer else f"{group}_accuracy{end}"
            made[key] = share([values[i] for i in where], [images[i] for i in where])
        if benchmark.kind == "pope":  # its measures: of each split, and of all
            parts = {f"{group}_": where for group, where in groups.items()} if len(groups) > 1 else {}
            for part, where in {**parts, "": range(len(items))}.items():
                said_yes = [pope_says_yes(said[end][i]) for i in where]
                there = [items[i].answers[0] == "yes" for i in where]
                measured = yes_no(said_yes, there, [images[i] for i in where])
                made |= {f"{part}{name}{end}": row for name, row in measured.items()}
    made["gain"] = difference(scores[""], scores["_unsteered"], images)
    made["with_region"] = share(found, images)
    return made


def run(options: EvalConfig) -> dict[str, Row]:
    """The suite on the published set in `options.data`."""
    benchmark = load_benchmark(options.data, options.kind, options.limit)
    perceiver, reasoner = options.perceiver(PERCEPTION), options.reasoner(REASONING)
    options.progress(f"public: {len(benchmark.items)} {benchmark.kind} questions from {options.data}")
    return measure(benchmark, perceiver, reasoner, options.setup_for(reasoner, untuned=SETUP), options.progress)
