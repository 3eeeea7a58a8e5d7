"""What a paper is made of: conditions, nulls, guidance and the network's clock."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import classes, random_model, tiny_experiment

from semdiff import config
from semdiff.diffusion import categorical, class_schedules, gaussian, guidance, joint, schedules
from semdiff.diffusion.joint import ByHalf, State
from semdiff.diffusion.losses import UniformTime
from semdiff.methods import build, networks, parts, space
from semdiff.methods.given import LayoutGiven
from semdiff.methods.method import Method


class Echo:
    """A network that shows what it was given: the layout's first pixel plus the edges, in channels."""

    clock = "steps"

    def apply(self, params, state, time, condition, dropout_keys=None):
        shown = condition["layout"][..., None] + (
            0 if condition["edges"] is None else condition["edges"][..., None]
        )
        mean = params["scale"] * jnp.broadcast_to(shown.astype(jnp.float32), state.image.shape)
        return ByHalf(jnp.concatenate([mean, 0.5 * mean + time[:, None, None, None]], -1))

    def cache(self, params, condition):
        return None


class Spy(Echo):
    """Notes what it is called with. What it keeps of a condition is the layout and the edges in one."""

    def __init__(self):
        self.shown, self.cached = [], []

    def apply(self, params, state, time, condition, dropout_keys=None):
        if "both" in condition:
            both = jnp.broadcast_to(condition["both"], state.image.shape[:3])
            return super().apply(params, state, time, {"layout": both, "edges": None})
        edges = condition["edges"]
        self.shown.append((np.asarray(condition["layout"]), None if edges is None else np.asarray(edges)))
        return super().apply(params, state, time, condition)

    def cache(self, params, condition):
        self.cached.append(np.asarray(condition["layout"]))
        return {"both": condition["layout"] + condition["edges"]}


ONE, SOME = {"scale": jnp.float32(1.0)}, {"scale": jnp.float32(0.3)}


def spelled(dropout=0.0, **changes):
    process = joint.Process(gaussian.Gaussian(schedules.linear(1000)))
    given = LayoutGiven(num_classes=3, edges=True, dropout=dropout)
    return dataclasses.replace(Method(process, Echo(), given), **changes)


def condition(batch=2):
    return {"layout": jnp.ones((batch, 4, 4), jnp.int32), "edges": jnp.ones((batch, 4, 4), jnp.uint8)}


def keys(n=2):
    return jax.random.split(jax.random.key(0), n)


def test_the_null_condition_is_neither_a_class_nor_the_mask():
    null = spelled().given.null(condition())
    assert set(np.unique(null["layout"])) == {4}  # K = 3: classes 0..2, MASK 3
    assert not np.asarray(null["edges"]).any()


def test_pixels_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(space.to_pixels(space.to_unit(pixels)), pixels)


@pytest.mark.parametrize(
    ("steps", "t", "clock"), [(1000, 1, 0), (1000, 1000, 999), (100, 1, 0), (100, 51, 500)]
)
def test_networks_see_the_clock_they_were_trained_on(steps, t, clock):
    m = spelled(process=joint.Process(gaussian.Gaussian(schedules.linear(steps))))
    assert float(m.network_time(jnp.asarray(t))) == pytest.approx(clock)


def raw_output(guide, t=500):
    """The network's guided output, through a process that hands it on: eps is read directly."""
    m = spelled()
    denoise = m.denoise_fn(ONE, condition(), guide)
    return denoise(State(jnp.zeros((2, 4, 4, 3))), jnp.asarray(t), keys()).image


def test_guidance_moves_from_null_towards_the_condition():
    given, absent = 1.0 + 1.0, 4.0  # what Echo shows of the condition, and of the null
    for weight in (0.0, 1.0, 1.5, 3.0):
        eps = raw_output(guidance.Guidance(weight)).eps
        np.testing.assert_allclose(eps, absent + weight * (given - absent), rtol=1e-5)


def test_guidance_on_the_mean_leaves_the_variance_to_the_condition():
    plain = raw_output(guidance.Guidance(1.0)).fraction
    np.testing.assert_allclose(raw_output(guidance.Guidance(3.0)).fraction, plain)
    assert np.abs(raw_output(guidance.Guidance(3.0, "all")).fraction - plain).max() > 0.1


@pytest.mark.parametrize(("t", "acts"), [(100, False), (300, True), (600, True), (601, False)])
def test_guidance_acts_inside_its_interval(t, acts):
    eps = raw_output(guidance.Guidance(3.0, interval=(0.2, 0.6)), t).eps
    assert bool(np.allclose(eps, 2.0)) is not acts


def batch(n=64):
    return {
        "image": np.zeros((n, 4, 4, 3), np.uint8),
        "layout": np.ones((n, 4, 4), np.int32),
        "edges": np.ones((n, 4, 4), np.uint8),
    }


def seen(m, train=True):
    """What each example's network was shown."""
    m = dataclasses.replace(m, network=Spy())
    m.loss(ONE, batch(), keys(64), UniformTime(1000), train)
    return m.network.shown[0]


def test_condition_dropout_drops_layout_and_edges_of_whole_examples():
    layout, edges = seen(spelled(dropout=0.25))
    dropped = (layout == 4).all((1, 2))
    assert ((layout == 1).all((1, 2)) | dropped).all()
    np.testing.assert_array_equal(edges.any((1, 2)), ~dropped)
    assert 4 <= dropped.sum() <= 30


def test_nothing_is_dropped_in_validation():
    layout, _ = seen(spelled(dropout=0.9), train=False)
    assert (layout == 1).all()


def test_an_examples_loss_depends_on_its_own_key_alone():
    m, all_keys = spelled(), keys(4)
    whole, t, _ = m.loss(SOME, batch(4), all_keys, UniformTime(1000))
    part, t_part, _ = m.loss(SOME, batch(2), all_keys[2:], UniformTime(1000))
    np.testing.assert_array_equal(t[2:], t_part)
    np.testing.assert_allclose(whole["loss"][2:], part["loss"], rtol=1e-5)


# A layout process


RATES = np.array([0.5, 20.0, 3000.0])
MASK, NULL = 3, 4


def noising(schedule=None, dropout=0.0, **changes):
    """SCDM: K = 3 classes, masked at very different times."""
    schedule = schedule or class_schedules.classwise(1000, RATES)
    given = LayoutGiven(3, True, categorical.Categorical(schedule), dropout)
    return spelled(network=Spy(), given=given, **changes)


def large_batch(n=24, side=40):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, side, side, 3)), jnp.uint8),
        "layout": jnp.asarray(rng.integers(0, 3, (n, side, side)), jnp.int32),
        "edges": jnp.asarray(rng.integers(0, 2, (n, side, side)), jnp.uint8),
    }


def assert_kept(shown, layout, gamma):
    """Each class shows itself or MASK, itself with the share gamma."""
    layout = np.asarray(layout)
    kept = shown == layout
    assert (kept | (shown == MASK)).all()
    for c in range(3):
        of_class = layout == c
        assert kept[of_class].mean() == pytest.approx(gamma[c], abs=2.5 / np.sqrt(of_class.sum()))


def test_the_network_sees_each_class_with_its_own_share_at_the_images_time():
    m, data = noising(), large_batch()
    _, t, _ = m.loss(ONE, data, keys(24), UniformTime(1000))
    [(layouts, edges)] = m.network.shown
    np.testing.assert_array_equal(edges, data["edges"])  # borders between instances are never masked
    gammas = np.asarray(m.given.process.schedule.keep(t))
    assert gammas.min() < 0.2  # there is something to tell apart
    assert np.ptp(gammas, axis=1).max() > 0.5
    for shown, layout, gamma in zip(layouts, data["layout"], gammas):
        assert_kept(shown, layout, gamma)


def test_masks_are_of_the_very_time_of_the_image():
    """A layout that is whole before t = 7 and gone from then on."""
    process = joint.Process(gaussian.Gaussian(schedules.linear(50)))
    step = class_schedules.table(np.repeat(np.arange(51)[:, None] < 7, 3, 1))
    m = noising(step, process=process)
    _, t, _ = m.loss(ONE, large_batch(64, 4), keys(64), UniformTime(50))
    [(layouts, _)] = m.network.shown
    assert {6, 7} <= set(np.asarray(t).tolist())
    for shown, time in zip(layouts, np.asarray(t)):
        assert (shown == MASK).all() if time >= 7 else (shown < MASK).all()


def test_an_examples_mask_depends_on_its_own_key_alone():
    m, data = noising(), large_batch(4)
    m.loss(ONE, data, keys(4), UniformTime(1000))
    m.loss(ONE, {k: v[2:] for k, v in data.items()}, keys(4)[2:], UniformTime(1000))
    (whole, _), (part, _) = m.network.shown
    np.testing.assert_array_equal(whole[2:], part)


def test_a_masked_pixel_is_not_an_absent_condition():
    """Whole examples become null; pixels become MASK; validation masks too, but drops nothing."""
    m, data = noising(dropout=0.4), large_batch()
    for train in (True, False):
        m.loss(ONE, data, keys(24), UniformTime(1000), train)
    (layout, edges), (validated, _) = m.network.shown
    dropped = (layout == NULL).all((1, 2))
    assert 3 < dropped.sum() < 21
    assert not (layout[~dropped] == NULL).any()
    assert (layout[~dropped] == MASK).any()
    assert not edges[dropped].any()
    assert not (validated == NULL).any()
    assert (validated == MASK).any()


def test_at_gamma_1_it_is_sdm():
    """The same losses from the same keys, bit for bit: masking draws from keys of its own."""
    data, clean = large_batch(6), class_schedules.table(np.ones((1001, 3)))
    losses = [
        m.loss(SOME, data, keys(6), UniformTime(1000))
        for m in (spelled(dropout=0.4), noising(clean, dropout=0.4))
    ]
    jax.tree.map(np.testing.assert_array_equal, *losses)
    noised = noising().loss(SOME, data, keys(6), UniformTime(1000))
    assert (np.asarray(noised[0]["loss"]) != losses[0][0]["loss"]).any()


def large_condition(n=2, side=24):
    return noising().given.condition(large_batch(n, side))


def layouts_at(m, given, times, step_keys, **options):
    """What the network is shown at each of these times."""
    denoise = m.denoise_fn(ONE, given, guidance.Guidance(1.0), **options)
    before = len(m.network.shown)
    for t, key in zip(times, step_keys):
        denoise(State(jnp.zeros((*given["layout"].shape, 3))), jnp.asarray(t), key)
    for _, edges in m.network.shown[before:]:
        np.testing.assert_array_equal(edges, given["edges"])
    return [layout for layout, _ in m.network.shown[before:]]


def keys_of(*seeds):
    return [jax.random.split(jax.random.key(seed), 2) for seed in seeds]


def test_sampling_masks_afresh_at_each_step():
    m, given = noising(), large_condition()
    first, again, other = layouts_at(m, given, [700] * 3, keys_of(1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert ((first == MASK)[0] != (first == MASK)[1]).any()
    early, late = layouts_at(m, given, [300, 700], keys_of(1, 2))
    assert ((early == MASK) & (late != MASK)).any()  # no trajectory
    for shown, t in ((first, 700), (early, 300)):
        assert_kept(shown, given["layout"], m.given.process.schedule.keep(jnp.asarray([t]))[0])


def test_with_layout_keys_masks_only_open_up():
    m, given = noising(), large_condition()
    times, (kept_keys, other_keys) = [1000, 950, 700, 400, 100, 1], keys_of(10, 11)
    chain = layouts_at(m, given, times, keys_of(*range(6)), condition_keys=kept_keys)
    masks = [layout == MASK for layout in chain]
    assert masks[0].all()
    for later, earlier in itertools.pairwise(masks):
        assert not (earlier & ~later).any()
        assert earlier.sum() < later.sum()
    other_steps = layouts_at(m, given, times, keys_of(*range(20, 26)), condition_keys=kept_keys)
    np.testing.assert_array_equal(chain, other_steps)
    other_masks = layouts_at(m, given, times, keys_of(*range(6)), condition_keys=other_keys)
    assert (other_masks[2] != chain[2]).any()
    assert (masks[2][0] != masks[2][1]).any()


def test_a_clean_layout_ignores_every_key():
    given = large_condition()
    for options in ({}, {"condition_keys": keys_of(5)[0]}):
        for layout in layouts_at(spelled(network=Spy()), given, [1000, 3], keys_of(1, 2), **options):
            np.testing.assert_array_equal(layout, given["layout"])


@pytest.mark.parametrize("cached", [False, True])
def test_a_masked_pixel_is_guided_away_from_null(cached):
    """Echo shows classes 1, MASK 3 and null 4; the prediction is the same with the modulation kept."""
    m, weight = noising(), 2.0
    given = {"layout": jnp.ones((2, 8, 8), jnp.int32), "edges": jnp.zeros((2, 8, 8), jnp.uint8)}
    denoise = m.denoise_fn(ONE, given, guidance.Guidance(weight), cache=cached)
    for key in keys_of(0, 1):
        eps = np.asarray(denoise(State(jnp.zeros((2, 8, 8, 3))), jnp.asarray(995), key).image.eps)
        shown = next(layout for layout, _ in reversed(m.network.shown) if not (layout == NULL).all())
        assert set(np.unique(shown)) == {1, MASK}
        np.testing.assert_allclose(
            eps, np.repeat((NULL + weight * (shown - NULL))[..., None], 3, -1), rtol=1e-5
        )


def test_what_does_not_change_is_modulated_once():
    """Of a noised layout nothing is kept but the null condition; of a clean one both."""
    guide, given = guidance.Guidance(2.0), condition()
    for m, expected in ((noising(), [NULL]), (spelled(network=Spy()), [NULL, 1])):
        denoise = m.denoise_fn(ONE, given, guide, cache=True)
        for t, key in zip((900, 500, 100), keys_of(1, 2, 3)):
            denoise(State(jnp.zeros((2, 4, 4, 3))), jnp.asarray(t), key)
        assert [set(np.unique(layout)) for layout in m.network.cached] == [{i} for i in expected]
        assert len(m.network.cached[0]) == 1  # the null condition is the same for all
        assert len(m.network.shown) == (3 if expected == [NULL] else 0)
    m = noising()
    m.denoise_fn(ONE, given, guidance.Guidance(1.0), cache=True)
    assert not m.network.cached  # without guidance no null


def test_a_modulation_that_takes_too_much_is_not_kept(monkeypatch):
    """That of one layout, and of two."""
    model = random_model(tiny_experiment())
    network, params = model.method.network, model.params
    one, two = (model.method.given.condition(large_batch(n, 8)) for n in (1, 2))
    limit = networks.size_of(network.cache(params, one))
    monkeypatch.setattr(networks, "CACHE_LIMIT", limit)
    assert network.cache(params, one) is not None
    assert network.cache(params, two) is None


# From a configuration


def layout_process(read=None, **layout):
    """For 3 classes and 50 steps; `read` is what config.layout.rates has named."""
    layout = config.Layout(**({"transition": "absorbing"} | layout))
    experiment = dataclasses.replace(tiny_experiment(), layout=layout)
    return parts.layout_process(experiment, 3, read)


OPTIONS = {
    "classwise": {"eta": 0.5, "floor": False, "lag": 1},
    "linear": {"lag": 1},
    "cosine": {},
    "table": {},
}


def test_a_layout_process_by_its_configuration(x64):
    t = jnp.arange(51)
    expected = {
        "classwise": class_schedules.classwise(50, RATES, 0.5, floor=False, lag=1),
        "linear": class_schedules.linear(50, 3, lag=1),
        "cosine": class_schedules.Cosine(50, 3),
        "table": class_schedules.table(np.linspace(1, [0, 0.5, 1], 51)),
    }
    for name, schedule in expected.items():
        read = np.linspace(1, [0, 0.5, 1], 51) if name == "table" else RATES
        process = layout_process(read, schedule=name, **OPTIONS[name])
        assert process.transition == "absorbing"
        assert process.mask_id == MASK
        assert type(process.schedule) is type(schedule)
        np.testing.assert_array_equal(process.schedule.keep(t), schedule.keep(t))
    default = layout_process(RATES).schedule.keep(t)
    np.testing.assert_array_equal(default, class_schedules.classwise(50, RATES).keep(t))


def test_without_a_transition_there_is_no_layout_process():
    assert layout_process(transition="none") is None
    assert layout_process(transition="none", schedule="unknown", lag=7) is None
    assert build.build_method(tiny_experiment(), classes(16, True)).given.process is None


@pytest.mark.parametrize(
    ("said", "read", "layout"),
    [
        (r"config\.layout\.lag is 2; expected 0, or", RATES, {"lag": 2}),
        (r"config\.layout\.lag is 1; .*classwise or linear", RATES, {"lag": 1, "schedule": "cosine"}),
        (r"config\.layout\.eta is 0\.5 .*not linear", RATES, {"eta": 0.5, "schedule": "linear"}),
        (r"config\.layout\.lag is -1", RATES, {"lag": -1}),
        (
            r"config\.layout\.rates=x\.npy is for 2 classes and 50 steps; .*have 3 classes",
            RATES[:2],
            {"rates": "x.npy"},
        ),
        (
            r"rates=x\.npy is for 3 classes and 40 steps; .*config\.process\.steps is 50",
            np.ones((41, 3)),
            {"rates": "x.npy", "schedule": "table"},
        ),
        (
            r"rates=x\.npy is for 2 classes and 50 steps",
            np.ones((51, 2)),
            {"rates": "x.npy", "schedule": "table"},
        ),
    ],
)
def test_layout_processes_that_cannot_be_are_refused(said, read, layout):
    with pytest.raises(config.ConfigError, match=said):
        layout_process(read, **layout)


def test_a_table_of_whole_times_does_not_go_with_images_in_real_time():
    experiment = tiny_experiment()
    experiment = dataclasses.replace(
        experiment,
        layout=config.Layout(transition="absorbing", schedule="table", rates="x.npy"),
        process=dataclasses.replace(experiment.process, schedule="cosine_log_snr"),
    )
    with pytest.raises(
        config.ConfigError, match=r"layout\.schedule is table, .*process\.schedule is cosine_log_snr"
    ):
        parts.layout_process(experiment, 3, np.ones((51, 3)))
