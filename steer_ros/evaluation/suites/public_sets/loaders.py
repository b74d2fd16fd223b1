"""VQAv2, GQA and POPE from a folder with their files as they are published, and their images.

| kind | files | told by |
|---|---|---|
| vqav2 | questions and annotations, e.g. ``v2_OpenEnded_mscoco_val2014_questions.json``, ``v2_mscoco_val2014_annotations.json`` | lists ``questions`` and ``annotations`` |
| gqa | questions, e.g. ``testdev_balanced_questions.json``; scene graphs if there are any, e.g. ``val_sceneGraphs.json`` | ``imageId`` of a question; ``objects`` of a scene |
| pope | one or several, e.g. ``coco_pope_adversarial.json`` | lines of JSON with ``image``, ``text``, ``label`` |

Files may lie anywhere in the folder, images too; they are found by name. A file of questions none of which has its
answer published, such as a test split's, is passed over while others have theirs.
"""  # noqa: E501

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....regions.grid import Box

KINDS = ("vqav2", "gqa", "pope")
POPE_SPLITS = ("random", "popular", "adversarial")
_IMAGES = (".jpg", ".jpeg", ".png")
# "imange": as POPE's own files have it.
_POPE_OBJECT = re.compile(
    r"(?:is|are) there (?:an? |any )?(.+?)(?: in the (?:image|imange|picture|photo|scene))?\s*\??$", re.I
)


class BenchmarkError(ValueError):
    """A folder that is no such set, or a file of it that is missing or broken; the message names it."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: as the set numbers it.
        question: its text.
        image: the image's file.
        answers: VQAv2: of ten people. GQA: the answer. POPE: the label, "yes" or "no".
        group: VQAv2: its answer type ("yes/no", "number", "other"). POPE: its split. GQA: "".
        regions: GQA with scene graphs: label and box, in pixels of the image, of each object that the question is
            about. Empty: not known.
        thing: POPE: what is asked for.
    """

    id: str
    question: str
    image: Path
    answers: tuple[str, ...]
    group: str = ""
    regions: tuple[tuple[str, Box], ...] = ()
    thing: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A set's questions, of one kind."""

    kind: str
    items: tuple[Item, ...]


def load_benchmark(folder: str | Path, kind: str | None = None, limit: int | None = None) -> Benchmark:
    """Read a set; the first `limit` questions of each of its files.

    Args:
        kind: "vqav2", "gqa" or "pope"; None: told from the files.
    Raises:
        BenchmarkError: no such folder or set, or a broken or missing file.
        ValueError: an unknown kind, or a limit below 1.
    """
    folder = Path(folder)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r}: must be one of {', '.join(KINDS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1")
    if not folder.is_dir():
        raise BenchmarkError(f"{folder}: no such folder")
    files = _read_all(folder)
    found = {name for content in files.values() for name in (_kind_of(content),) if name}
    kinds = {name.split()[0] for name in found}
    if kind is None:
        if len(kinds) != 1:
            what = "files of " + " and ".join(sorted(kinds)) if kinds else "no question file"
            raise BenchmarkError(f"{folder}: {what}; it must hold VQAv2, GQA or POPE files, or name one as kind")
        kind = kinds.pop()
    elif kind not in kinds:
        raise BenchmarkError(f"{folder}: no {kind} files{'; found ' + ', '.join(sorted(found)) if found else ''}")
    images = {path.name: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _IMAGES}
    items = list({"vqav2": _vqav2, "gqa": _gqa, "pope": _pope}[kind](folder, files, images, limit))
    if not items:
        raise BenchmarkError(f"{folder}: the {kind} files hold no question")
    return Benchmark(kind, tuple(items))


def _read_all(folder: Path) -> dict[Path, object]:
    """Every JSON file below the folder, read: a JSON value, or a list of the values of its lines."""
    found: dict[Path, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".jsonl")):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise BenchmarkError(f"{path}: {error}") from error
        try:
            found[path] = json.loads(text)
            continue
        except ValueError as error:
            whole = error
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        values = []
        for number, line in lines:
            try:
                values.append(json.loads(line))
            except ValueError as error:
                if not values:  # no lines of JSON: it was meant to be one value
                    raise BenchmarkError(f"{path}: {whole}") from error
                raise BenchmarkError(f"{path}: line {number}: {error}") from error
        found[path] = values
    return found


def _kind_of(content: object) -> str:
    """What a file holds: "vqav2 questions", "vqav2 annotations", "gqa questions", "gqa scenes", "pope" or ""."""
    if isinstance(content, Mapping):
        for name in ("questions", "annotations"):
            entries = content.get(name)
            if isinstance(entries, list) and (not entries or any("question_id" in _object(e) for e in entries[:2])):
                return f"vqav2 {name}"  # (COCO's own files of annotations, of captions, say, have image ids alone)
        if {"image", "text", "label"} <= content.keys():  # a file of a single line
            return "pope"
        first = next(iter(content.values()), None)
        if isinstance(first, Mapping):
            return "gqa questions" if "imageId" in first else "gqa scenes" if "objects" in first else ""
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        return "pope" if {"image", "text", "label"} <= content[0].keys() else ""
    return ""


def _of(files: Mapping[Path, object], kind: str) -> list[tuple[Path, object]]:
    return [(path, content) for path, content in files.items() if _kind_of(content) == kind]


def _answered(
    folder: Path, asked: list[tuple[Path, object]], answered: Callable[[object], list]
) -> list[tuple[Path, object]]:
    """The files with answered questions; BenchmarkError if there is none."""
    kept = [(path, content) for path, content in asked if answered(content)]
    if not kept:
        names = ", ".join(path.name for path, _ in asked)
        raise BenchmarkError(f"{folder}: no question of {names} has its answer here")
    return kept


def _object(entry: object) -> Mapping:
    return entry if isinstance(entry, Mapping) else {}


def _number_of(entry: object) -> int | None:
    number = _object(entry).get("question_id")
    return number if isinstance(number, int) else None


def _fields(entry: object, path: Path, where: str, **kinds: type | tuple[type, ...]) -> list:
    """The named fields of an entry, of the types given. BenchmarkError names the file and the place in it."""
    if not isinstance(entry, Mapping):
        raise BenchmarkError(f"{path}: {where}: {type(entry).__name__} in place of an object")
    for name, kind in kinds.items():
        if name not in entry:
            raise BenchmarkError(f"{path}: {where}: {name!r} is missing")
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            raise BenchmarkError(f"{path}: {where}: {name} is {entry[name]!r}")
    return [entry[name] for name in kinds]


def _image(folder: Path, images: Mapping[str, Path], names: Sequence[str], path: Path, where: str) -> Path:
    """The image of one of these names."""
    for name in names:
        if name in images:
            return images[name]
    raise BenchmarkError(f"{path}: {where}: its image {names[0]} is missing in {folder}")


def _vqav2(folder: Path, files, images: Mapping[str, Path], limit: int | None) -> Iterator[Item]:
    asked, given = _of(files, "vqav2 questions"), _of(files, "vqav2 annotations")
    if not asked or not given:
        there, lacks = ("annotations", "questions") if given else ("questions", "annotations")
        raise BenchmarkError(f"{folder}: VQAv2 {there}, but no file of {lacks}")
    answers: dict[int, tuple[tuple[str, ...], str]] = {}
    for path, content in given:
        for i, entry in enumerate(content["annotations"]):
            where = f"annotations[{i}]"
            number, people = _fields(entry, path, where, question_id=int, answers=list)
            texts = [_fields(p, path, f"{where}.answers[{n}]", answer=str)[0].strip() for n, p in enumerate(people)]
            if not texts:
                raise BenchmarkError(f"{path}: {where}: no answers")
            answers[number] = tuple(texts), str(entry.get("answer_type", ""))
    numbers = answers.keys()
    asked = _answered(folder, asked, lambda content: [e for e in content["questions"] if _number_of(e) in numbers])
    for path, content in asked:
        subtype = str(content.get("data_subtype", "")) or "val2014"
        for i, entry in enumerate(content["questions"][:limit]):
            where = f"questions[{i}]"
            number, image, text = _fields(entry, path, where, question_id=int, image_id=int, question=str)
            if number not in answers:
                raise BenchmarkError(f"{path}: {where}: question {number} has no annotation")
            stems = [f"COCO_{subtype}_{image:012d}", f"{image:012d}", str(image)]
            names = [stem + suffix for stem in stems for suffix in _IMAGES]
            people, group = answers[number]
            yield Item(str(number), text, _image(folder, images, names, path, where), people, group)


def _gqa(folder: Path, files, images: Mapping[str, Path], limit: int | None) -> Iterator[Item]:
    scenes: dict[str, tuple[Path, Mapping]] = {}
    for path, content in _of(files, "gqa scenes"):
        scenes |= {name: (path, scene) for name, scene in content.items()}
    asked = _of(files, "gqa questions")
    if not asked:
        raise BenchmarkError(f"{folder}: GQA scene graphs, but no file of questions")
    asked = _answered(folder, asked, lambda content: [e for e in content.values() if "answer" in _object(e)])
    for path, content in asked:
        for number, entry in list(content.items())[:limit]:
            where = f"question {number}"
            text, image, answer = _fields(entry, path, where, question=str, imageId=str, answer=str)
            found = _image(folder, images, [image + suffix for suffix in _IMAGES], path, where)
            notes = entry.get("annotations")
            meant = notes.get("question") if isinstance(notes, Mapping) else None
            ids = meant.values() if isinstance(meant, Mapping) else []  # "5", or "5,6" for several of a kind
            meant = [number.strip() for several in ids for number in str(several).split(",")]
            regions = _scene_regions(*scenes[image], image, meant) if meant and image in scenes else ()
            yield Item(str(number), text, found, (answer,), regions=regions)


def _scene_regions(path: Path, scene: object, image: str, ids: Sequence[str]) -> tuple[tuple[str, Box], ...]:
    """Label and box of objects of a scene graph; those that it does not hold are left out."""
    (objects,) = _fields(scene, path, f"scene {image}", objects=dict)
    made: dict[str, tuple[str, Box]] = {}
    for number in ids:
        if number not in objects:
            continue
        number_kind = (int, float)
        name, x, y, w, h = _fields(
            objects[number], path, f"scene {image}, object {number}",
            name=str, x=number_kind, y=number_kind, w=number_kind, h=number_kind,
        )  # fmt: skip
        if w > 0 and h > 0:
            made[number] = name, (float(x), float(y), float(x + w), float(y + h))
    return tuple(made.values())


def _pope(folder: Path, files, images: Mapping[str, Path], limit: int | None) -> Iterator[Item]:
    for path, content in _of(files, "pope"):
        split = next((name for name in POPE_SPLITS if name in path.stem), path.stem)
        for i, entry in enumerate([content] if isinstance(content, Mapping) else content[:limit]):
            where = f"entry {i + 1}"
            image, text, label = _fields(entry, path, where, image=str, text=str, label=str)
            if label.strip().lower() not in ("yes", "no"):
                raise BenchmarkError(f"{path}: {where}: label {label!r} is neither yes nor no")
            asked = _POPE_OBJECT.search(text.strip().partition("\n")[0].strip())
            found = _image(folder, images, [Path(image).name], path, where)
            number = str(entry.get("question_id", i + 1))
            thing = asked[1].strip() if asked else ""
            yield Item(number, text, found, (label.strip().lower(),), split, thing=thing)
