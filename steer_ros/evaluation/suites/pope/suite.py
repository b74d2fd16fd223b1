"""Suite `pope`: does steering by perception's regions mend yes/no answers about what is there and what is not?

After POPE (Li et al., 2023), on scenes with known objects: "Is there a red beaker?", as many questions to be answered
yes as no, in three splits that share the first and differ in the second:
- random: any colour and shape that the scene does not hold together;
- popular: those absent ones that such scenes hold most often;
- adversarial: absent ones whose colour and shape both occur in the scene, then those that share one of them.
What lies there but is mostly hidden is not asked about.

**No region comes from truth.** One rule for every question, whatever its answer (`regions.regions`): what
perception finds by the name that is asked for ("red beaker"); if nothing, all that it finds of the colour ("red
object"); if nothing, all that it finds of the shape. So a question to be answered no has its region as well: the red
things, for the reasoner to see that none of them is a beaker. The reasoner answers, not the region: what an answer
"yes, if perception finds it by its name" would score is reported beside it (`_perception`), and what regions from
truth, by the same rule, would mend (`_true_region`): how far better regions could bring this reasoner.

Against unsteered greedy answers to the same questions; the control steers to regions of the same size elsewhere. The
questions of a scene are answered in batches (`batched_answers`), token for token as `Reasoner.generate` would without
its guard. The rule, the law, its strength and schedule were chosen on scenes from seed 540,000 up; they are the
suite's own, since the built-in reasoner's default leaves alone whatever it is confident of by 90%, and so nearly every
yes and no.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....lab.scenes.ground_truth import read_truth
from ....lab.scenes.instructions import exists_answer
from ....lab.scenes.scene import COLOURS, SHAPES, make_scene
from ....lab.seeds import POPE_SEEDS
from ....regions.boxes import Box
from ....regions.mask import union
from ....steering import SteeringConfig
from ...harness.cases import Case, cases, check, reach
from ...harness.eval_config import EvalConfig
from ...harness.intervals import Row, errors_cut, share, yes_no
from ...harness.results import Results, run_parallel
from ...harness.steering_setup import UNSTEERED, SteeringSetup, override
from .batched_answers import NO, YES, Answerer
from .regions import BatchGrounder, Found, TrueBoxes, regions

SALT = 3
SCENES = 150  # some 1,000 questions in each split
MOST = 4  # questions of each answer in each split, a scene
SPLITS = ("random", "popular", "adversarial")
WAYS = ("", "_unsteered", "_random_region", "_true_region", "_perception")
SETUP = SteeringSetup(
    "ours",
    SteeringConfig.parse({"law": "conserving", "alpha": 3.0, "schedule": "confidence_threshold=0.99"}),
    "conserving, where the model is in doubt",
)

_MEASURES = {
    "accuracy": "right answers",
    "precision": "of the answers yes, those that are right",
    "recall": "of the questions to be answered yes, those that are",
    "f1": "harmonic mean of precision and recall",
    "yes_share": "answers yes (half of them should be)",
}
KEYS = {
    "adversarial_gain": "accuracy on the adversarial split, steered less unsteered",
    "adversarial_errors_cut": "the part of the unsteered errors there that steering takes away (net)",
    "yes_share_shift": "share of yes on the adversarial split, steered less unsteered",
    "adversarial_errors_cut_true_region": "the part taken away with regions from truth, by the same rule: what a "
    "perception without a fault would make of it",
    "adversarial_gain_random_region": "the gain when a region of the same size elsewhere is steered to",
    "adversarial_accuracy_perception": "accuracy there if the answer were yes whenever perception finds the name",
    "adversarial_errors_followed": "of the unsteered errors there, those where perception has it right: the most that "
    "following it could take away",
    "malformed": "steered answers that are neither yes nor no",
    "region_found": "questions for which perception gave a region",
    **{
        f"{split}_{measure}{way}": f"{what}, {split} split{', unsteered' if way else ''}"
        for split in SPLITS
        for measure, what in _MEASURES.items()
        for way in WAYS[:2]
    },
}


@dataclass(frozen=True)
class ExistenceQuestion:
    """Is there such a thing? Asked once, and counted in each of the splits."""

    name: str
    there: bool
    splits: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """As the reasoner knows it."""
        return exists_answer(self.name, []).prompt


def run(options: EvalConfig) -> dict[str, Row]:
    """Ask and judge. Keys: see KEYS."""
    check(options, SCENES)
    results = run_parallel(options, part, options.size(SCENES))
    rows = results.shares(("malformed", "region_found"))
    for split in SPLITS:
        for way in WAYS[:2]:
            columns = (results.values(f"{split}_{what}{way}") for what in ("yes", "there"))
            measured = yes_no(*columns, results.scenes(f"{split}_yes{way}"))
            rows |= {f"{split}_{measure}{way}": measured[measure] for measure in _MEASURES}
    right, plain = results.values("adversarial_right"), results.values("adversarial_right_unsteered")
    scenes = results.scenes("adversarial_right")
    rows["adversarial_gain"] = results.paired_difference("adversarial_right", "adversarial_right_unsteered")
    rows["adversarial_gain_random_region"] = results.paired_difference(
        "adversarial_right_random_region", "adversarial_right_unsteered"
    )
    rows["adversarial_accuracy_perception"] = results.share("adversarial_right_perception")
    wrong = [place for place, right_there in enumerate(plain) if not right_there]
    followed = results.values("adversarial_right_perception")
    rows["adversarial_errors_followed"] = share([followed[i] for i in wrong], [scenes[i] for i in wrong])
    rows["adversarial_errors_cut"] = errors_cut(right, plain, scenes)
    true = results.values("adversarial_right_true_region")
    rows["adversarial_errors_cut_true_region"] = errors_cut(true, plain, scenes)
    rows["yes_share_shift"] = results.paired_difference("adversarial_yes", "adversarial_yes_unsteered")
    return {key: rows[key] for key in KEYS}


def part(options: EvalConfig, index: int, of: int) -> Results:
    """The questions about every of-th scene from `index` on."""
    perceiver, reasoner = options.perceiver(), options.reasoner()
    setup, results, count = override(options.setup or SETUP, options.overrides), Results(), options.size(SCENES)
    first = options.first_seed(POPE_SEEDS.start)
    lying = names_lying(options, first, count)
    popular = by_frequency(lying.values())
    answerer, grounder = Answerer(reasoner), BatchGrounder(perceiver)
    found = cases(perceiver, first, count, options.data, names=2, part=(index, of))
    for done, case in enumerate(found, 1):
        questions = ask_about(case, lying.get(case.key, set()), popular)
        judge(grounder, answerer, case, questions, setup, results)
        if done % 20 == 0:
            options.progress(f"pope: {done * of} of {count} scenes")
    return results


def by_frequency(names: Iterable[Iterable[str]]) -> list[str]:
    """The names by how often they occur, the most frequent first; equals in their order by letter."""
    counts = Counter(name for some in names for name in some)
    return sorted(counts, key=lambda name: (-counts[name], name))


def names_lying(options: EvalConfig, first: int, count: int) -> dict[int, set[str]]:
    """What lies on the bench, hidden or not, by scene."""
    if options.data is not None:
        return {
            stamp: {f"{o.colour} {o.shape}" for o in seen} for stamp, seen in read_truth(options.data).frames.items()
        }
    return {seed: {o.name for o in make_scene(seed).objects} for seed in reach(first, count)}


def ask_about(case: Case, lying: set[str], popular: Sequence[str]) -> list[ExistenceQuestion]:
    """The questions of one scene.

    Args:
        lying: all names that lie there, the mostly hidden ones too.
        popular: names by how often they occur, the most frequent first.
    """
    rng = case.rng(SALT)
    there = sorted({obj.name for obj in case.objects})
    colours, shapes = {obj.colour for obj in case.objects}, {obj.shape for obj in case.objects}
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in lying and f"{c} {s}" not in there]
    count = min(len(there), len(absent), MOST)
    drawn = [absent[i] for i in rng.permutation(len(absent))]

    def shared(name: str) -> int:
        colour, shape = name.split()
        return (colour in colours) + (shape in shapes)

    order = {name: rank for rank, name in enumerate(popular)}
    chosen = {
        "random": drawn[:count],
        "popular": sorted(drawn, key=lambda name: order.get(name, len(order)))[:count],
        "adversarial": sorted(drawn, key=shared, reverse=True)[:count],
    }
    splits: dict[str, list[str]] = defaultdict(list)
    for split, names in chosen.items():
        for name in names:
            splits[name].append(split)
    yes = [there[i] for i in rng.permutation(len(there))[:count]]
    return [ExistenceQuestion(name, True, SPLITS) for name in yes] + [
        ExistenceQuestion(n, False, tuple(s)) for n, s in splits.items()
    ]


def judge(
    grounder: BatchGrounder,
    answerer: Answerer,
    case: Case,
    questions: Sequence[ExistenceQuestion],
    setup: SteeringSetup,
    results: Results,
) -> None:
    """Answer and judge the questions of one scene: unsteered, steered, steered elsewhere, and by truth."""
    frame = answerer.prefill(case.features)
    prompts = [question.prompt for question in questions]
    answers = {"_unsteered": answerer.answer(frame, prompts, UNSTEERED, None)}
    answers |= {way: list(answers["_unsteered"]) for way in ("", "_random_region", "_true_region")}
    names = [question.name for question in questions]
    found = regions(grounder, names, case.features)
    true = regions(TrueBoxes(case), names, case.features)
    answers["_perception"] = [YES if found[name].named else NO for name in names]
    everything = range(len(questions))
    adversarial = [place for place in everything if "adversarial" in questions[place].splits]
    for way, where, places in (("", found, everything), ("_true_region", true, adversarial)):
        for boxes, shared in _by_boxes(where, names, places).items():
            _answer(answers[way], answerer, frame, shared, prompts, setup, weights_of(case, boxes))
    for boxes, shared in _by_boxes(found, names, adversarial).items():
        off = weights_of(case, [elsewhere(case, box) for box in boxes])
        _answer(answers["_random_region"], answerer, frame, shared, prompts, setup, off)
    for place, question in enumerate(questions):
        results.add("malformed", answers[""][place] not in (YES, NO), case.scene)
        results.add("region_found", bool(found[question.name].boxes), case.scene)
        for split in question.splits:
            for way in WAYS:
                results.add(f"{split}_right{way}", answers[way][place] == (YES if question.there else NO), case.scene)
                results.add(f"{split}_yes{way}", answers[way][place] == YES, case.scene)
                results.add(f"{split}_there{way}", question.there, case.scene)


def _by_boxes(
    found: Mapping[str, Found], names: Sequence[str], places: Iterable[int]
) -> dict[tuple[Box, ...], list[int]]:
    """The questions by their region's boxes; those without a region are left out."""
    shared: dict[tuple[Box, ...], list[int]] = defaultdict(list)
    for place in places:
        if boxes := found[names[place]].boxes:
            shared[boxes].append(place)
    return shared


def weights_of(case: Case, boxes: Sequence[Box]) -> np.ndarray:
    """All boxes as one region: int8 [rows, cols]."""
    return union([case.weights(box) for box in boxes])


def elsewhere(case: Case, box: Box) -> Box:
    """A box of the same size off this one; the same for the same box of the same scene."""
    return case.elsewhere(box, case.rng(SALT + int(box[0]) + 10_000 * int(box[1])))


def _answer(answers: list[str], answerer: Answerer, frame, places, prompts, setup, weights) -> None:
    """Answer some of the questions anew, in place."""
    for place, answer in zip(
        places, answerer.answer(frame, [prompts[i] for i in places], setup, weights), strict=True
    ):
        answers[place] = answer
