"""Names, colours and mirrored pairs of classes: the known data sets, and dataset.json files.

Ids are positions. Where the raw ids of an official release differ, official.py maps them.
"""

from __future__ import annotations

import colorsys
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semdiff.data.images import DataError, LabelFormat
from semdiff.data.source import ClassInfo, Info

Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)
MAX_RAW_ID = 65535  # label files are at most 16 bits deep


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """`count` different colours, none black, always the same ones; neighbours differ clearly."""
    golden = 0.6180339887498949
    found: dict[Colour, None] = {}
    i = 0
    while len(found) < count:
        if i < 1024:
            saturation = (0.95, 0.6, 0.78)[i % 3]
            value = (0.95, 0.75, 0.55, 0.85)[i // 3 % 4]
            r, g, b = colorsys.hsv_to_rgb(i * golden % 1.0, saturation, value)
            colour = (round(255 * r), round(255 * g), round(255 * b))
        else:  # such hues run out: an odd factor visits every colour
            packed = i * 10368889 % 2**24
            colour = (packed >> 16, packed >> 8 & 255, packed & 255)
        found[colour] = None
        i += 1
    return tuple(found)


def generated_classes(count: int, void_id: int | None = None) -> tuple[ClassInfo, ...]:
    """Classes known by number alone; the void class is black."""
    classes = [ClassInfo(f"class {i}", colour) for i, colour in enumerate(distinct_colours(count))]
    if void_id is not None:
        classes[void_id] = ClassInfo("void", BLACK)
    return tuple(classes)


def _named(text: str, last: str | None = None) -> tuple[ClassInfo, ...]:
    names = [name.strip() for name in text.replace("\n", " ").split(",")]
    classes = [ClassInfo(name, colour) for name, colour in zip(names, distinct_colours(len(names)))]
    return (*classes, *([ClassInfo(last, BLACK)] if last else []))


# The 150 classes of the scene parsing benchmark, in its order (raw id 1 is "wall"), then "other".
ADE20K = Info(
    name="ADE20K",
    classes=_named(
        """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
        person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa,
        shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
        bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
        sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case,
        pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
        toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer,
        swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier,
        awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land,
        bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain,
        conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
        tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
        animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
        traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
        radiator, glass, clock, flag""",
        last="other",
    ),
    void_id=150,
)

# Position = official label id.
_CITYSCAPES = """unlabeled 0 0 0, ego vehicle 0 0 0, rectification border 0 0 0, out of roi 0 0 0,
static 0 0 0, dynamic 111 74 0, ground 81 0 81, road 128 64 128, sidewalk 244 35 232,
parking 250 170 160, rail track 230 150 140, building 70 70 70, wall 102 102 156,
fence 190 153 153, guard rail 180 165 180, bridge 150 100 100, tunnel 150 120 90,
pole 153 153 153, polegroup 153 153 153, traffic light 250 170 30, traffic sign 220 220 0,
vegetation 107 142 35, terrain 152 251 152, sky 70 130 180, person 220 20 60, rider 255 0 0,
car 0 0 142, truck 0 0 70, bus 0 60 100, caravan 0 0 90, trailer 0 0 110, train 0 80 100,
motorcycle 0 0 230, bicycle 119 11 32, license plate 0 0 142"""


def _coloured(text: str) -> tuple[ClassInfo, ...]:
    rows = (row.rsplit(None, 3) for row in text.replace("\n", " ").split(","))
    return tuple(ClassInfo(name.strip(), (int(r), int(g), int(b))) for name, r, g, b in rows)


# The 19 classes of the benchmark, in its order: entry i is the label id of train id i. Metrics count these alone.
CITYSCAPES_TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# The 34 label ids that label files hold, as SDM uses them. SPADE counts the license plate too.
CITYSCAPES_35 = Info(
    name="Cityscapes",
    classes=_coloured(_CITYSCAPES),
    void_id=0,
    has_instances=True,
    scored=CITYSCAPES_TRAIN_IDS,
)
CITYSCAPES = dataclasses.replace(CITYSCAPES_35, classes=CITYSCAPES_35.classes[:34])

# Painted in this order, a later part over an earlier one; part i is class i + 1.
# fmt: off
CELEBAMASK_HQ_PARTS = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth",
    "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)
# fmt: on

# Edges are drawn between labels, as SPADE and SDM do, so every class region is an instance.
CELEBAMASK_HQ = Info(
    name="CelebAMask-HQ",
    classes=(ClassInfo("background", BLACK), *_named(",".join(CELEBAMASK_HQ_PARTS))),
    has_instances=True,
    flip_pairs=((4, 5), (6, 7), (8, 9)),  # l_eye r_eye, l_brow r_brow, l_ear r_ear
)

# Position = raw value of the label files (the COCO-Stuff id less one), then the unlabelled.
COCO_STUFF = Info(
    name="COCO-Stuff",
    classes=_named(
        """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
        fire hydrant, street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
        cow, elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag,
        tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
        skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon,
        bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
        couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop,
        mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender,
        book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush, banner,
        blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
        ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
        dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood,
        flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
        leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement,
        pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock,
        roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone,
        straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
        wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
        waterdrops, window-blind, window-other, wood""",
        last="unlabeled",
    ),
    void_id=182,
)

_ADVICE = (
    'Send other ids to a class with "ignore_id_map" in dataset.json, for example'
    ' {{"255": {void}}}, or correct the number of classes.'
)


@dataclass(frozen=True)
class Description:
    """What a data set says of its classes: the info, and how label files are read."""

    info: Info
    labels: LabelFormat


def make_description(
    info: Info, ignore_id_map: dict[int, int] | None = None, palette: Sequence[Colour] | None = None
) -> Description:
    """Raw ids are class ids, except where `ignore_id_map` sends a raw id elsewhere."""
    sent = ignore_id_map or {}
    ids = list(range(info.num_classes))
    ids += [-1] * (max(sent, default=-1) + 1 - len(ids))
    for raw, class_id in sent.items():
        ids[raw] = class_id
    void = info.num_classes - 1 if info.void_id is None else info.void_id
    labels = LabelFormat(tuple(ids), tuple(palette) if palette else None, _ADVICE.format(void=void))
    return Description(info, labels)


def as_json(info: Info) -> dict:
    """The classes as a dataset.json has them."""
    written = {
        "name": info.name,
        "num_classes": info.num_classes,
        "classes": [{"id": i, "name": c.name, "color": list(c.color)} for i, c in enumerate(info.classes)],
    }
    if info.void_id is not None:
        written["void_id"] = info.void_id
    if info.flip_pairs:
        written["flip_pairs"] = [list(pair) for pair in info.flip_pairs]
    if info.scored is not None:
        written["scored"] = list(info.scored)
    return written


def read_description(path: Path) -> Description:
    """A dataset.json: "classes" and "num_classes" (one is enough), "void_id", "ignore_id_map", ...

    When void_id == num_classes the void class counts as one more class.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}). Correct the file.") from error
    return description_of(written, path)


def description_of(written: object, path: Path) -> Description:
    """What a dataset.json says; path: where it was written, for errors."""
    if not isinstance(written, dict):
        raise DataError(f'{path}: expected a JSON object, {{"num_classes": ...}}.')
    void_id = _integer(path, "void_id", written.get("void_id"))
    entries = _class_entries(path, written, void_id)
    classes = tuple(
        ClassInfo(name, colour or generated)
        for (name, colour), generated in zip(entries, distinct_colours(len(entries)))
    )
    if void_id is not None and not 0 <= void_id < len(classes):
        raise DataError(
            f'{path}: "void_id" is {void_id}. Expected null or one of 0..{len(classes) - 1}, or'
            ' "num_classes" for one class more. Pixels of another raw id are sent to the void class'
            f' with "ignore_id_map": {{"{void_id}": ...}}.'
        )
    names = [c.name for c in classes]
    info = Info(
        name=str(written.get("name", path.parent.name)),
        classes=classes,
        void_id=void_id,
        flip_pairs=_flip_pairs(path, written.get("flip_pairs", []), names),
        scored=_scored(path, written.get("scored"), names),
    )
    every_colour = all(colour for _, colour in entries)
    return make_description(
        info,
        _ignore_id_map(path, written.get("ignore_id_map", {}), len(classes)),
        [c.color for c in classes] if every_colour else None,
    )


def _integer(path: Path, key: str, value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise DataError(f'{path}: "{key}" is {value!r}. Expected an integer or null.')
    return value


def _class_entries(path: Path, written: dict, void_id: int | None) -> list[tuple[str, Colour | None]]:
    """(name, colour if given) of every class, the void class included."""
    count = _integer(path, "num_classes", written.get("num_classes"))
    entries = [_class_entry(path, i, entry) for i, entry in enumerate(written.get("classes", []))]
    if not entries:
        if count is None or count < 1:
            raise DataError(
                f'{path}: neither "classes" nor a positive "num_classes". Expected one of them:'
                ' "classes": [{"id": 0, "name": "sky", "color": [128, 128, 128]}, ...].'
            )
        entries = [(i, f"class {i}", None) for i in range(count)]
    entries.sort(key=lambda entry: entry[0])
    ids = [entry[0] for entry in entries]
    if ids != list(range(len(ids))):
        raise DataError(f'{path}: the "id"s of "classes" are {ids}. Expected 0..{len(ids) - 1}, each once.')
    if void_id is not None and void_id == count == len(entries):
        entries.append((void_id, "void", BLACK))
    extra = int(void_id is not None and void_id == count)
    if count is not None and count + extra != len(entries):
        raise DataError(
            f'{path}: "num_classes" is {count} but "classes" has {len(entries)} entries. Expected'
            f" {count + extra}{' (the void class counts as one more)' if extra else ''}. Correct"
            " one of them."
        )
    return [(name, colour) for _, name, colour in entries]


def _class_entry(path: Path, i: int, entry: object) -> tuple[int, str, Colour | None]:
    if not isinstance(entry, dict):
        raise DataError(f'{path}: "classes"[{i}] is {entry!r}. Expected {{"id", "name", "color"}}.')
    class_id = _integer(path, f"classes[{i}].id", entry.get("id"))
    colour = entry.get("color")
    if colour is not None:
        whole = isinstance(colour, list) and len(colour) == 3
        if not whole or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
            raise DataError(
                f'{path}: the "color" of "classes"[{i}] is {colour!r}. Expected three integers'
                " 0..255, [red, green, blue]."
            )
        colour = tuple(colour)
    class_id = i if class_id is None else class_id
    return class_id, str(entry.get("name", f"class {class_id}")), colour


def _class_ids(names_or_ids: list, names: list[str]) -> list[int] | None:
    """Ids of classes that are given by name or by id; None where one is no class, or comes twice."""
    found = [names.index(c) if c in names else c for c in names_or_ids]
    good = all(type(c) is int and 0 <= c < len(names) for c in found)
    return found if good and len(set(found)) == len(found) else None


def _scored(path: Path, written: object, names: list[str]) -> tuple[int, ...] | None:
    """The classes that the metrics count, by id or name; None: all."""
    if written is None:
        return None
    found = _class_ids(written, names) if isinstance(written, list) else None
    if not found:
        raise DataError(
            f'{path}: "scored" is {written!r}. Expected the classes that metrics count: ids 0..{len(names) - 1} or class'
            ' names, no class twice, for example ["road", "car"]; without that key all count.'
        )
    return tuple(found)


def _flip_pairs(path: Path, pairs: object, names: list[str]) -> tuple[tuple[int, int], ...]:
    """Pairs of ids or of names."""
    found = None
    if isinstance(pairs, list) and all(isinstance(p, list) and len(p) == 2 for p in pairs):
        found = _class_ids([c for pair in pairs for c in pair], names)
    if found is None:
        raise DataError(
            f'{path}: "flip_pairs" is {pairs!r}. Expected pairs of class ids 0..{len(names) - 1} or'
            ' of class names, no class twice, for example [["left eye", "right eye"]].'
        )
    return tuple(zip(found[::2], found[1::2]))


def _ignore_id_map(path: Path, written: object, num_classes: int) -> dict[int, int]:
    sent: dict[int, int] = {}
    for raw, class_id in written.items() if isinstance(written, dict) else [(written, None)]:
        number = int(str(raw)) if str(raw).isdecimal() else -1
        known = 0 <= number <= MAX_RAW_ID
        if not isinstance(class_id, int) or not 0 <= class_id < num_classes or not known:
            raise DataError(
                f'{path}: "ignore_id_map" has {raw!r}: {class_id!r}. Expected a raw id'
                f" 0..{MAX_RAW_ID} (as text, JSON's rule for keys) and a class id"
                f' 0..{num_classes - 1}, for example {{"255": {num_classes - 1}}}.'
            )
        sent[number] = class_id
    return sent
