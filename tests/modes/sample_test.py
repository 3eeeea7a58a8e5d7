"""Sampling and editing: what an image depends on, and what is written beside it."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import changed, random_model, tiny_experiment, two_levels

from semdiff import inputs
from semdiff.config import ConfigError, Layout, Sample
from semdiff.data import augment
from semdiff.data.classes import read_description
from semdiff.data.images import DataError
from semdiff.diffusion import samplers, schedules, solvers
from semdiff.diffusion.joint import ByHalf
from semdiff.methods import build
from semdiff.modes import edit, sample
from semdiff.sampling import chains, outputs, tasks


@pytest.fixture(scope="module")
def setting():
    """A random network of the tiny experiment, without edges."""
    config = two_levels()
    return random_model(replace(config, data=replace(config.data, edges=False)))


def layouts_folder(root, sizes, classes=16):
    rng = np.random.default_rng(0)
    (root / "labels").mkdir(parents=True)
    for i, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, classes, size, dtype=np.uint8)).save(
            root / "labels" / f"scene_{i}.png"
        )
    return str(root / "labels")


def run(setting, folder, **changes):
    return sample.sample(changed(setting, sample=changes | {"output": str(folder)}), folder)


def images_of(folder):
    return {p.name: np.asarray(Image.open(p)) for p in sorted((folder / "images").glob("*.png"))}


def test_a_folder_of_layouts_becomes_images_labels_and_a_manifest(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8), (7, 9), (8, 8)])
    out = run(setting, tmp_path / "out", layouts=layouts, per_layout=2, size=(-1, -1))
    images = images_of(out)
    assert len(images) == 6
    assert images["scene_1_0.png"].shape == (7, 9, 3)  # odd sizes are padded and cut back
    assert (images["scene_0_0.png"] != images["scene_0_1.png"]).any()
    label = np.asarray(Image.open(out / "labels" / "scene_1_0.png"))
    np.testing.assert_array_equal(label, np.asarray(Image.open(f"{layouts}/scene_1.png")))
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {line["image"] for line in lines} == {f"images/{name}" for name in images}
    settings = lines[0]["settings"]
    assert (settings["seed"], settings["sampler"], settings["steps"]) == (0, "ancestral", 3)
    assert settings["checkpoint"] == "7/ema"
    assert len(settings["config"]) == 12


def test_layouts_are_resized_to_the_size_trained_at_and_that_is_said(setting, tmp_path, capsys):
    layouts = layouts_folder(tmp_path / "in", [(8, 8), (7, 9), (16, 16)])
    out = run(setting, tmp_path / "out", layouts=layouts)
    assert {image.shape for image in images_of(out).values()} == {(8, 8, 3)}
    assert np.asarray(Image.open(out / "labels" / "scene_2_0.png")).shape == (8, 8)
    printed = capsys.readouterr().out
    assert "scene_1 is 7 x 9: layouts are resized to 8 x 8" in printed
    assert "2 layouts were resized to 8 x 8" in printed
    other = run(setting, tmp_path / "other", layouts=layouts, size=(4, 6), limit=1)
    assert images_of(other)["scene_0_0.png"].shape == (4, 6, 3)
    with pytest.raises(ConfigError, match=r"sample\.size is \(0, 8\); expected"):
        run(setting, tmp_path / "wrong", layouts=layouts, size=(0, 8))


def test_weights_go_to_the_device_once(setting, tmp_path, monkeypatch):
    layouts, given, build = layouts_folder(tmp_path / "in", [(8, 8)] * 3), [], chains.build_generate

    def spied(*args):
        generate = build(*args)
        return lambda params, *rest, **options: given.append(params) or generate(params, *rest, **options)

    monkeypatch.setattr(chains, "build_generate", spied)
    run(setting, tmp_path / "out", layouts=layouts, batch_size=1)
    first, *others = map(jax.tree.leaves, given)
    assert len(others) == 2
    assert all(isinstance(leaf, jax.Array) for leaf in first)
    assert all(a is b for leaves in others for a, b in zip(first, leaves, strict=True))


def test_an_image_depends_on_layout_seed_and_copy_not_on_the_batch_or_the_name(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)] * 5)
    one = images_of(run(setting, tmp_path / "one", layouts=layouts, batch_size=1))
    many = images_of(run(setting, tmp_path / "many", layouts=layouts, batch_size=4))
    for name in one:
        assert np.abs(one[name].astype(int) - many[name]).max() <= 1  # rounding of other batch shapes
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "renamed.png").write_bytes(
        (tmp_path / "in" / "labels" / "scene_3.png").read_bytes()
    )
    renamed = images_of(run(setting, tmp_path / "renamed", layouts=str(tmp_path / "other"), batch_size=4))
    np.testing.assert_array_equal(renamed["renamed_0.png"], many["scene_3_0.png"])
    reseeded = images_of(run(setting, tmp_path / "seed", layouts=layouts, batch_size=4, seed=1))
    assert all((reseeded[name] != many[name]).any() for name in many)


def test_sampling_resumes_where_it_stopped(setting, tmp_path, capsys):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)] * 4)
    out = run(setting, tmp_path / "out", layouts=layouts)
    before = images_of(out)
    (out / "images" / "scene_2_0.png").unlink()
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"image": "images/sc')  # killed while writing
    kept = out / "images" / "scene_1_0.png"
    stamp = kept.stat().st_mtime_ns
    after = images_of(run(setting, out, layouts=layouts))
    assert kept.stat().st_mtime_ns == stamp
    assert after.keys() == before.keys()
    np.testing.assert_array_equal(after["scene_2_0.png"], before["scene_2_0.png"])
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"images/scene_{i}_0.png" for i in (0, 1, 3, 2)]


def test_other_settings_do_not_mix_into_one_folder(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)])
    out = run(setting, tmp_path / "out", layouts=layouts)
    with pytest.raises(ConfigError, match="written with other settings"):
        run(setting, out, layouts=layouts, steps=2)


def test_another_layout_of_the_same_name_is_not_taken_for_done(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)] * 2)
    out = run(setting, tmp_path / "out", layouts=layouts)
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(f"{layouts}/scene_1.png")
    with pytest.raises(ConfigError, match=r"scene_1_0.png was made from another layout"):
        run(setting, out, layouts=layouts)


def test_cached_modulation_gives_the_same_images(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)] * 2)
    plain = images_of(run(setting, tmp_path / "a", layouts=layouts, cache_condition=False))
    cached = images_of(run(setting, tmp_path / "b", layouts=layouts, cache_condition=True))
    for name in plain:
        assert np.abs(plain[name].astype(int) - cached[name]).max() <= 1


def test_an_order_is_for_those_that_have_one():
    build = lambda **keys: chains.build_sampler(Sample(**keys))  # noqa: E731
    assert build(sampler="deis", order=2) == solvers.DEIS(2)
    assert build(sampler="ipndm_v") == solvers.DEIS(clock="rho")
    assert build(sampler="unipc") == solvers.UniPC()
    assert build(sampler="ddim", eta=0.5) == samplers.DDIM(0.5)
    with pytest.raises(ConfigError, match=r"sample\.order is 2, but the ddim sampler has no choice .*ipndm"):
        build(sampler="ddim", order=2)
    with pytest.raises(ConfigError, match=r"sample\.order is 4; unipc has 1, 2, 3, or 0"):
        build(sampler="unipc", order=4)


def test_times_given_one_by_one_take_the_place_of_steps_and_spacing():
    c = Sample(steps=7, times=(1000.0, 300.0, 20.0))
    assert chains.build_times(schedules.linear(), c).tolist() == [1000, 300, 20, 0]
    assert chains.num_steps(c) == 3
    assert len(chains.build_times(schedules.linear(), Sample(steps=7, spacing="karras"))) == 8


def test_a_long_chain_is_one_program_run_in_parts_and_tells_of_them(setting, monkeypatch, caplog):
    spelled, params = setting.method, setting.params
    c = replace(setting.config.sample, steps=5, sampler="dpmpp_2m")  # one with a memory
    rng = np.random.default_rng(0)
    condition = {"layout": rng.integers(0, 16, (2, 8, 8)), "edges": None}
    known = ByHalf(rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    free = ByHalf(rng.random((2, 8, 8)) < 0.5)
    given = (condition, jax.random.split(jax.random.key(1), 2), (8, 8), known, free, 2.0)
    whole, told = chains.build_generate(spelled, c)(params, *given), []
    monkeypatch.setattr(chains, "LONG_CHAIN", 4)
    monkeypatch.setattr(chains, "SEGMENT", 2)
    generate = chains.build_generate(spelled, c, told.append)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        parts = generate(params, *given)
    np.testing.assert_array_equal(parts.image, whole.image)
    assert told == [2, 4, 5]
    assert caplog.text.count("Compiling jit(advance)") == 1


def test_eta_without_ddim_is_refused(setting):
    with pytest.raises(ConfigError, match="only the ddim sampler"):
        chains.build_generate(setting.method, replace(setting.config.sample, eta=0.5))


def test_batches_are_of_one_shape_and_nothing_is_lost(setting):
    config = tiny_experiment().sample
    sizes = [(8, 8), (8, 10), (7, 7), (8, 8), (10, 8), (8, 8)]
    examples = [{"name": str(i), "layout": np.zeros(size, np.uint8)} for i, size in enumerate(sizes)]
    made = [t for e in examples for t in tasks.tasks_of(setting.method, e, config)]
    batches = list(tasks.batched(made, 2))
    assert sorted(t.name for b in batches for t in b) == [str(i) for i in range(6)]
    assert all(len({t.canvas for t in b}) == 1 for b in batches)
    assert max(map(len, batches)) == 2


def editing(setting, tmp_path, **changes):
    layouts = layouts_folder(tmp_path / "new", [(9, 8)])
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images" / "scene_0.png")
    settings = dict(images=str(tmp_path / "images"), layouts=layouts) | changes
    out = edit.edit(changed(setting, edit=settings | {"output": str(tmp_path / "out")}), tmp_path)
    return image, images_of(out)["scene_0_0.png"]


def test_editing_keeps_the_rest_bit_for_bit(setting, tmp_path):
    mask = np.zeros((9, 8), np.uint8)
    mask[2:6, 3:7] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "scene_0.png")
    image, edited = editing(setting, tmp_path, masks=str(tmp_path / "masks"), resample=2)
    np.testing.assert_array_equal(edited[mask == 0], image[mask == 0])
    assert (edited[mask > 0] != image[mask > 0]).mean() > 0.5


def test_editing_frees_what_differs_between_layouts(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "as_new", [(9, 8)])
    old = np.asarray(Image.open(f"{layouts}/scene_0.png")).copy()
    old[4, 4] = (old[4, 4] + 1) % 16
    Image.fromarray(old).save(f"{layouts}/scene_0.png")
    image, edited = editing(setting, tmp_path, old_layouts=layouts, margin=1)
    changed = (edited != image).any(-1)
    free = np.zeros((9, 8), bool)
    free[4, 3:6] = free[3:6, 4] = True
    assert changed.any()
    assert not changed[~free].any()


def turned_edit(setting, tmp_path, layout, mask, size=(8, 12), orientation=6):
    """The one task of editing an image that is stored `size` and asks to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder, array, options in (
        ("images", np.arange(3 * np.prod(size), dtype=np.uint8).reshape(*size, 3), {"exif": exif}),
        ("layouts", layout, {}),
        ("masks", mask, {}),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "a.png", **options)
    c = replace(tiny_experiment().edit, **{f: str(tmp_path / f) for f in ("images", "layouts", "masks")})
    (task,) = edit.edit_tasks(
        setting.method, {"name": "a", "layout": layout}, None, c, tiny_experiment().sample
    )
    return task


@pytest.mark.parametrize("mask_is_stored", [False, True])
def test_editing_turns_what_was_drawn_on_stored_pixels_with_the_image(setting, tmp_path, mask_is_stored):
    layout = np.arange(96, dtype=np.uint8).reshape(8, 12) % 16
    mask = np.zeros((8, 12), np.uint8)
    mask[3, 1] = 255
    shown = np.rot90(mask, -1)
    task = turned_edit(setting, tmp_path, layout, mask if mask_is_stored else shown)
    assert task.known.image.shape[:2] == (12, 8)
    np.testing.assert_array_equal(task.layout, np.rot90(layout, -1))
    np.testing.assert_array_equal(task.free.image, shown > 0)


def test_editing_refuses_a_mask_that_fits_either_way(setting, tmp_path):
    square = np.zeros((8, 8), np.uint8)
    with pytest.raises(DataError, match=r"a\.png: .*a\.png, whose EXIF orientation is 6"):
        turned_edit(setting, tmp_path, square, square, (8, 8))


def test_editing_says_what_is_missing(setting, tmp_path):
    with pytest.raises(ConfigError, match=r"config.edit.images is empty"):
        edit.edit(setting, tmp_path)
    with pytest.raises(ConfigError, match=r"either config\.edit\.masks or"):
        editing(setting, tmp_path)


def test_image_keys_tell_shapes_apart():
    a, b = np.zeros((2, 8), np.int32), np.zeros((4, 4), np.int32)
    keys = [jax.random.key_data(tasks.image_key(0, 0, x)) for x in (a, b)]
    assert (keys[0] != keys[1]).any()


def test_padding_repeats_the_border():
    np.testing.assert_array_equal(augment.padded(np.array([[1, 2], [3, 4], [5, 6]]), 4)[2:, 1:], 6)


def test_squashed_layouts_keep_their_edges(setting):
    config = tiny_experiment()
    example = inputs.evaluation_source(config.data, 0)[0]
    small = augment.squash(example, (4, 4))
    spelled = build.build_method(config, inputs.training_source(config.data, 0).info)
    (task,) = tasks.tasks_of(spelled, example, config.sample, (4, 4))
    np.testing.assert_array_equal(task.given["edges"], augment.edges(small["instance"]))


@pytest.fixture(scope="module")
def scdm(setting):
    """The same network, its layout masked on the way."""
    config = replace(setting.config, layout=Layout(transition="absorbing", schedule="linear"))
    return replace(setting, config=config, method=build.build_method(config, setting.info))


def test_a_noised_layout_changes_the_image_and_its_noise_may_be_kept(scdm, setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)] * 3)
    clean = images_of(run(setting, tmp_path / "clean", layouts=layouts))
    fresh = images_of(run(scdm, tmp_path / "fresh", layouts=layouts))
    coherent = images_of(run(scdm, tmp_path / "coherent", layouts=layouts, layout_noise="coherent"))
    alone = images_of(run(scdm, tmp_path / "alone", layouts=layouts, batch_size=1))
    for name in clean:
        assert (clean[name] != fresh[name]).any()
        assert (coherent[name] != fresh[name]).any()
        assert np.abs(fresh[name].astype(int) - alone[name]).max() <= 1


def test_of_a_noised_layout_only_the_null_is_cached(scdm, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)] * 2)
    plain = images_of(run(scdm, tmp_path / "a", layouts=layouts, cache_condition=False))
    cached = images_of(run(scdm, tmp_path / "b", layouts=layouts, cache_condition=True))
    for name in plain:
        assert np.abs(plain[name].astype(int) - cached[name]).max() <= 1


def test_keeping_the_noise_of_a_clean_layout_is_refused(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)])
    with pytest.raises(ConfigError, match=r"layout_noise is coherent, but config.layout.transition is none"):
        run(setting, tmp_path / "out", layouts=layouts, layout_noise="coherent")


def test_pixels_without_a_label_are_refused_unless_their_value_is_known(setting, tmp_path):
    layouts = layouts_folder(tmp_path / "in", [(8, 8)])
    path = tmp_path / "in" / "labels" / "scene_0.png"
    label = np.asarray(Image.open(path)).copy()
    label[:4] = 255
    Image.fromarray(label).save(path)
    with pytest.raises(DataError, match=r"scene_0.png.*255 \(32 pixels\).*set config.sample.unlabelled"):
        run(setting, tmp_path / "refused", layouts=layouts)
    out = run(setting, tmp_path / "out", layouts=layouts, unlabelled=255)
    written = np.asarray(Image.open(out / "labels" / "scene_0_0.png"))
    np.testing.assert_array_equal(written, np.where(label == 255, 16, label))


def test_what_metrics_count_goes_with_the_images(setting, tmp_path):
    for name, scored in (("some", (0, 2)), ("all", None)):
        outputs.Output(tmp_path / name, {}, replace(setting.info, scored=scored))
        assert read_description(tmp_path / name / "dataset.json").info.scored == scored
