"""What a drawn scene is made of: classes, light, a camera, ground, hills, things, and verbs to place them.

Everything is in metres and knows no pixel: a scene drawn at another size is the same scene.
`places` composes scenes, `draw` makes the picture.
"""

import math
import random
from dataclasses import dataclass, field

from semdiff.data.source import ClassInfo

Color = tuple[float, float, float]

CLASSES = (
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("hill", (150, 110, 90)),
    ClassInfo("water", (40, 70, 235)),
    ClassInfo("grass", (152, 251, 152)),
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("pavement", (244, 35, 232)),
    ClassInfo("building", (70, 70, 70)),
    ClassInfo("tree", (90, 142, 20)),
    ClassInfo("car", (0, 0, 142)),
    ClassInfo("person", (220, 20, 60)),
    ClassInfo("street lamp", (170, 170, 170)),
    ClassInfo("sign", (235, 225, 0)),
    ClassInfo("traffic light", (250, 150, 30)),
    ClassInfo("boat", (0, 215, 215)),
    ClassInfo("dog", (120, 20, 0)),
    ClassInfo("bird", (255, 255, 255)),
)
SKY, HILL, WATER, GRASS, ROAD, PAVEMENT, BUILDING, TREE = range(8)
CAR, PERSON, LAMP, SIGN, TRAFFIC_LIGHT, BOAT, DOG, BIRD = range(8, 16)
THINGS = range(BUILDING, BIRD + 1)  # these have instance ids, the rest is stuff


@dataclass(frozen=True)
class Light:
    """A time of day: the sky's two ends, the colour everything is lit in, and whether lamps burn."""

    words: str
    zenith: Color
    horizon: Color
    tint: Color
    cloud: Color
    shadow: float
    lamps: bool = False


DAY = Light("in daylight", (62, 124, 206), (178, 212, 240), (1.02, 1.0, 0.96), (250, 250, 252), 0.55)
GREY = Light("on a grey day", (140, 152, 168), (196, 202, 208), (0.84, 0.87, 0.9), (215, 218, 222), 0.3)
DAWN = Light("at dawn", (108, 140, 200), (255, 205, 160), (1.0, 0.87, 0.78), (255, 222, 206), 0.45)
DUSK = Light("at dusk", (64, 58, 124), (246, 136, 84), (0.9, 0.72, 0.68), (214, 122, 120), 0.4, True)
NIGHT = Light("at night", (8, 12, 38), (38, 46, 84), (0.36, 0.42, 0.58), (36, 42, 66), 0.3, True)
TIMES = ((DAY, 42), (GREY, 12), (DAWN, 15), (DUSK, 17), (NIGHT, 14))

CAR_PAINT = ((196, 36, 40), (36, 84, 180), (236, 236, 238), (58, 60, 66), (176, 182, 190), (240, 190, 40),
             (30, 120, 110))  # fmt: skip
WALLS = ((180, 106, 82), (206, 176, 132), (164, 150, 138), (160, 88, 74), (216, 200, 172), (190, 140, 104),
         (150, 128, 128))  # fmt: skip
ROOFS = ((150, 66, 50), (104, 74, 66), (92, 88, 96), (170, 86, 56))
CLOTHES = ((214, 50, 60), (60, 90, 190), (240, 200, 70), (60, 150, 110), (230, 230, 225), (150, 70, 150),
           (235, 130, 50))  # fmt: skip
LEAVES = ((70, 128, 48), (92, 140, 50), (56, 112, 56), (110, 146, 58))
AUTUMN = ((196, 132, 44), (180, 96, 44), (150, 140, 52))
FUR = ((120, 78, 44), (60, 46, 40), (196, 152, 96))


@dataclass(frozen=True)
class Camera:
    """A pinhole above the ground; lengths on the screen are in image heights.

    Depth z is 1 where the ground leaves the picture at the bottom. `metre` is how long a metre
    looks there, `vanish` where the line straight ahead meets the horizon.
    """

    horizon: float
    metre: float
    vanish: float
    aspect: float

    def point(self, x: float, z: float, up: float = 0.0) -> tuple[float, float]:
        y = self.horizon + (1 - self.horizon - up * self.metre) / z
        return self.vanish + x * self.metre / z, y

    def across(self, fraction: float, z: float) -> float:
        """The x in metres that stands at a fraction of the picture's width, at depth z."""
        return (fraction * self.aspect - self.vanish) * z / self.metre

    def depth(self, metres: float) -> float:
        return metres * self.metre


@dataclass(frozen=True)
class Patch:
    """A piece of ground, as (x, z) corners; kind None is paint on whatever lies there."""

    kind: int | None
    color: Color
    corners: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Ridge:
    """Hills on the horizon: heights in image heights, evenly spread over the width."""

    heights: tuple[float, ...]
    color: Color
    haze: float
    snow: bool


@dataclass(frozen=True)
class Thing:
    """One object. `far` > 0 makes a building a wall along the road that ends at that depth."""

    kind: int
    x: float
    z: float
    width: float
    height: float
    color: Color
    style: str
    seed: int
    flip: int = 1
    up: float = 0.0
    far: float = 0.0


@dataclass
class Scene:
    place: str
    light: Light
    camera: Camera
    sun: float  # where it stands over the width, -1 .. 1
    cloud: float
    haze: float
    seed: int
    patches: list[Patch] = field(default_factory=list)
    ridges: list[Ridge] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)


def weighted(rng: random.Random, choices):
    mark = rng.random() * sum(weight for _, weight in choices)
    for value, weight in choices:
        mark -= weight
        if mark < 0:
            return value
    return choices[-1][0]


class Plan:
    """The scene being composed, with one verb per kind of object."""

    def __init__(self, rng: random.Random, scene: Scene, autumn: bool):
        self.rng, self.scene, self.camera = rng, scene, scene.camera
        self.leaves = AUTUMN if autumn else LEAVES
        self.wide = max(1, round(scene.camera.aspect))

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def near(self, color: Color, spread: float = 10) -> Color:
        """A colour like this one: lighter or darker, and a little off."""
        shift = self.rng.gauss(0, spread)
        r, g, b = (min(255, max(0, c + shift + self.rng.gauss(0, spread / 3))) for c in color)
        return r, g, b

    def thing(self, kind, x, z, width, height, color, style="", **more) -> None:
        seed = self.rng.getrandbits(30)
        self.scene.things.append(Thing(kind, x, z, width, height, color, style, seed, **more))

    def tree(self, x, z, low=3.5, high=7.0, styles="round round round cone poplar") -> None:
        style, height = self.rng.choice(styles.split()), self.rng.uniform(low, high)
        slim = {"round": 0.75, "cone": 0.5, "poplar": 0.34}[style] * self.rng.uniform(0.85, 1.15)
        leaves = (54, 104, 66) if style == "cone" else self.rng.choice(self.leaves)
        self.thing(TREE, x, z, height * slim, height, self.near(leaves), style)

    def car(self, x, z, style, flip=1) -> None:
        width, height = (4.3, 1.55) if style == "side" else (1.9, 1.55)
        paint = self.near(self.rng.choice(CAR_PAINT), 6)
        self.thing(CAR, x, z, width, height * self.rng.uniform(0.95, 1.12), paint, style, flip=flip)

    def person(self, x, z) -> None:
        height = self.rng.uniform(1.65, 1.95) if self.chance(0.85) else self.rng.uniform(1.1, 1.4)
        shirt = self.near(self.rng.choice(CLOTHES), 8)
        self.thing(PERSON, x, z, 0.62 * height / 1.8, height, shirt, flip=self.rng.choice((-1, 1)))

    def dog(self, x, z) -> None:
        flip = self.rng.choice((-1, 1))
        self.thing(DOG, x, z, 1.1, 0.8, self.near(self.rng.choice(FUR)), flip=flip)

    def lamp(self, x, z, flip) -> None:
        self.thing(LAMP, x, z, 1.3, self.rng.uniform(4.6, 5.4), (74, 78, 84), flip=flip)

    def sign(self, x, z) -> None:
        style = self.rng.choice(("stop", "limit", "warning", "parking"))
        self.thing(SIGN, x, z, 1.0, self.rng.uniform(2.5, 2.9), (150, 152, 156), style)

    def traffic_light(self, x, z) -> None:
        style = weighted(self.rng, (("red", 5), ("green", 5), ("amber", 1)))
        self.thing(TRAFFIC_LIGHT, x, z, 0.75, self.rng.uniform(3.6, 4.2), (46, 48, 52), style)

    def house(self, x, z, width=None) -> None:
        width = width or self.rng.uniform(6, 9)
        height = self.rng.uniform(3.6, 6.2)
        wall = self.near(self.rng.choice(WALLS))
        self.thing(BUILDING, x, z, width, height, wall, self.rng.choice(("gable", "hip")))

    def boat(self, x, z) -> None:
        style = "sail" if self.chance(0.65) else "rowing"
        paint = self.near(self.rng.choice(CAR_PAINT[:3]), 8)
        width = self.rng.uniform(3.0, 4.2)
        self.thing(BOAT, x, z, width, width * 1.25, paint, style, flip=self.rng.choice((-1, 1)))

    def birds(self) -> None:
        if not self.chance(0.09 if self.scene.place == "lake" else 0.03):
            return
        z = self.rng.uniform(2.0, 3.5)
        fraction, y = self.rng.uniform(0.2, 0.8), self.rng.uniform(0.07, 0.22)
        up = (1 - self.camera.horizon - (y - self.camera.horizon) * z) / self.camera.metre
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            span = self.rng.uniform(0.09, 0.13) * z / self.camera.metre
            self.thing(BIRD, self.camera.across(fraction, z), z, span, span * 0.45, (44, 42, 48), up=up)
            fraction += self.rng.uniform(0.12, 0.2)
            up += self.rng.uniform(-0.8, 0.8)

    def patch(self, kind, color, corners) -> None:
        self.scene.patches.append(Patch(kind, color, tuple(corners)))

    def lane(self, kind, color, left, right, near=0.9, far=400.0) -> None:
        """A straight strip of ground from near to far, between two x."""
        self.patch(kind, color, [(left, near), (right, near), (right, far), (left, far)])

    def hills(self, low: float, high: float, snow: bool = False) -> None:
        rng, layers = self.rng, self.rng.choice((1, 2, 2))
        for layer in range(layers):
            peak = rng.uniform(low, high) * (1.0 if layer == 0 else 0.6)
            waves = [(rng.uniform(0.6, 1.4) * 2**k, rng.uniform(0, 9), 0.55**k) for k in range(4)]
            ease = (lambda v: 1 - abs(v)) if snow else (lambda v: 0.5 + 0.5 * v)
            heights = [
                peak * sum(g * ease(math.sin(f * i / 16 * math.pi + p)) for f, p, g in waves) / 2
                for i in range(49)
            ]
            color = self.near((98, 106, 118) if snow and layer == 0 else (94, 126, 84), 8)
            haze = (0.3 if snow else 0.5) if layer == 0 and layers == 2 else rng.uniform(0.2, 0.35)
            self.scene.ridges.append(Ridge(tuple(heights), color, haze, snow and layer == 0))

    def grass(self) -> Color:
        return self.near((112, 160, 66) if self.leaves is LEAVES else (140, 150, 66), 8)

    def asphalt(self) -> Color:
        return self.near((92, 92, 98), 6)

    def paving(self) -> Color:
        return self.near((186, 178, 168), 7)
