"""Draws a composed scene: image, class ids and instance ids of the same shapes.

Everything is painted far to near on two canvases in step, colours and codes (class and instance in
one number), several samples to a pixel. The image averages the samples, the layout takes the one
in the middle, so its borders are crisp. The alpha of the colours is not opacity: it says how far a
sample shines by itself (sky, lit windows) instead of being lit by the scene's light.
"""

import math
import random
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from semdiff.data.scenes.objects import DRAW
from semdiff.data.scenes.plan import (
    BUILDING,
    CLASSES,
    DAY,
    GRASS,
    GREY,
    HILL,
    LAMP,
    NIGHT,
    PAVEMENT,
    ROAD,
    SIGN,
    SKY,
    THINGS,
    TRAFFIC_LIGHT,
    TREE,
    WATER,
    Color,
    Scene,
    Thing,
)

TILE = 256  # samples of a noise tile, which is one image height wide
# How strongly each class takes up the noise that stands upright, and the one that lies on the ground.
_UPRIGHT = {HILL: 0.09, BUILDING: 0.05, TREE: 0.22}
_LYING = {WATER: 0.1, GRASS: 0.16, ROAD: 0.09, PAVEMENT: 0.07}
UPRIGHT = np.array([_UPRIGHT.get(k, 0.0) for k in range(len(CLASSES))], np.float32)
LYING = np.array([_LYING.get(k, 0.0) for k in range(len(CLASSES))], np.float32)
SHADOWS = {LAMP: 0.28, SIGN: 0.4, TRAFFIC_LIGHT: 0.4, TREE: 0.46}  # half as wide as the thing would be 0.5
GROUND = np.array([k in _LYING for k in range(len(CLASSES))], np.float32)
THING = np.array([k in THINGS for k in range(len(CLASSES))], bool)


def render(scene: Scene, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image uint8 [H,W,3], layout uint8 [H,W] and instance ids int32 [H,W] of a scene."""
    zoom = 4 if max(size) <= 40 else 3 if max(size) <= 96 else 2
    canvas = Canvas(scene, size, zoom)
    for patch in scene.patches:
        canvas.patch(patch)
    for instance, thing in enumerate(scene.things, start=1):
        if canvas.sees(thing):
            canvas.shadow(thing)
            DRAW[thing.kind](Pen(canvas, thing, instance))
    codes = np.asarray(canvas.codes)
    image = Image.fromarray(_lit(canvas, codes & 31)).reduce(zoom)
    if scene.light.lamps:
        image = _glow(canvas, codes & 31, image)
    codes = codes[zoom // 2 :: zoom, zoom // 2 :: zoom]
    return np.array(image), (codes & 31).astype(np.uint8), (codes >> 5).astype(np.int32)


class Canvas:
    """Colours and codes at `zoom` samples to a pixel."""

    def __init__(self, scene: Scene, size: tuple[int, int], zoom: int):
        self.scene, self.camera, self.zoom = scene, scene.camera, zoom
        self.height, self.width = size[0] * zoom, size[1] * zoom
        light = scene.light
        # The colour that distance fades to: as it must be before the light's tint makes it the horizon's.
        self.haze = tuple(min(255.0, h / t) for h, t in zip(light.horizon, light.tint))
        self.colors = Image.fromarray(_sky(scene, self.height, self.width))
        self.codes = Image.new("I", (self.width, self.height), SKY)
        self.color_pen = ImageDraw.Draw(self.colors)
        self.code_pen = ImageDraw.Draw(self.codes)
        for ridge in scene.ridges:
            self.ridge(ridge)

    def at(self, x: float, z: float, up: float = 0.0) -> tuple[float, float]:
        """Where a point of the scene is on the canvas."""
        x, y = self.camera.point(x, z, up)
        return x * self.height, y * self.height

    def faded(self, color: Color, amount: float) -> tuple[int, int, int]:
        r, g, b = (round(c + (h - c) * amount) for c, h in zip(color, self.haze))
        return r, g, b

    def fade(self, z: float) -> float:
        return 1 - math.exp(-self.scene.haze * max(0.0, z - 1))

    def sees(self, thing: Thing) -> bool:
        """Whether some of it may be in the picture, and it is not too far to be made out."""
        if thing.far:
            return True
        scale = self.camera.metre / thing.z * self.height
        x = self.at(thing.x, thing.z)[0]
        reach = thing.width * scale
        return thing.height * scale >= 0.8 * self.zoom and -reach < x < self.width + reach

    def ridge(self, ridge) -> None:
        horizon = self.camera.horizon * self.height
        step = self.width / (len(ridge.heights) - 1)
        line = [(i * step, horizon - h * self.height) for i, h in enumerate(ridge.heights)]
        base = horizon + 2
        color = self.faded(ridge.color, ridge.haze)
        outline = [*line, (self.width, base), (0, base)]
        self.color_pen.polygon(outline, (*color, 0))
        self.code_pen.polygon(outline, HILL)
        if ridge.snow:
            self._snow(ridge, line, horizon)
        # The land's edge closes the gap between hills and the first patch of ground.
        self.color_pen.rectangle([0, horizon, self.width, base], (*color, 0))
        self.code_pen.rectangle([0, horizon, self.width, base], HILL)

    def _snow(self, ridge, line, horizon) -> None:
        limit = horizon - 0.55 * max(ridge.heights) * self.height
        rough = random.Random(self.scene.seed)
        top = [(x, min(y, limit)) for x, y in line]
        bottom = [(x, limit + (limit - y) * rough.uniform(-0.5, 0.3)) for x, y in top]
        bottom = [(x, max(y, t)) for (x, y), (_, t) in zip(bottom, top)]
        white = self.faded((244, 246, 250), ridge.haze * 0.5)
        for i in range(len(line) - 1):
            piece = [top[i], top[i + 1], bottom[i + 1], bottom[i]]
            if top[i][1] < limit or top[i + 1][1] < limit:
                self.color_pen.polygon(piece, (*white, 0))

    def patch(self, patch) -> None:
        corners = [self.at(x, z) for x, z in patch.corners]
        if patch.kind == WATER:
            self._reflect(corners, patch.color)
        else:
            self.color_pen.polygon(corners, (*map(round, patch.color), 0))
        if patch.kind is not None:
            self.code_pen.polygon(corners, patch.kind)

    def _reflect(self, corners, color) -> None:
        """Water: its own colour, and upside down what stands beyond it."""
        line = round(min(y for _, y in corners))
        below = self.height - line
        mirrored = self.colors.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        mirrored = mirrored.transform(
            (self.width, below), Image.Transform.AFFINE, (1, 0, 0, 0, 0.8, self.height - line)
        )
        water = Image.new("RGBA", mirrored.size, (*map(round, color), 0))
        mask = Image.new("L", mirrored.size, 0)
        ImageDraw.Draw(mask).polygon([(x, y - line) for x, y in corners], 255)
        self.colors.paste(Image.blend(water, mirrored, 0.42), (0, line), mask)

    def shadow(self, thing: Thing) -> None:
        """Darkens the ground beside a thing, away from the sun."""
        if thing.up or thing.kind == BUILDING:
            return
        x, y = self.at(thing.x, thing.z)
        scale = self.camera.metre / thing.z * self.height
        wide = thing.width * SHADOWS.get(thing.kind, 0.54) * scale
        flat = max(0.16 * wide, 0.5 * self.zoom)
        if wide < self.zoom:
            return
        x -= self.scene.sun * 0.4 * wide
        left, top, right, low = (round(v) for v in (x - wide, y - flat, x + wide, y + flat))
        ground = self.colors.crop((left, top, right + 1, low + 1))
        dark = Image.blend(ground, Image.new("RGBA", ground.size, (14, 16, 30, 0)), self.scene.light.shadow)
        mask = Image.new("L", ground.size, 0)
        ImageDraw.Draw(mask).ellipse([0, 0, right - left, low - top], 255)
        # Not a plain paste of the dark colour: that would take our alpha for opacity.
        self.colors.paste(dark, (left, top), mask)


class Pen:
    """Draws one thing in its own metres: x to the right of its foot, y up from the ground.

    What is drawn belongs to the thing; a `detail` only colours what the thing already covers.
    """

    def __init__(self, canvas: Canvas, thing: Thing, instance: int):
        self.canvas, self.thing = canvas, thing
        self.x, self.y = canvas.at(thing.x, thing.z, thing.up)
        self.scale = canvas.camera.metre / thing.z * canvas.height
        self.code = thing.kind | instance << 5
        self.fade = canvas.fade(thing.z)
        self.pixel = canvas.zoom / self.scale  # a pixel of the image, in metres
        self.lamps = canvas.scene.light.lamps
        self.sun = canvas.scene.sun
        self.random = random.Random(thing.seed)

    def ink(self, color: Color, glow: float = 0.0) -> tuple[int, int, int, int]:
        red, green, blue = self.canvas.faded(color, self.fade * (1 - glow))
        return red, green, blue, round(255 * glow)

    def _put(self, shape: str, where, color, glow, detail) -> None:
        getattr(self.canvas.color_pen, shape)(where, self.ink(color, glow))
        if not detail:
            getattr(self.canvas.code_pen, shape)(where, self.code)

    def polygon(self, points, color: Color, glow=0.0, detail=False) -> None:
        x, y, scale, flip = self.x, self.y, self.scale, self.scale * self.thing.flip
        where = [(x + a * flip, y - b * scale) for a, b in points]
        self._put("polygon", where, color, glow, detail)

    def box(self, left, low, right, high, color: Color, glow=0.0, detail=False) -> None:
        self._put("rectangle", self._frame(left, low, right, high), color, glow, detail)

    def oval(self, x, y, wide, high, color: Color, glow=0.0, detail=False) -> None:
        """An ellipse about (x, y) with these half axes."""
        where = self._frame(x - wide, y - high, x + wide, y + high)
        self._put("ellipse", where, color, glow, detail)

    def _frame(self, left, low, right, high) -> list[float]:
        if self.thing.flip < 0:
            left, right = -right, -left
        # Less one sample: the shapes include their last row and column.
        return [
            self.x + left * self.scale,
            self.y - high * self.scale,
            max(self.x + right * self.scale - 1, self.x + left * self.scale),
            max(self.y - low * self.scale - 1, self.y - high * self.scale),
        ]

    def world(self, points, color: Color, glow=0.0, detail=False) -> None:
        """A polygon of points (x, z, up) of the scene, not of the thing."""
        where = [self.canvas.at(*point) for point in points]
        self._put("polygon", where, color, glow, detail)

    def shade(self, color: Color, light: float) -> Color:
        r, g, b = (min(255.0, max(0.0, c * light)) for c in color)
        return r, g, b


@cache
def _noise(rough: bool) -> np.ndarray:
    """A tile of smooth random values, about -2 .. 2, that repeats without a seam: [TILE,TILE]."""
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)) * TILE
    white = np.random.default_rng(20 + rough).uniform(-1, 1, (TILE, TILE))
    slope, start = (0.8, 8) if rough else (1.6, 1)
    gain = np.where(frequency < start, 0, 1 / np.maximum(frequency, 1) ** slope)
    tile = np.fft.irfft2(np.fft.rfft2(white) * gain, (TILE, TILE))
    # In steps, so that the last bit of a library's transform never shows in an image.
    return (np.clip(tile / tile.std(), -2.5, 2.5) * 50).round().astype(np.float32) / 50


def _pick(tile: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Samples of a tile that goes on for ever."""
    return tile[np.floor(down).astype(np.intp) % TILE, np.floor(across).astype(np.intp) % TILE]


def _sky(scene: Scene, height: int, width: int) -> np.ndarray:
    """The whole canvas as sky, uint8 [h,w,4]: a gradient, the sun or stars, clouds seen from below."""
    light, camera = scene.light, scene.camera
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    rise = np.clip(1 - y / camera.horizon, 0, 1)[:, None] ** 0.8  # 0 at the horizon, 1 at the top
    horizon, zenith = np.array(light.horizon, np.float32), np.array(light.zenith, np.float32)
    rows = horizon + (zenith - horizon) * rise
    upper = min(height, math.ceil(camera.horizon * height) + 1)
    sky = np.empty((height, width, 4), np.uint8)
    sky[:] = np.concatenate([rows, np.full((height, 1), 255)], 1).round()[:, None]
    part = sky[:upper].astype(np.float32)
    _sun_or_stars(scene, part, height)

    x = (np.arange(width, dtype=np.float32) + 0.5) / height - camera.vanish
    z = 0.09 / (np.maximum(camera.horizon - y[:upper], 0) + 0.035)
    u = np.multiply.outer(z, x) * 260 + scene.seed % 997
    v = z[:, None] * 420 + scene.seed % 991
    cover = np.clip((_pick(_noise(False), v, u) - 1.5 + 2.3 * scene.cloud) * 0.9, 0, 0.9)
    cover *= np.clip(rise[:upper] * 5, 0, 1)
    white = np.array(light.cloud, np.float32)
    part[..., :3] += cover[..., None] * (white - part[..., :3])
    sky[:upper] = part.round()
    return sky


def _sun_or_stars(scene: Scene, sky: np.ndarray, height: int) -> None:
    """Into the upper rows of a sky that is `height` rows high."""
    light, (rows, width) = scene.light, sky.shape[:2]
    horizon = scene.camera.horizon * height
    if light is GREY:
        return
    depth, color = {DAY: (0.25, (255, 252, 236)), NIGHT: (0.35, (226, 228, 220))}.get(
        light, (0.86, (255, 238, 200))
    )
    x, y, radius = (0.5 + 0.42 * scene.sun) * width, depth * horizon, 0.03 * height
    reach = (2.2 if light in (DAY, NIGHT) else 5.0) * radius
    down = np.exp(-(((np.arange(rows, dtype=np.float32) - y) / reach) ** 2))
    across = np.exp(-(((np.arange(width, dtype=np.float32) - x) / reach) ** 2))
    halo = np.multiply.outer(down, across * (0.25 if light is NIGHT else 0.6))[..., None]
    sky[..., :3] += halo * (np.array(color, np.float32) - sky[..., :3])
    image = Image.fromarray(sky.round().astype(np.uint8))
    pen = ImageDraw.Draw(image)
    if light is NIGHT:
        place = random.Random(scene.seed)
        for _ in range(40):
            star = place.uniform(0, width), place.uniform(0, 0.9 * horizon)
            shine = place.randint(90, 220)
            pen.rectangle([star, (star[0] + 1, star[1] + 1)], (shine, shine, shine, 255))
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], (*color, 255))
    sky[:] = np.asarray(image)


def _lit(canvas: Canvas, kinds: np.ndarray) -> np.ndarray:
    """The colours as the light leaves them, uint8 [h,w,3]: texture, haze on the ground, tint."""
    scene, camera = canvas.scene, canvas.camera
    height, width = kinds.shape
    colors = np.asarray(canvas.colors).astype(np.float32)
    own, shine = colors[..., :3], colors[..., 3:] * (1 / 255)

    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    x = (np.arange(width, dtype=np.float32) + 0.5) / height - camera.vanish
    offset = scene.seed % 251
    texture = UPRIGHT[kinds] * _pick(_noise(True), y[:, None] * TILE + offset, x * TILE + offset)
    z = (1 - camera.horizon) / np.maximum(y - camera.horizon, 0.004)
    lying = _pick(_noise(True), z[:, None] * 330 + offset, np.multiply.outer(z, x) * 110 + offset)
    texture += LYING[kinds] * (lying / (1 + z[:, None] / 5))

    lit = own * (1 + texture[..., None])
    fog = (1 - np.exp(-scene.haze * np.maximum(z - 1, 0)))[:, None] * GROUND[kinds]
    lit += fog[..., None] * (np.array(canvas.haze, np.float32) - lit)
    lit *= np.array(scene.light.tint, np.float32)
    lit += shine * (own - lit)
    return np.clip(lit, 0, 255).astype(np.uint8)


def _glow(canvas: Canvas, kinds: np.ndarray, image: Image.Image) -> Image.Image:
    """Adds what lamps and lit windows spill around them."""
    colors = np.asarray(canvas.colors)
    glass, bulb = (colors[..., 3] > 127).astype(np.uint8), (colors[..., 3] == 255).astype(np.uint8)
    strength = np.where(THING[kinds], glass + 3 * bulb, 0).astype(np.uint8)
    spill = Image.fromarray(colors[..., :3] // 4 * strength[..., None]).reduce(canvas.zoom)
    near = spill.filter(ImageFilter.GaussianBlur(image.height / 60))
    wide = spill.filter(ImageFilter.BoxBlur(image.height / 16))
    total = np.asarray(image).astype(np.uint16) + np.asarray(near) // 2 + np.asarray(wide)
    return Image.fromarray(np.minimum(total, 255).astype(np.uint8))
