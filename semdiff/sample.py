"""--mode=sample: layouts to images."""

from pathlib import Path

from semdiff import chains, inputs, logs, parallel
from semdiff.config import ConfigError, Experiment
from semdiff.outputs import Output, run_tasks, settings_of
from semdiff.paths import local_path
from semdiff.tasks import Runner, tasks_of
from semdiff.trained import Trained


def sample(model: Trained, workdir: Path) -> Path:
    """Layouts (a folder's, else the evaluation split's) -> images, N per layout."""
    config, method, info, c = model.config, model.method, model.info, model.config.sample
    folder = local_path(c.output or workdir / "samples" / model.name, "config.sample.output")
    if c.layouts:
        source = inputs.layouts_source(c.layouts, info, model.edges, c.unlabelled)
        size = folder_size(config)
    else:
        source, size = inputs.evaluation_source(config.data, config.seed), config.data.size
        inputs.check_same_classes(info, source.info, model.edges)
    output = Output(folder, settings_of(config, model.name), info)
    mine = parallel.share(range(min(c.limit or len(source), len(source))))
    resized = Resized(size)
    tasks = (t for i in mine for t in tasks_of(method, resized.seen(source[i]), c, size))
    run = Runner(method, c)
    params = run.placed(model.params)
    total = len(mine) * c.per_layout
    logs.say(
        f"chains:  {chains.num_steps(c)} steps of {c.sampler}, {chains.passes(method, c)} passes of the network an image"
    )
    origin = c.layouts or config.data.eval_split
    run_tasks(lambda batch: run(params, batch), run.batch_size, tasks, total, output, origin)
    resized.report()
    logs.say(f"{total} images in {output.folder}")
    return output.folder


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
        own = example["layout"].shape
        if self.size is not None and own != tuple(self.size):
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
