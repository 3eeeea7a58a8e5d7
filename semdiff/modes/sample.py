"""--mode=sample: layouts to images; words to images and layouts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from semdiff import inputs
from semdiff.config import ConfigError, Experiment
from semdiff.data.source import Info, Source
from semdiff.data.text import Vocabulary
from semdiff.machine import logs, parallel
from semdiff.machine.paths import local_path
from semdiff.sampling import chains
from semdiff.sampling.outputs import Output, run_tasks, settings_of
from semdiff.sampling.tasks import Runner, Task, held, tasks_of, unconditional
from semdiff.trained import Trained, enlarger

UNCONDITIONAL = "none"  # config.sample.captions, for images of which nothing is said


def sample(model: Trained, workdir: Path) -> Path:
    """Layouts (a folder's, else the evaluation split's) -> images, N per layout.

    A model of both halves makes the layout too, of captions (a file's, else the evaluation split's); the layouts of a folder
    are then held, pixels without a label are drawn with the image.
    """
    config, method, info, c = model.config, model.method, model.info, model.config.sample
    folder = local_path(c.output or workdir / "samples" / model.name, "config.sample.output")
    source, size = source_of(model)
    enlarge = enlarger(model)
    name = f"{model.name}, {enlarge.name}" if enlarge else model.name
    output = Output(folder, settings_of(config, name), info)
    mine = parallel.share(range(min(c.limit or len(source), len(source))))
    resized = Resized(size)
    tasks = (task for i in mine for task in held_tasks(model, resized.seen(source[i]), size))
    run = Runner(method, c)
    params = run.placed(model.params)
    total = len(mine) * c.per_layout
    logs.say(
        f"chains:  {chains.num_steps(c)} steps of {c.sampler}, {chains.passes(method, c)} passes of the network an image"
    )
    origin = c.layouts or c.captions or config.data.eval_split
    make = lambda batch: run(params, batch)  # noqa: E731
    if enlarge is not None:
        make = lambda batch: enlarge(batch, run(params, batch))  # noqa: E731
        logs.say(f"then:    {enlarge.chain}, by {enlarge.name}")
    run_tasks(make, run.batch_size, tasks, total, output, origin)
    resized.report()
    logs.say(f"{total} images in {output.folder}")
    return output.folder


def source_of(model: Trained) -> tuple[Source, tuple[int, int] | None]:
    """What to sample from, and at which size; None: at the layouts' own."""
    config, info, c = model.config, model.info, model.config.sample
    captions = captions_asked_for(model)
    if c.layouts:
        source = inputs.layouts_source(c.layouts, info, model.edges, c.unlabelled)
        return Captioned(source, captions) if captions else source, folder_size(config)
    if captions:
        return captions, config.data.size
    if c.captions == UNCONDITIONAL:
        return Nothing(c.limit or 1, info), config.data.size
    source = inputs.evaluation_source(config.data, config.seed)
    inputs.check_same_classes(info, source.info, model.edges)
    return inputs.told(config, source, model.language), config.data.size


def captions_asked_for(model: Trained) -> Source | None:
    """Those of config.sample.captions; words that the model has never seen are said."""
    c = model.config.sample
    if not c.captions or (c.captions == UNCONDITIONAL and model.method.process.layout is not None):
        return None
    if model.language is None:
        raise ConfigError(
            f"config.sample.captions is {c.captions}, but this model is not told of words: it makes images of layouts"
        )
    found = inputs.captions(model.config, model.info, model.language, c.captions, "config.sample.captions")
    if isinstance(model.language, Vocabulary):
        said = (found[i]["caption"] for i in range(len(found)))
        unknown = sorted({word for caption in said for word in model.language.unknown(caption)})
        words = "words that were in no caption of the training: "
        logs.say(f"{words}{', '.join(unknown[:20])}; the model reads them as ?" if unknown else "")
    return found


def held_tasks(model: Trained, example: dict, size: tuple[int, int] | None) -> Iterator[Task]:
    """The images to make of one example; a folder's layout is held by a model that would make its own."""
    config, c, method = model.config, model.config.sample, model.method
    if c.captions == UNCONDITIONAL and not c.layouts:
        for copy in range(c.per_layout):
            number = example["number"] * c.per_layout + copy
            yield replace(unconditional(method, example["name"], config.data.size, c.seed, number), copy=copy)
        return
    for task in tasks_of(method, example, c, size):
        holds = bool(c.layouts) and method.process.layout is not None
        yield held(task, method, layout=task.layout) if holds else task


class Nothing:
    """So many examples of which nothing is said."""

    def __init__(self, count: int, info: Info):
        self.count, self.info = count, info

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return {"name": f"image_{index:05}", "number": index}


class Captioned:
    """A source of layouts with what is said of their names."""

    def __init__(self, source: Source, captions: Source):
        self.source, self.captions, self.info = source, captions, source.info
        self.numbers = {captions[i]["name"]: i for i in range(len(captions))}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = self.source[index]
        number = self.numbers.get(example["name"])
        return example if number is None else {**self.captions[number], **example}


OWN_SIZES = (-1, -1)


def folder_size(config: Experiment) -> tuple[int, int] | None:
    """The size at which a folder of layouts is sampled; None: each at its own."""
    size = config.sample.size
    if size == OWN_SIZES:
        return None
    if size == (0, 0):
        return config.data.size
    if min(size) < 1:
        raise ConfigError(
            f"config.sample.size is {size}; expected (height, width), (0, 0) for config.data.size, or (-1, -1) for the "
            "layouts' own sizes"
        )
    return size


class Resized:
    """Says which layouts are not sampled at their own size: the first as it comes, their number at the end."""

    def __init__(self, size: tuple[int, int] | None):
        self.size, self.count = size, 0

    def seen(self, example: dict) -> dict:
        if self.size is None or "layout" not in example:
            return example
        own = example["layout"].shape
        if own != tuple(self.size):
            if not self.count:
                logs.say(
                    f"{example['name']} is {own[0]} x {own[1]}: layouts are resized to {self.size[0]} x {self.size[1]}. "
                    "config.sample.size sets another size, (-1, -1) keeps their own"
                )
            self.count += 1
        return example

    def report(self):
        if self.count:
            logs.say(f"{self.count} layouts were resized to {self.size[0]} x {self.size[1]}")
