"""--mode=check_data: looks at a folder of images and label maps before anything is trained on it, and says what to mend.

Writes WORKDIR/check/: report.html, and where they help dataset.json and config.py. Nothing is written beside the data.
"""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from semdiff import draw
from semdiff.config import ConfigError, Experiment
from semdiff.data import classes, survey
from semdiff.data.images import read_image
from semdiff.data.survey import Facts, Survey
from semdiff.machine import logs
from semdiff.machine.paths import local_path, prepare_workdir, write_json

REPORT, CLASSES, CONFIG = "report.html", "dataset.json", "config.py"
SHOWN, WIDTH = 12, 200  # examples of the report, pixels of one
LISTED = 8  # files of a finding
EVERY = 200  # files between two lines of progress
SMALL = 64  # the short side that config.py trains at


def check(config: Experiment, workdir: Path) -> Path:
    if config.data.source != "folder":
        raise ConfigError(
            f"config.data.source is {config.data.source}, but --mode=check_data looks at folders of images and label maps: "
            "--config=configs/camvid.py --config.data.root=FOLDER"
        )
    if not config.data.root:
        raise ConfigError("config.data.root is empty: name the folder to look at")
    root, folder = local_path(config.data.root, "config.data.root"), prepare_workdir(workdir / "check")
    progress: list[logs.Progress] = []

    def report(done: int, total: int):
        if not progress:
            progress.append(logs.Progress(total, unit="file"))
        if done % EVERY == 0 or done == total:
            progress[0].report(done, "looking at")

    found = survey.survey(root, report)
    for finding in found.findings:
        logs.say(f"{'error' if finding.stops else 'note'}:   {finding.what}{some(finding.files)}")
    written = survey.described(found)
    if written:
        write_json(folder / CLASSES, written)
        logs.say(
            f"classes: {folder / CLASSES} fits these label maps: give its classes names, and copy it to {root}"
        )
    (folder / CONFIG).write_text(configuration(found, root.resolve()), encoding="utf-8")
    (folder / REPORT).write_text(page(found, written), encoding="utf-8")
    stops = sum(finding.stops for finding in found.findings)
    verdict = f"{stops} findings would stop a training" if stops else "nothing would stop a training"
    logs.say(f"{len(found.all)} examples, {len(found.pixels)} values in their label maps; {verdict}")
    logs.say(f"report:  {folder / REPORT}\nto train: --config={folder / CONFIG} --workdir=DIR")
    return folder / REPORT


def some(files: tuple[str, ...]) -> str:
    if not files:
        return ""
    return f": {', '.join(files[:LISTED])}{', ...' if len(files) > LISTED else ''}"


def size_for(found: Survey) -> tuple[int, int]:
    """About as wide as high as the images are, both multiples of 16."""
    sizes = np.array([f.size for f in found.readable] or [(SMALL, SMALL)])
    aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
    whole = lambda n: max(16, 16 * round(n / 16))  # noqa: E731
    return (SMALL, whole(SMALL * aspect)) if aspect >= 1 else (whole(SMALL / aspect), SMALL)


def configuration(found: Survey, root: Path) -> str:
    """config.py: settings for hours on two cores or minutes on an accelerator, to begin with."""
    names = [name or "train" for name in found.splits]
    train = "train" if "train" in names else max(names, key=lambda n: len(found.splits.get(n, ())))
    others = [name for name in ("test", "val", "validation", *names) if name in names and name != train]
    held = others[0] if others else train
    lines = [
        f'"""A first training on {root}.',
        "",
        "Command:  python -m semdiff.main --config=THIS FILE --workdir=DIR",
        '"""',
        "",
        "from semdiff import presets",
        "",
        "",
        "def get_config():",
        "    config = presets.camvid()",
        f"    config.data.root = {str(root)!r}",
        f"    config.data.split, config.data.eval_split = {train!r}, {held!r}",
        f"    config.data.size = {size_for(found)}",
    ]
    if survey.of_other_size(found, scaled=True):
        lines.append('    config.data.mismatch = "resize_label"')
    if sum(map(len, found.splits.values())) > 5000:
        lines.append("    config.data.cache = False")
    return "\n".join([*lines, "    return config", ""])


# The report


def page(found: Survey, written: dict) -> str:
    said = "".join(
        f"<li class={'stops' if f.stops else 'note'}>{html.escape(f.what)}<small>{html.escape(some(f.files))}</small></li>"
        for f in found.findings
    )
    counts = "".join(
        f"<tr><td>{html.escape(split or '(no splits)')}</td><td>{len(facts)}</td></tr>"
        for split, facts in found.splits.items()
    )
    proposal = f"<h2>{CLASSES}</h2><pre>{html.escape(json.dumps(written, indent=1))}</pre>" if written else ""
    return f"""<!doctype html><meta charset=utf-8><title>{html.escape(found.root.name)}</title>
<style>body{{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}} td,th{{padding:2px 8px;text-align:left}}
.bar{{background:#4682b4;height:10px;display:inline-block}} .stops{{color:#b00020}} .note{{color:#555}} small{{color:#888}}
.swatch{{width:24px;height:14px;display:inline-block;border:1px solid #888}} figure{{display:inline-block;margin:4px}}
figcaption{{font-size:12px;color:#555}}</style>
<h1>{html.escape(str(found.root))}</h1>
<table>{counts}</table>
<h2>What was found</h2><ul>{said or "<li>nothing to mend</li>"}</ul>
<h2>Values of the label maps</h2>{table(found)}
{proposal}
<h2>Examples</h2><p>The image, its label map, and the one over the other.</p>{"".join(map(figure(found), shown(found)))}
"""


def table(found: Survey) -> str:
    pixels, images = found.pixels, found.images
    total, many = max(sum(pixels.values()), 1), len(pixels) > survey.MOST_COLOURS
    if many:
        return f"<p>{len(pixels)} of them: no table.</p>"
    rows = []
    for value, colour in zip(sorted(pixels), palette_of(found).tolist()):
        share = pixels[value] / total
        rows.append(
            f"<tr><td><span class=swatch style='background:rgb({colour[0]},{colour[1]},{colour[2]})'></span></td>"
            f"<td>{html.escape(found.named(value))}</td><td>{images[value]} images</td><td>{share:.3%}</td>"
            f"<td><span class=bar style='width:{300 * share:.0f}px'></span></td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def palette_of(found: Survey) -> np.ndarray:
    """A colour for each value, in their order: its own, that of its class or of the files' palette, or one of ours."""
    values, description = sorted(found.pixels), found.description
    if found.colours:
        return np.array([[v % 256, v // 256 % 256, v // 65536] for v in values], np.uint8)
    if description is not None:
        ids, colours = description.labels.ids, description.info.palette
        known = [ids[v] if v < len(ids) else -1 for v in values]
        return np.array([colours[i] if i >= 0 else (0, 0, 0) for i in known], np.uint8)
    stored = next((f.palette for f in found.readable if f.palette), ())
    if values and len(stored) > values[-1]:
        return np.array([stored[v] for v in values], np.uint8)
    return np.array(classes.distinct_colours(len(values)), np.uint8)


def shown(found: Survey) -> list[Facts]:
    """From all over."""
    readable = found.readable
    return (
        [readable[i] for i in sorted(set(np.linspace(0, len(readable) - 1, SHOWN).astype(int)))]
        if readable
        else []
    )


def figure(found: Survey):
    values, palette = np.array(sorted(found.pixels)), palette_of(found)

    def of(facts: Facts) -> str:
        image = Image.fromarray(read_image(facts.image))
        raw = survey.raw_values(Path(facts.label))
        place = np.searchsorted(values, raw).clip(0, len(palette) - 1)
        size = WIDTH, max(1, round(WIDTH * image.height / image.width))
        photo = np.asarray(image.resize(size))
        coloured = np.asarray(Image.fromarray(palette[place]).resize(size, Image.Resampling.NEAREST))
        over = ((photo.astype(int) + coloured) // 2).astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(draw.grid([[photo, coloured, over]])).save(data, "PNG")
        encoded = base64.b64encode(data.getvalue()).decode()
        caption = f"<figcaption>{html.escape(facts.name)}</figcaption>"
        return f"<figure><img src='data:image/png;base64,{encoded}'>{caption}</figure>"

    return of
