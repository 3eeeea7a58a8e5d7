"""The kinds of scenes: a road seen along it or across it, country and lake; from one random stream each."""

import math
import random

from semdiff.data.scenes.plan import (
    BUILDING,
    GRASS,
    GREY,
    PAVEMENT,
    ROAD,
    TIMES,
    WALLS,
    WATER,
    Camera,
    Plan,
    Scene,
    weighted,
)


def compose(rng: random.Random, aspect: float) -> Scene:
    """A scene for a picture `aspect` times as wide as high."""
    make, place, height = weighted(
        rng,
        (
            ((_avenue, "street", (2.8, 4.4)), 33),
            ((_front, "street", (3.9, 5.4)), 26),
            ((_country, "country road", (4.2, 6.2)), 23),
            ((_lake, "lake", (3.4, 5.4)), 18),
        ),
    )
    light = weighted(rng, TIMES)
    horizon = rng.uniform(0.36, 0.5)
    camera = Camera(
        horizon=horizon,
        metre=(1 - horizon) / rng.uniform(*height),
        vanish=aspect * rng.uniform(0.38, 0.62),
        aspect=aspect,
    )
    cloud = rng.uniform(0.75, 1.0) if light is GREY else rng.uniform(0.0, 0.7)
    haze = 0.09 if rng.random() < 0.06 else rng.uniform(0.008, 0.03)
    scene = Scene(place, light, camera, rng.uniform(-1, 1), cloud, haze, rng.getrandbits(30))
    plan = Plan(rng, scene, autumn=rng.random() < 0.12)
    make(plan)
    plan.birds()
    scene.things.sort(key=lambda t: -t.z - 1000 * (t.far > 0))
    return scene


def _avenue(plan: Plan) -> None:
    """Looking down a straight road: walls of houses, or gardens and houses, along it."""
    rng = plan.rng
    plan.scene.place = place = weighted(rng, (("city street", 60), ("suburban street", 40)))
    city = place == "city street"
    half, walk, shift = rng.uniform(3.3, 4.6), rng.uniform(2.0, 3.2), rng.uniform(-2.2, 2.2)
    left, right = shift - half, shift + half
    plan.lane(PAVEMENT if city else GRASS, plan.paving() if city else plan.grass(), -900, 900)
    plan.lane(PAVEMENT, plan.paving(), left - walk, right + walk)
    plan.lane(ROAD, plan.asphalt(), left, right)
    _road_paint(plan, left, right)
    if not city or plan.chance(0.3):
        plan.hills(0.06, 0.16)
    for side, edge in ((-1, left - walk), (1, right + walk)):
        if city and plan.chance(0.88):
            _wall_row(plan, side, edge + side * rng.uniform(0.2, 1.2))
        else:
            _garden_row(plan, side, edge, houses=not city)
    kerbs = (left - 0.6, -1), (right + 0.6, 1)
    _avenue_trees_and_lamps(plan, kerbs, walk)

    slots = [z * rng.uniform(0.92, 1.08) for z in (1.75, 2.5, 3.5, 4.9, 6.8)]
    rng.shuffle(slots)
    for z in slots[: weighted(rng, ((0, 25), (1, 25), (2, 25), (3, 15), (4, 10)))]:
        lane = rng.choice((-1, 1))
        plan.car(shift + lane * half * 0.5, z, "rear" if lane > 0 else "front")
    for z in slots[: weighted(rng, ((0, 58), (1, 22), (2, 13), (3, 7)))]:
        side, edge = rng.choice(((-1, left), (1, right)))
        plan.person(edge + side * rng.uniform(0.7, walk), z * 0.9)
    if plan.chance(0.16):
        plan.sign(*_kerb(plan, kerbs, 1.7, 3.0))
    if city and plan.chance(0.3):
        plan.traffic_light(*_kerb(plan, kerbs, 1.7, 2.8))
    if plan.chance(0.07):
        plan.dog(*_kerb(plan, kerbs, 1.5, 2.4))


def _kerb(plan: Plan, kerbs, near: float, far: float) -> tuple[float, float]:
    """A place at the kerb that is in the picture."""
    z = plan.rng.uniform(near, far)
    seen = [x for x, _ in kerbs if 0.06 < plan.camera.point(x, z)[0] / plan.camera.aspect < 0.94]
    return (plan.rng.choice(seen) if seen else plan.camera.across(plan.rng.uniform(0.1, 0.9), z)), z


def _road_paint(plan: Plan, left: float, right: float) -> None:
    white, middle = (226, 226, 222), (left + right) / 2
    for edge in (left + 0.25, right - 0.25):
        plan.lane(None, white, edge - 0.09, edge + 0.09)
    z, dash = plan.rng.uniform(0.6, 1.0), plan.camera.depth(2.6)
    while z < 14:
        plan.lane(None, white, middle - 0.1, middle + 0.1, max(z, 0.9), z + dash)
        z += 2 * dash
    if plan.chance(0.25):
        z, x = plan.rng.uniform(1.15, 1.8), left + 0.5
        while x < right - 0.5:
            plan.lane(None, white, x, x + 0.5, z, z + plan.camera.depth(2.4))
            x += 1.0


def _wall_row(plan: Plan, side: int, x: float) -> None:
    rng, z = plan.rng, 1.0
    while z < 13:
        end = z + plan.camera.depth(rng.uniform(9, 16))
        wall, style = plan.near(rng.choice(WALLS)), rng.choice(("flat", "flat", "shop"))
        height = rng.uniform(6, 15)
        plan.thing(BUILDING, x, z, 9, height, wall, style, flip=side, far=end)
        z = end + (plan.camera.depth(rng.uniform(2, 6)) if plan.chance(0.15) else 0)


def _garden_row(plan: Plan, side: int, x: float, houses: bool) -> None:
    rng, z = plan.rng, plan.rng.uniform(1.7, 2.4)
    plan.lane(GRASS, plan.grass(), x, side * 900)
    while z < 12:
        if houses and plan.chance(0.75):
            width = rng.uniform(6.5, 9)
            plan.house(x + side * (width / 2 + rng.uniform(1.5, 4)), z, width)
        if plan.chance(0.75):
            plan.tree(x + side * rng.uniform(0.8, 6), z * 1.08 + 0.2, styles="round round cone")
        z *= rng.uniform(1.3, 1.6)


def _avenue_trees_and_lamps(plan: Plan, kerbs, walk: float) -> None:
    rng = plan.rng
    trees, lamps = plan.chance(0.55), plan.chance(0.5)
    for kerb, side in kerbs:
        z = rng.uniform(1.6, 2.4)
        while z < 11:
            if trees and plan.chance(0.7):
                plan.tree(kerb + side * 0.5 * walk, z, 4.0, 6.0, "round")
            if lamps and plan.chance(0.8):
                plan.lamp(kerb, z * 1.2, -side)
            z *= rng.uniform(1.35, 1.6)


def _front(plan: Plan) -> None:
    """Looking across a road at a row of houses."""
    rng, camera = plan.rng, plan.camera
    far_road, near_road = rng.uniform(2.1, 2.5), rng.uniform(1.15, 1.3)
    back = far_road + rng.uniform(0.35, 0.6)
    plan.lane(GRASS, plan.grass(), -900, 900)
    plan.lane(PAVEMENT, plan.paving(), -900, 900, 0.9, back + 0.05)
    if plan.chance(0.35):
        plan.lane(GRASS, plan.grass(), -900, 900, 0.9, near_road - 0.06)
    plan.lane(ROAD, plan.asphalt(), -900, 900, near_road, far_road)
    middle = 2 / (1 / near_road + 1 / far_road)
    dash = rng.uniform(0, 3)
    for k in range(-20, 20):
        x = dash + 4.5 * k
        plan.lane(None, (226, 226, 222), x, x + 2.4, middle * 0.988, middle * 1.012)
    if plan.chance(0.4):
        plan.hills(0.1, 0.25)
    _house_fronts(plan, back)

    lanes = [(far_road * 0.9, 1), (near_road * 1.13, -1)]
    for z, flip in lanes:
        for k in range(plan.wide):
            if plan.chance(0.42):
                fraction = (k + rng.uniform(0.15, 0.85)) / plan.wide
                plan.car(camera.across(fraction, z), z, "side", flip)
    for z, p in ((far_road * 1.07, 0.4), (near_road * 0.95, 0.22)):
        for _ in range(2 * plan.wide):
            if plan.chance(p / 1.3):
                plan.person(camera.across(rng.uniform(0.06, 0.94), z), z)
    kerb = far_road * 1.03
    trees, lamps = plan.chance(0.5), plan.chance(0.5)
    for k in range(3 * plan.wide):
        x = camera.across((k + rng.uniform(0.2, 0.8)) / (3 * plan.wide), kerb)
        if trees and plan.chance(0.6):
            plan.tree(x, kerb, 3.2, 5.0, "round round poplar")
        elif lamps and plan.chance(0.6):
            plan.lamp(x, kerb, rng.choice((-1, 1)))
    for verb, p in ((plan.sign, 0.16), (plan.traffic_light, 0.13), (plan.dog, 0.08)):
        if plan.chance(p):
            z = kerb if plan.chance(0.6) else near_road * 0.96
            verb(camera.across(rng.uniform(0.08, 0.92), z), z)


def _house_fronts(plan: Plan, z: float) -> None:
    rng, camera = plan.rng, plan.camera
    x, end = camera.across(0, z) - rng.uniform(0, 5), camera.across(1, z)
    tall = rng.uniform(4.5, 9)
    while x < end:
        width = rng.uniform(5.5, 10)
        if plan.chance(0.14):
            plan.tree(x + width / 2, z * 1.02, 4, 7)
            plan.tree(x + width / 4, z * 1.1, 4, 7)
        else:
            style = rng.choice(("flat", "gable", "shop", "hip"))
            wall, height = plan.near(rng.choice(WALLS)), tall * rng.uniform(0.75, 1.3)
            plan.thing(BUILDING, x + width / 2, z, width, height, wall, style)
        x += width


def _country(plan: Plan) -> None:
    """A winding road through meadows and hills."""
    rng, camera = plan.rng, plan.camera
    plan.hills(0.1, 0.3, snow=plan.chance(0.2))
    plan.lane(GRASS, plan.grass(), -900, 900)
    half, start = rng.uniform(2.0, 3.0), camera.across(rng.uniform(0.3, 0.7), 1)
    bend, phase = rng.uniform(1.5, 4.0), rng.uniform(0, 6.3)

    def middle(z):
        turn = math.sin(math.log(z) * 1.6 + phase) - math.sin(phase)
        return start + bend * z * turn / (1.5 + 0.25 * z)

    zs = [0.9 * 1.1**k for k in range(36)]
    for kind, color, low, high in (
        (ROAD, plan.asphalt(), -half, half),
        (None, (226, 226, 222), -half + 0.12, -half + 0.32),
        (None, (226, 226, 222), half - 0.32, half - 0.12),
    ):
        plan.patch(
            kind,
            color,
            [(middle(z) + low, z) for z in zs] + [(middle(z) + high, z) for z in reversed(zs)],
        )
    _scatter_trees(plan, rng.choice((3, 6, 10)), lambda x, z: abs(x - middle(z)) > half + 1)
    for _ in range(weighted(rng, ((0, 45), (1, 35), (2, 20)))):
        z, side = rng.uniform(2.4, 6), rng.choice((-1, 1))
        plan.house(middle(z) + side * (half + rng.uniform(5, 11)), z)
    if plan.chance(0.4):
        z = rng.uniform(1.6, 3.2)
        lane = rng.choice((-1, 1))
        plan.car(middle(z) + lane * half * 0.45, z, "rear" if lane > 0 else "front")
    side = rng.choice((-1, 1))
    for verb, p in ((plan.person, 0.16), (plan.sign, 0.18), (plan.dog, 0.07)):
        if plan.chance(p):
            z = rng.uniform(1.5, 2.6)
            verb(middle(z) + side * (half + rng.uniform(0.6, 1.4)), z)


def _scatter_trees(plan: Plan, count: int, free) -> None:
    rng = plan.rng
    for _ in range(count * plan.wide):
        z = 1.7 * 6 ** rng.random()
        x = plan.camera.across(rng.uniform(-0.05, 1.05), z)
        if free(x, z):
            plan.tree(x, z, 3.5, 6.5)


def _lake(plan: Plan) -> None:
    """Water between a near shore and hills, or the open sea."""
    rng, camera = plan.rng, plan.camera
    sea = plan.chance(0.3)
    if sea:
        plan.scene.place = "shore"
    else:
        plan.hills(0.14, 0.34, snow=plan.chance(0.4))
    far, near = (900.0 if sea else rng.uniform(9, 16)), rng.uniform(1.35, 1.9)
    plan.lane(GRASS, plan.grass(), -900, 900)
    tilt, wave = rng.uniform(-0.35, 0.35), rng.uniform(0, 6.3)
    fractions = [k / 24 * 1.2 - 0.1 for k in range(25)]
    shore = [near * (1 + tilt * (f - 0.5) + 0.06 * math.sin(7 * f + wave)) for f in fractions]
    edge = [(camera.across(f, z), z) for f, z in zip(fractions, shore)]
    water = plan.near((58, 112, 158), 6)
    plan.patch(WATER, water, [*edge, (camera.across(1.3, far), far), (camera.across(-0.3, far), far)])
    path = plan.chance(0.45)
    if path:
        plan.lane(PAVEMENT, plan.paving(), -900, 900, 1.03, 1.16)

    def bank(x):
        """The depth of the near shore at x."""
        return min(edge, key=lambda corner: abs(corner[0] - x))[1]

    for _ in range(weighted(rng, ((0, 62), (1, 28), (2, 10)))):
        z = rng.uniform(2.4, 4.5)
        plan.boat(camera.across(rng.uniform(0.15, 0.85), z), z)
    for _ in range(rng.choice((0, 2, 3, 5)) * plan.wide * (not sea)):
        z = far * rng.uniform(0.98, 1.05)
        x = camera.across(rng.random(), z)
        if plan.chance(0.3):
            plan.house(x, z, 12)
        else:
            plan.tree(x, z, 8, 13)
    verbs = ((plan.tree, 0.6), (plan.tree, 0.35), (plan.person, 0.3), (plan.dog, 0.1))
    for verb, p in verbs * plan.wide:
        if plan.chance(p):
            x = camera.across(rng.uniform(0.05, 0.95), near)
            z = 1.16 + (max(bank(x), 1.2) - 1.16) * rng.uniform(0.2, 0.8)
            verb(x * z / near, z)
    if path and plan.chance(0.6):
        plan.lamp(camera.across(rng.uniform(0.1, 0.9), 1.18), 1.18, rng.choice((-1, 1)))
