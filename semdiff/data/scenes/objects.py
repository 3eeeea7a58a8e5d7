"""How each kind of thing looks: functions of a pen that stands where the thing stands."""

import math

from semdiff.data.scenes.plan import (
    BIRD,
    BOAT,
    BUILDING,
    CAR,
    DOG,
    LAMP,
    PERSON,
    ROOFS,
    SIGN,
    TRAFFIC_LIGHT,
    TREE,
)

GLASS, LIT_GLASS, WARM = (70, 88, 112), (255, 214, 130), (255, 226, 160)
SKIN = ((236, 190, 156), (198, 142, 106), (122, 82, 60))
TROUSERS = ((44, 50, 84), (70, 62, 58), (40, 42, 46), (90, 104, 130))


def tree(pen) -> None:
    thing = pen.thing
    width, height, green = thing.width, thing.height, thing.color
    trunk = max(0.07 * height * (0.6 if thing.style == "cone" else 1), pen.pixel)
    bark = (96, 70, 50)
    pen.box(-trunk / 2, 0, trunk / 2, 0.45 * height, bark)
    if thing.style == "cone":
        for k in range(3):
            low, high = (0.14 + 0.24 * k) * height, (0.62 + 0.19 * k) * height
            half = width / 2 * (1 - 0.24 * k)
            pen.polygon([(-half, low), (half, low), (0, high)], pen.shade(green, 0.72 + 0.14 * k))
            light = pen.shade(green, 0.95 + 0.14 * k)
            side = half * (1 if pen.sun * thing.flip > 0 else -1)
            inner = [(side * 0.05, low), (side * 0.8, low), (0, high * 0.98)]
            pen.polygon(inner, light, detail=True)
        return
    low, middle = 0.26 * height, 0.63 * height
    half, tall = width / 2, (height - low) / 2
    if thing.style == "poplar":
        low, middle, tall = 0.1 * height, 0.55 * height, 0.45 * height
    blobs = [(0.0, middle, half * 0.8, tall * 0.92)]
    if thing.style == "round" and height > 9 * pen.pixel:
        turn = pen.random.uniform(0, 6.3)
        for k in range(6):
            angle, size = turn + k * math.pi / 3, pen.random.uniform(0.42, 0.56)
            x, y = 0.5 * half * math.cos(angle), middle + 0.48 * tall * math.sin(angle)
            blobs.append((x, y, half * size, tall * size))
    elif thing.style == "round":
        blobs = [(0.0, middle, half * 0.95, tall)]
    for x, y, wide, high in blobs:
        pen.oval(x, y, wide, high, pen.shade(green, 0.7))
    for size, shift, light in ((0.78, 0.16, 0.96), (0.5, 0.36, 1.22)):
        for x, y, wide, high in blobs:
            x += shift * wide * pen.sun * 0.8
            tone = light * pen.random.uniform(0.92, 1.08)
            pen.oval(x, y + shift * high, wide * size, high * size, pen.shade(green, tone), detail=True)


def building(pen) -> None:
    if pen.thing.far:
        _wall_along_the_road(pen)
    else:
        _house_front(pen)


def _window(pen) -> tuple:
    """Colour and glow of the next window."""
    lit = pen.random.random() < 0.55
    return (LIT_GLASS, 0.9) if lit and pen.lamps else (pen.shade(GLASS, pen.random.uniform(0.8, 1.25)), 0.0)


def _house_front(pen) -> None:
    thing = pen.thing
    half, height, wall = thing.width / 2, thing.height, thing.color
    roof = ROOFS[thing.seed % len(ROOFS)]
    if thing.style == "gable":
        peak = height + half * 0.75
        pen.polygon([(-half * 1.06, height), (half * 1.06, height), (0, peak)], roof)
        inner = [(-half * 0.8, height), (half * 0.8, height), (0, peak - half * 0.2)]
        pen.polygon(inner, pen.shade(wall, 0.95), detail=True)
    elif thing.style == "hip":
        peak = height + 1.9
        pen.polygon(
            [(-half * 1.06, height), (half * 1.06, height), (half * 0.7, peak), (-half * 0.7, peak)], roof
        )
    pen.box(-half, 0, half, height, wall)
    if thing.style in ("flat", "shop"):
        pen.box(-half, height - 0.35, half, height, pen.shade(wall, 0.74), detail=True)
    pen.box(half * 0.94, 0, half, height, pen.shade(wall, 0.82), detail=True)
    floors, bays = max(1, int(height / 2.9)), max(2, round(thing.width / 2.3))
    rise, bay = (height - 0.4) / floors, thing.width * 0.94 / bays
    door = pen.random.randrange(bays)
    if bay < 2.2 * pen.pixel:
        return
    for floor in range(floors):
        for k in range(bays):
            x, y = -half * 0.94 + (k + 0.5) * bay, floor * rise
            color, glow = _window(pen)
            if floor == 0 and thing.style == "shop":
                continue
            if floor == 0 and k == door:
                pen.box(x - 0.26 * bay, 0, x + 0.26 * bay, 0.78 * rise, roof, detail=True)
                continue
            low, high = y + 0.3 * rise, y + 0.8 * rise
            pen.box(x - 0.3 * bay, low, x + 0.3 * bay, high, pen.shade(wall, 1.25), detail=True)
            pen.box(x - 0.23 * bay, low + 0.15, x + 0.23 * bay, high - 0.15, color, glow, detail=True)
    if thing.style == "shop":
        glass, glow = (LIT_GLASS, 0.9) if pen.lamps else ((96, 122, 140), 0.0)
        pen.box(-half * 0.86, 0.25, half * 0.86, 0.62 * rise, glass, glow, detail=True)
        pen.box(-0.45, 0, 0.45, 0.62 * rise, roof, detail=True)
        awning = ((190, 60, 56), (52, 110, 92), (220, 176, 70))[thing.seed % 3]
        pen.box(-half * 0.92, 0.62 * rise, half * 0.92, 0.92 * rise, awning, detail=True)


def _wall_along_the_road(pen) -> None:
    """A block seen at a slant: the side along the road, and its end towards us."""
    thing = pen.thing
    x, near, far, height, side = thing.x, thing.z, thing.far, thing.height, thing.flip
    sunny = 1.06 if pen.sun * side < 0 else 0.84
    wall, end = pen.shade(thing.color, sunny), pen.shade(thing.color, 1.9 - sunny - 0.06)
    outer = x + side * 60
    pen.world([(x, near, 0), (outer, near, 0), (outer, near, height), (x, near, height)], end)
    pen.fade = pen.canvas.fade((near + far) / 2)
    pen.world([(x, near, 0), (x, far, 0), (x, far, height), (x, near, height)], wall)

    def panel(start, stop, low, high, color, glow=0.0):
        corners = [(x, start, low), (x, stop, low), (x, stop, high), (x, start, high)]
        pen.world(corners, color, glow, detail=True)

    panel(near, far, height - 0.4, height, pen.shade(wall, 0.72))
    floors, bays = max(1, int(height / 3)), max(2, round((far - near) / pen.canvas.camera.depth(3)))
    rise, bay = (height - 0.5) / floors, (far - near) / bays
    left, right = (pen.canvas.at(x, z)[0] for z in (near, far))
    if abs(left - right) < 1.6 * bays * pen.canvas.zoom:
        for floor in range(floors):
            panel(near, far, (floor + 0.35) * rise, (floor + 0.78) * rise, pen.shade(GLASS, 1.1))
        return
    first = 0
    if thing.style == "shop":
        first = 1
        glass, glow = (LIT_GLASS, 0.9) if pen.lamps else ((96, 122, 140), 0.0)
        panel(near + 0.1 * bay, far - 0.1 * bay, 0.3, 0.66 * rise, glass, glow)
        awning = ((190, 60, 56), (52, 110, 92), (220, 176, 70))[thing.seed % 3]
        panel(near + 0.05 * bay, far - 0.05 * bay, 0.66 * rise, 0.92 * rise, awning)
    for floor in range(first, floors):
        for k in range(bays):
            color, glow = _window(pen)
            start = near + (k + 0.24) * bay
            if start < 0.6:
                continue
            panel(start, start + 0.52 * bay, (floor + 0.3) * rise, (floor + 0.8) * rise, color, glow)


def car(pen) -> None:
    if pen.thing.style == "side":
        _car_side(pen)
    else:
        _car_end(pen)


def _car_side(pen) -> None:
    thing = pen.thing
    half, height, paint = thing.width / 2, thing.height, thing.color
    low, belt = 0.2 * height, 0.62 * height
    cabin = [(-0.78 * half, belt), (-0.55 * half, height), (0.2 * half, height), (0.55 * half, belt)]
    pen.polygon(cabin, pen.shade(paint, 0.92))
    body = [
        (-half, low),
        (-half, 0.52 * height),
        (-0.9 * half, belt),
        (0.5 * half, belt),
        (0.93 * half, 0.52 * height),
        (half, 0.4 * height),
        (half, low),
    ]
    pen.polygon(body, paint)
    pen.box(-half, low, half, 0.34 * height, pen.shade(paint, 0.68), detail=True)
    glass = (58, 74, 92)
    top = 0.94 * height
    pen.polygon(
        [(-0.68 * half, belt), (-0.5 * half, top), (-0.2 * half, top), (-0.2 * half, belt)],
        glass,
        detail=True,
    )
    pen.polygon(
        [(-0.12 * half, belt), (-0.12 * half, top), (0.16 * half, top), (0.42 * half, belt)],
        glass,
        detail=True,
    )
    for x in (-0.6, 0.6):
        pen.oval(x * half, 0.21 * height, 0.22 * height, 0.22 * height, (26, 26, 30))
        pen.oval(x * half, 0.21 * height, 0.1 * height, 0.1 * height, (150, 152, 158), detail=True)
    shine = float(pen.lamps)
    pen.box(0.88 * half, 0.38 * height, half, 0.5 * height, (255, 244, 200), shine, detail=True)
    pen.box(-half, 0.4 * height, -0.93 * half, 0.52 * height, (224, 40, 36), shine, detail=True)


def _car_end(pen) -> None:
    thing = pen.thing
    half, height, paint = thing.width / 2, thing.height, thing.color
    front = thing.style == "front"
    for x in (-0.72, 0.72):
        pen.box((x - 0.17) * half, 0, (x + 0.17) * half, 0.3 * height, (26, 26, 30))
    belt = 0.6 * height
    pen.polygon(
        [(-0.86 * half, belt), (-0.62 * half, height), (0.62 * half, height), (0.86 * half, belt)],
        pen.shade(paint, 0.95),
    )
    pen.box(-half, 0.16 * height, half, belt, paint)
    glass = (96, 118, 138) if front else (54, 66, 82)
    top = 0.92 * height
    pen.polygon(
        [(-0.7 * half, belt), (-0.54 * half, top), (0.54 * half, top), (0.7 * half, belt)], glass, detail=True
    )
    pen.box(-half, 0.16 * height, half, 0.3 * height, pen.shade(paint, 0.62), detail=True)
    if front:
        pen.box(-0.4 * half, 0.3 * height, 0.4 * half, 0.42 * height, (40, 42, 46), detail=True)
    else:
        pen.box(-0.24 * half, 0.34 * height, 0.24 * half, 0.44 * height, (240, 240, 236), detail=True)
    lamp = (255, 246, 214) if front else (226, 36, 34)
    for left in (-0.94, 0.58):
        pen.box(
            left * half,
            0.4 * height,
            (left + 0.36) * half,
            0.54 * height,
            lamp,
            float(pen.lamps),
            detail=True,
        )


def person(pen) -> None:
    thing = pen.thing
    height, half, shirt = thing.height, thing.width / 2, thing.color
    skin, trousers = SKIN[thing.seed % 3], TROUSERS[thing.seed // 3 % 4]
    step = pen.random.uniform(0.3, 0.8) * half
    leg = max(0.3 * half, 0.4 * pen.pixel)
    hip = 0.48 * height
    for x in (-step, step):
        pen.polygon([(-leg, hip), (leg, hip), (x + leg * 0.9, 0), (x - leg * 0.9, 0)], trousers)
    pen.polygon(
        [
            (-0.7 * half, 0.8 * height),
            (0.7 * half, 0.8 * height),
            (0.55 * half, 0.44 * height),
            (-0.55 * half, 0.44 * height),
        ],
        shirt,
    )
    for side in (-1, 1):
        arm = [
            (side * 0.62 * half, 0.8 * height),
            (side * 0.86 * half, 0.76 * height),
            (side * half, 0.46 * height),
            (side * 0.74 * half, 0.46 * height),
        ]
        pen.polygon(arm, pen.shade(shirt, 0.8))
    head = max(0.085 * height, 0.5 * pen.pixel)
    pen.oval(0, 0.9 * height, head * 0.9, head * 1.1, skin)
    hair = ((40, 30, 26), (96, 62, 36), (170, 130, 70))[thing.seed // 12 % 3]
    pen.oval(0, 0.95 * height, head * 0.86, head * 0.6, hair, detail=True)


def lamp(pen) -> None:
    thing = pen.thing
    height, metal = thing.height, thing.color
    half = max(0.08, 0.5 * pen.pixel)
    pen.box(-half, 0, half, height, metal)
    pen.box(-2 * half, 0, 2 * half, 0.4, metal)
    arm = max(0.12, 0.5 * pen.pixel)
    pen.box(0, height - arm, thing.width, height, metal)
    bulb = max(0.24, 0.9 * pen.pixel)
    pen.box(thing.width - 0.35, height - arm - bulb, thing.width + 0.35, height, WARM, float(pen.lamps))


def sign(pen) -> None:
    thing = pen.thing
    height, half = thing.height, max(0.06, 0.5 * pen.pixel)
    pen.box(-half, 0, half, height - 0.4, thing.color)
    size = max(0.46, 1.1 * pen.pixel)
    y = height - size
    white, red = (244, 244, 240), (208, 28, 36)
    if thing.style == "stop":
        ring = [(math.cos(a), math.sin(a)) for a in (math.pi / 8 + k * math.pi / 4 for k in range(8))]
        pen.polygon([(size * a, y + size * b) for a, b in ring], red)
        pen.box(-0.62 * size, y - 0.16 * size, 0.62 * size, y + 0.16 * size, white, detail=True)
    elif thing.style == "limit":
        pen.oval(0, y, size, size, red)
        pen.oval(0, y, 0.68 * size, 0.68 * size, white, detail=True)
        pen.box(-0.3 * size, y - 0.3 * size, 0.3 * size, y + 0.3 * size, (40, 40, 44), detail=True)
    elif thing.style == "warning":
        pen.polygon([(-size, y - 0.8 * size), (size, y - 0.8 * size), (0, y + size)], red)
        pen.polygon(
            [(-0.56 * size, y - 0.54 * size), (0.56 * size, y - 0.54 * size), (0, y + 0.56 * size)],
            (250, 206, 50),
            detail=True,
        )
    else:
        pen.box(-0.85 * size, y - 0.85 * size, 0.85 * size, y + 0.85 * size, (30, 84, 190))
        pen.box(-0.3 * size, y - 0.6 * size, -0.05 * size, y + 0.6 * size, white, detail=True)
        pen.oval(0.08 * size, y + 0.26 * size, 0.32 * size, 0.34 * size, white, detail=True)


def traffic_light(pen) -> None:
    thing = pen.thing
    height, half = thing.height, max(0.08, 0.5 * pen.pixel)
    case = (40, 42, 46)
    pen.box(-half, 0, half, height - 1.4, (88, 90, 94))
    wide = max(0.36, 0.9 * pen.pixel)
    pen.box(-wide, height - 1.9, wide, height, case)
    lights = (("red", (250, 44, 36)), ("amber", (255, 184, 40)), ("green", (50, 230, 110)))
    for k, (name, color) in enumerate(lights):
        burns = name == thing.style
        y = height - 0.36 - 0.59 * k
        pen.oval(0, y, 0.27, 0.27, color if burns else pen.shade(color, 0.28), float(burns), detail=True)


def boat(pen) -> None:
    thing = pen.thing
    half, paint = thing.width / 2, thing.color
    hull = [
        (-half, 0.24 * half),
        (half, 0.3 * half),
        (0.7 * half, -0.12 * half),
        (-0.75 * half, -0.12 * half),
    ]
    if thing.style == "sail":
        mast = max(0.04 * half, 0.4 * pen.pixel)
        pen.box(-mast, 0.2 * half, mast, thing.height, (92, 70, 52))
        pen.polygon(
            [(0.08 * half, 0.4 * half), (0.86 * half, 0.45 * half), (0.06 * half, 0.96 * thing.height)],
            (248, 246, 238),
        )
        pen.polygon(
            [(-0.08 * half, 0.42 * half), (-0.6 * half, 0.42 * half), (-0.06 * half, 0.84 * thing.height)],
            (226, 222, 212),
        )
    else:
        pen.polygon(
            [
                (-0.14 * half, 0.2 * half),
                (0.14 * half, 0.2 * half),
                (0.1 * half, 0.62 * half),
                (-0.1 * half, 0.62 * half),
            ],
            (70, 70, 90),
        )
        pen.oval(0, 0.72 * half, 0.11 * half, 0.13 * half, SKIN[thing.seed % 3])
    pen.polygon(hull, paint)
    pen.polygon(
        [(-half, 0.24 * half), (half, 0.3 * half), (0.95 * half, 0.2 * half), (-0.94 * half, 0.15 * half)],
        (244, 240, 230),
        detail=True,
    )


def dog(pen) -> None:
    thing = pen.thing
    half, height, fur = thing.width / 2, thing.height, thing.color
    leg = max(0.1 * half, 0.35 * pen.pixel)
    for x in (-0.62, -0.4, 0.3, 0.5):
        pen.box(x * half - leg, 0, x * half + leg, 0.5 * height, pen.shade(fur, 0.75))
    pen.oval(-0.05 * half, 0.55 * height, 0.72 * half, 0.22 * height, fur)
    pen.polygon(
        [(-0.7 * half, 0.6 * height), (-half, height), (-0.84 * half, height), (-0.5 * half, 0.68 * height)],
        fur,
    )
    pen.oval(0.66 * half, 0.82 * height, 0.26 * half, 0.19 * height, fur)
    pen.box(0.74 * half, 0.7 * height, half, 0.84 * height, pen.shade(fur, 0.8))
    pen.polygon(
        [(0.48 * half, 0.86 * height), (0.52 * half, 1.12 * height), (0.68 * half, 0.95 * height)],
        pen.shade(fur, 0.6),
    )


def bird(pen) -> None:
    thing = pen.thing
    half, high, dark = thing.width / 2, thing.height, thing.color
    thick = max(0.3 * high, 1.1 * pen.pixel)
    for side in (-1, 1):
        wing = [
            (0, 0),
            (0.5 * side * half, high),
            (side * half, 0.6 * high),
            (0.5 * side * half, high - thick),
            (0, -thick),
        ]
        pen.polygon(wing, dark)
    pen.oval(
        0,
        -0.3 * thick,
        max(0.16 * half, 0.6 * pen.pixel),
        max(0.2 * high, 0.6 * pen.pixel),
        pen.shade(dark, 1.3),
    )


DRAW = {
    BUILDING: building,
    TREE: tree,
    CAR: car,
    PERSON: person,
    LAMP: lamp,
    SIGN: sign,
    TRAFFIC_LIGHT: traffic_light,
    BOAT: boat,
    DOG: dog,
    BIRD: bird,
}
