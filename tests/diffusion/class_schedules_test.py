"""Schedules of masking against exact arithmetic, in both precisions, and against the rule of the released code."""

import json
from decimal import Decimal, localcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.data import statistics
from semdiff.diffusion import class_schedules
from semdiff.diffusion.class_schedules import Cosine, Exponential

RATES = np.array([1e-4, 0.3, 1 - 1e-9, 1.0, 1 + 1e-9, 2.0, 1e4, 1e30])
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
RELEASED = json.loads(Path(__file__).with_name("released_gammas.json").read_text())


@pytest.fixture(params=["float32", "float64"])
def rtol(request):
    """Relative accuracy to be had in a precision. In float32 log lambda = 69 alone is known to 4e-6."""
    if request.param == "float64":
        request.getfixturevalue("x64")
    return {"float32": 2e-5, "float64": 1e-12}[request.param]


def times(*values):
    return jnp.asarray(values)


def whole(num_steps):
    return jnp.arange(num_steps + 1)


def pairs(points):
    """All s < t among these."""
    s, t = zip(*((s, t) for s in points for t in points if s < t))
    return jnp.asarray(s), jnp.asarray(t)


def points_of(num_steps):
    n = num_steps
    return list(range(n + 1)) if n < 20 else [0, 1, 2, n // 4, n // 2, 3 * n // 4, n - 2, n - 1, n]


def masked(rate, t, num_steps):
    """(lambda^u - 1) / (lambda - 1), u = t / T, to 60 digits."""
    rate, u = Decimal(float(rate)), Decimal(float(t)) / num_steps
    if rate == 1 or u in (0, 1):
        return u
    return ((rate.ln() * u).exp() - 1) / (rate - 1)


def cosine(t, num_steps, power):
    """cos^(2 power)(pi t / 2T) from its series, to 50 digits."""
    if t == num_steps:
        return Decimal(0)
    x = PI * Decimal(float(t)) / (2 * num_steps)
    term = total = Decimal(1)
    for n in range(1, 60):
        term *= -x * x / ((2 * n - 1) * (2 * n))
        total += term
    return total ** Decimal(2 * power)


def expected(lost, s, t):
    """(gamma_s - gamma_t, gamma_t) from lost(time) -> the list of 1 - gamma per class, all exact until they are rounded."""
    with localcontext(prec=60):
        at = {time: lost(time) for time in {*s.tolist(), *t.tolist()}}
        drop = [[float(b - a) for a, b in zip(at[i], at[j])] for i, j in zip(s.tolist(), t.tolist())]
        keep = [[float(1 - b) for b in at[j]] for j in t.tolist()]
    return np.array(drop), np.array(keep)


def _both(schedule, s, t):
    return schedule.drop(s, t), schedule.keep(t)


def computed(schedule, s, t):
    """drop and keep by themselves, and compiled: a division may then be a product with the reciprocal."""
    return _both(schedule, s, t), jax.jit(_both)(schedule, s, t)


def assert_is(schedule, lost, s, t, rtol):
    exact = expected(lost, s, t)
    for got in computed(schedule, s, t):
        for name, value, reference in zip(("drop", "keep"), got, exact):
            np.testing.assert_allclose(value, reference, rtol=rtol, err_msg=name)


@pytest.mark.parametrize("num_steps", [12, 1000])
def test_exponential_is_exact_for_every_rate(num_steps, rtol):
    """Near lambda = 1, where the formula is 0 / 0, at both ends, and where lambda^u overflows float32."""
    schedule = class_schedules.classwise(num_steps, RATES, floor=False)
    s, t = pairs(points_of(num_steps))
    assert_is(schedule, lambda time: [masked(rate, time, num_steps) for rate in RATES], s, t, rtol)


@pytest.mark.parametrize("num_steps", [12, 1000])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.5])
def test_cosine_is_exact(num_steps, power, rtol):
    """gamma = cos^(2 power)(pi u / 2): what goes at its flat ends is known as well as in the middle."""
    s, t = pairs(points_of(num_steps))
    assert_is(Cosine(num_steps, 2, power), lambda time: [1 - cosine(time, num_steps, power)] * 2, s, t, rtol)


def test_cosine_of_power_one_by_its_formula(x64):
    u = np.arange(13) / 12
    np.testing.assert_allclose(Cosine(12, 1).keep(whole(12))[:, 0], np.cos(np.pi / 2 * u) ** 2, atol=1e-15)


NAMES = ["classwise", "no_floor", "lag", "linear", "single", "cosine", "table"]


def every(num_steps=12):
    return {
        "classwise": class_schedules.classwise(num_steps, RATES),
        "no_floor": class_schedules.classwise(num_steps, RATES, floor=False),
        "lag": class_schedules.classwise(num_steps, RATES, floor=False, lag=1),
        "linear": class_schedules.linear(num_steps, 3),
        "single": class_schedules.linear(num_steps, 1),
        "cosine": Cosine(num_steps, 3),
        "table": class_schedules.table(np.linspace(1, [0.0, 0.25, 1.0], num_steps + 1)),
    }


@pytest.mark.parametrize("num_steps", [12, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_and_what_is_dropped_make_a_whole(name, num_steps, rtol):
    schedule = every(num_steps)[name]
    t = whole(num_steps)
    assert schedule.num_steps == num_steps
    for drop, keep in computed(schedule, 0 * t, t):
        assert keep.shape == drop.shape == (num_steps + 1, schedule.num_classes)
        assert keep.dtype == drop.dtype == jnp.result_type(float)
        np.testing.assert_allclose(keep + drop, 1, rtol=rtol)
        assert (np.diff(keep, axis=0) <= 0).all()
        assert (np.diff(drop, axis=0) >= 0).all()
    for nothing, _ in computed(schedule, t, t):
        np.testing.assert_array_equal(nothing, 0)


@pytest.mark.parametrize("num_steps", [1, 12, 41, 100, 1000])  # as a float32, 41 x (1 / 41) is not 1
@pytest.mark.parametrize("name", NAMES)
def test_all_is_there_at_the_start_and_nothing_at_the_end(name, num_steps, rtol):
    schedule, t = every(num_steps)[name], whole(num_steps)
    compiled = jax.jit(lambda schedule, t: schedule.keep(t))  # nothing is fused with other results here
    for keep in (schedule.keep(t), compiled(schedule, t)):
        np.testing.assert_array_equal(keep[0], 1)
        if name not in ("lag", "table"):
            np.testing.assert_array_equal(keep[-1], 0)


@pytest.mark.parametrize("name", NAMES)
def test_drops_add_up(name, rtol):
    """To the accuracy that float32 has of the numbers that are added."""
    schedule = every()[name]
    r, s, t = jnp.asarray([(r, s, t) for t in range(13) for s in range(t + 1) for r in range(s + 1)]).T
    whole, parts = schedule.drop(r, t), schedule.drop(r, s) + schedule.drop(s, t)
    np.testing.assert_allclose(parts, whole, rtol=rtol, atol=1e-7 if rtol > 1e-6 else 0)


def test_eta_0_is_linear(x64):
    u = np.arange(13)[:, None] / 12
    for eta, atol in ((0.0, 1e-15), (1e-10, 1e-8)):
        schedule = class_schedules.classwise(12, RATES, eta=eta, floor=False)
        np.testing.assert_allclose(schedule.keep(whole(12)), np.broadcast_to(1 - u, (13, 8)), atol=atol)
    linear = class_schedules.linear(12, 8)
    np.testing.assert_allclose(linear.keep(whole(12)), np.broadcast_to(1 - u, (13, 8)), atol=1e-15)


def test_eta_is_a_power_of_the_rates(x64):
    rates = np.array([0.3, 1.0, 2.0, 1e4])
    for floor in (False, True):
        got = class_schedules.classwise(12, rates, eta=0.5, floor=floor).keep(whole(12))
        same = class_schedules.classwise(12, np.sqrt(rates), floor=floor).keep(whole(12))
        np.testing.assert_allclose(got, same, rtol=1e-12, atol=1e-15)


def test_later_the_larger_the_rate(x64):
    keep = np.asarray(class_schedules.classwise(12, RATES[[0, 1, 3, 5, 6]], floor=False).keep(whole(12)))
    assert (np.diff(keep[1:-1], axis=1) > 0).all()


def test_a_huge_rate_keeps_all_until_the_end_and_a_tiny_one_nothing(rtol):
    schedule = Exponential(jnp.asarray([1e6, -1e6]), 1000)
    keep = schedule.keep(whole(1000))
    np.testing.assert_array_equal(keep[:, 0], np.arange(1001) < 1000)
    np.testing.assert_array_equal(keep[:, 1], np.arange(1001) == 0)
    np.testing.assert_array_equal(schedule.drop(times(0, 999), times(1, 1000)), [[0, 1], [1, 0]])


@pytest.mark.parametrize("lag", [0, 1])
def test_floor_is_the_released_codes_minimum(lag, rtol):
    """min(masked share, u) for each class: below lambda = 1 exactly linear, above untouched."""
    schedule = class_schedules.classwise(12, RATES, lag=lag)

    def lost(time):
        time = max(time - lag, 0)
        return [min(masked(rate, time, 12), Decimal(time) / 12) for rate in RATES]

    assert_is(schedule, lost, *pairs(range(13)), rtol)


def test_floor_acts_on_lambda_itself(x64):
    """With a negative eta a large rate is what makes lambda small."""
    schedule = class_schedules.classwise(12, np.array([0.5, 20.0]), eta=-1.0)
    linear = 1 - np.arange(13) / 12
    keep = np.asarray(schedule.keep(whole(12)))
    assert (keep[1:-1, 0] > linear[1:-1] + 0.01).all()
    np.testing.assert_allclose(keep[:, 1], linear, atol=1e-15)


def test_lag_is_the_same_one_step_later(x64):
    plain = class_schedules.classwise(12, RATES)
    late = class_schedules.classwise(12, RATES, lag=1)
    np.testing.assert_allclose(late.keep(whole(12))[1:], plain.keep(whole(12))[:-1], rtol=1e-13)
    np.testing.assert_array_equal(late.keep(times(0, 1)), 1)
    s, t = pairs(range(1, 13))
    np.testing.assert_allclose(late.drop(s, t), plain.drop(s - 1, t - 1), rtol=1e-13)
    np.testing.assert_array_equal(late.drop(times(0), times(1)), 0)
    assert (np.asarray(late.keep(times(12))) > 0).all()


def test_linear_lags_too(x64):
    linear = class_schedules.linear(12, 2, lag=1)
    np.testing.assert_allclose(linear.keep(times(0, 1, 7, 12))[:, 0], [1, 1, 0.5, 1 / 12], atol=1e-15)
    assert linear.shared is True


@pytest.mark.parametrize("name", ["classwise", "no_floor", "lag", "linear", "cosine"])
def test_real_times_lie_between_the_steps(name, x64):
    schedule = every()[name]
    assert schedule.continuous
    t = times(*range(1, 12))
    np.testing.assert_array_equal(schedule.keep(t), schedule.keep(t.astype(float)))
    between = schedule.keep(t + 0.5)
    assert ((between <= schedule.keep(t)) & (between >= schedule.keep(t + 1))).all()
    assert (np.asarray(between)[1:, -1] < np.asarray(schedule.keep(t))[1:, -1]).any()


def test_real_times_are_exact(rtol):
    s, t = times(0.25, 3.5, 0.0, 11.75), times(0.5, 10.25, 11.875, 12.0)
    schedule = class_schedules.classwise(12, RATES, floor=False)
    assert_is(schedule, lambda time: [masked(rate, time, 12) for rate in RATES], s, t, rtol)
    assert_is(Cosine(12, 1), lambda time: [1 - cosine(time, 12, 1.0)], s, t, rtol)


def test_a_table_is_as_given(x64):
    gamma = np.array([[1, 1, 1], [0.9, 1, 0.25], [0.9, 0.5, 0.25], [0, 0.125, 0]])
    schedule = class_schedules.table(gamma)
    assert (schedule.num_steps, schedule.num_classes, schedule.continuous) == (3, 3, False)
    np.testing.assert_array_equal(schedule.keep(times(0, 1, 2, 3, 1)), gamma[[0, 1, 2, 3, 1]])
    np.testing.assert_array_equal(schedule.drop(times(0, 1), times(3, 2)), gamma[[0, 1]] - gamma[[3, 2]])


def test_schedules_know_whether_classes_share_them():
    for name, schedule in every().items():
        assert schedule.shared is (name in ("linear", "single", "cosine"))
    assert class_schedules.table(np.array([[1, 1], [0.5, 0.5]])).shared is True
    assert class_schedules.table(np.array([[1, 1], [0.5, 0.25]])).shared is False
    assert class_schedules.table(np.array([[1.0], [0.5]])).shared is True


@pytest.mark.parametrize("name", sorted(RELEASED["gamma"]))
def test_released_gammas(name, x64):
    """The released code counts i = t - 1; it adds 1e-7 to a denominator, which is what the tolerance is for."""
    schedule = class_schedules.classwise(1000, statistics.released_rates(name), lag=1)
    keep = np.asarray(schedule.keep(jnp.asarray(RELEASED["i"]) + 1))
    for c, gammas in RELEASED["gamma"][name].items():
        np.testing.assert_allclose(keep[:, int(c)], gammas, atol=1e-6, err_msg=f"class {c}")


def test_medians_of_the_released_gammas_of_ade20k(x64):
    schedule = class_schedules.classwise(1000, statistics.released_rates("ade20k"))
    medians = np.median(schedule.keep(times(250, 500, 750, 999)), axis=1)
    np.testing.assert_allclose(medians, [0.995, 0.969, 0.822, 0.007], atol=6e-4)


@pytest.mark.parametrize("wrong", [0.0, -2.0, np.nan, np.inf, -np.inf])
def test_rates_that_have_no_logarithm_are_refused_by_class(wrong):
    rates = np.array([1.0, 3.0, wrong, 2.0])
    for check in (class_schedules.check_rates, lambda rates: class_schedules.classwise(10, rates)):
        with pytest.raises(ValueError, match=rf"must be positive.*class 2: {wrong:g}\. For a class"):
            check(rates)


def test_many_wrong_rates_are_named_up_to_five():
    with pytest.raises(ValueError) as error:
        class_schedules.check_rates(np.array([1, *[0] * 6]))
    assert ", ".join(f"class {c}: 0" for c in range(1, 6)) + ", ..." in str(error.value)
    assert "class 6" not in str(error.value)
    with pytest.raises(ValueError) as error:
        class_schedules.check_rates(np.zeros(5))
    assert "class 4: 0. For" in str(error.value)


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (1, 3)], ids=str)
def test_rates_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"one number per class, got an array \("):
        class_schedules.check_rates(np.ones(shape))


def test_right_rates_come_back_in_float64():
    rates = class_schedules.check_rates(np.array([1, 2, 1e-300], object))
    assert rates.dtype == np.float64
    assert rates.tolist() == [1, 2, 1e-300]


@pytest.mark.parametrize(
    ("t", "c", "value", "said"),
    [
        (0, 1, 0.99, "class 1 has 0.99 at t = 0"),  # does not start at 1
        (0, 1, 1.5, "class 1 has 1.5 at t = 0"),
        (2, 0, 0.7, "class 0 has 0.7 at t = 2"),  # rises
        (1, 2, 1.25, "class 2 has 1.25 at t = 1"),
        (3, 2, -0.25, "class 2 has -0.25 at t = 3"),
        (3, 1, np.nan, "class 1 has nan at t = 3"),
        (1, 1, np.inf, "class 1 has inf at t = 1"),
    ],
)
def test_tables_that_are_no_probabilities_are_refused_by_class(t, c, value, said):
    gamma = np.linspace(1, [0.0, 0.25, 0.5], 4)
    assert class_schedules.table(gamma).num_steps == 3
    gamma[t, c] = value
    with pytest.raises(ValueError, match="start at 1") as error:
        class_schedules.table(gamma)
    assert said in str(error.value)


@pytest.mark.parametrize("shape", [(), (4,), (1, 3), (4, 0), (4, 3, 2)], ids=str)
def test_tables_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \[T \+ 1, K\], got \("):
        class_schedules.table(np.ones(shape))
