"""The categorical process against matrices by brute force, in float64, and against simulation of the chain."""

import itertools
import math
from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from semdiff.diffusion import categorical, class_schedules
from semdiff.diffusion.categorical import Categorical

T, K = 12, 5
RATES = np.array([0.2, 1.0, 1.7, 40.0, 3000.0])


def schedules():
    return {
        "classwise": class_schedules.classwise(T, RATES),
        "below_one": class_schedules.classwise(T, RATES, floor=False),
        "lag": class_schedules.classwise(T, RATES, lag=1),
        "linear": class_schedules.linear(T, K),
        "linear_lag": class_schedules.linear(T, K, lag=1),
        "cosine": class_schedules.Cosine(T, K),
        "table": class_schedules.table(np.linspace(1, [0.0, 0.1, 0.3, 0.5, 1.0], T + 1)),
    }


def absorbing():
    return {name: Categorical(s) for name, s in schedules().items()}


def processes():
    uniform = {f"uniform_{name}": Categorical(s, "uniform") for name, s in schedules().items() if s.shared}
    return absorbing() | uniform


NAMES = [
    "classwise",
    "below_one",
    "lag",
    "linear",
    "linear_lag",
    "cosine",
    "table",
    "uniform_linear",
    "uniform_linear_lag",
    "uniform_cosine",
]
PAIRS = [(s, t) for t in (1, 2, 7, T) for s in range(t)]


def times(t, batch=1):
    return jnp.full((batch,), t)


def keys(seed=0, batch=1):
    return jax.random.split(jax.random.key(seed), batch)


def step_matrix(process, t):
    """Q_t[i, j] = q(y_t = j | y_{t-1} = i), from the definition: keep the class or draw anew."""
    gamma = np.asarray(process.schedule.keep(jnp.arange(T + 1)))
    before, now = gamma[t - 1], gamma[t]
    keep = np.divide(now, before, out=np.ones(K), where=before > 0)
    states = process.num_states
    matrix = np.zeros((states, states))
    for c in range(K):
        matrix[c, c] += keep[c]
        if process.transition == "absorbing":
            matrix[c, K] += 1 - keep[c]
        else:
            matrix[c] += (1 - keep[c]) / K
    if process.transition == "absorbing":
        matrix[K, K] = 1
    return matrix


def matrix(process, s, t):
    """q(y_t | y_s), the product of the steps between."""
    product = np.eye(process.num_states)
    for step in range(s + 1, t + 1):
        product = product @ step_matrix(process, step)
    return product


def bayes(process, s, t):
    """posterior[c, j, i] = q(y_s = i | y_t = j, y_0 = c), and how likely y_t = j is given c."""
    marginal, onward = matrix(process, 0, s)[:K], matrix(process, s, t)
    joint = marginal[:, None, :] * onward.T[None]
    evidence = joint.sum(-1)
    return joint / np.where(evidence > 0, evidence, 1)[..., None], evidence


@pytest.mark.parametrize("name", NAMES)
def test_marginals_are_products_of_steps(name, x64):
    process = processes()[name]
    for t in range(T + 1):
        stay = np.asarray(process.schedule.keep(times(t)))[0]
        drawn = np.eye(K + 1)[K] if process.transition == "absorbing" else np.full(K, 1 / K)
        closed = stay[:, None] * np.eye(K, process.num_states) + (1 - stay)[:, None] * drawn
        np.testing.assert_allclose(matrix(process, 0, t)[:K], closed, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_transitions_compose_to_the_product_of_steps(name, x64):
    process = processes()[name]
    for s, t in PAIRS:
        stay, change = categorical.transition(process, times(s), times(t))
        reached = np.asarray(process.schedule.keep(times(s)))[0] > 0
        full = matrix(process, s, t)
        diagonal = np.diag(full)[:K] - (0 if process.transition == "absorbing" else full[0, 1])
        np.testing.assert_allclose(np.asarray(stay)[0][reached], diagonal[reached], atol=1e-12)
        np.testing.assert_allclose(np.asarray(stay + change), 1, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_posterior_is_bayes(name, s, t, x64):
    """For every (y_0, y_t) that can occur."""
    process = processes()[name]
    expected, evidence = bayes(process, s, t)
    y0, yt = (jnp.asarray(a)[None] for a in np.mgrid[:K, : process.num_states])
    got = np.exp(np.asarray(categorical.q_posterior(process, yt, y0, times(s), times(t)))[0])
    possible = evidence > 1e-15
    np.testing.assert_allclose(got[possible], expected[possible], atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("s", "t"), PAIRS)
def test_reverse_step_sums_the_posteriors(name, s, t, x64):
    """p(y_s | y_t) = sum over c of q(y_s | y_t, c) p(c | y_t), with the c that can have led to y_t."""
    process = processes()[name]
    posterior, evidence = bayes(process, s, t)
    p0 = np.random.default_rng(0).dirichlet(np.ones(K))
    belief = p0[:, None] * evidence  # a network that knows y_t gives impossible classes nothing
    reached = belief.sum(0) > 1e-15
    belief = belief / np.where(reached, belief.sum(0), 1)
    expected = np.einsum("cj,cji->ji", belief, posterior)
    yt = jnp.arange(process.num_states)[None, None]
    log_p0 = jnp.log(belief.T)[None, None]
    got = np.exp(np.asarray(categorical.log_reverse(process, yt, log_p0, times(s), times(t)))[0, 0])
    np.testing.assert_allclose(got[reached], expected[reached], atol=1e-11)
    np.testing.assert_allclose(got[reached].sum(-1), 1, atol=1e-11)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_posterior_of_the_mean_is_its_formula_with_probabilities_for_y_0(schedule, x64):
    """p(y_s | y_t) proportional to q(y_t | y_s) sum over c of q(y_s | c) p(c): GCDP's released code. Of a certain y_0 it is
    Bayes's; of others it is not the mixture."""
    process = Categorical(schedules()[schedule], "uniform", reverse="of_mean")
    mixture = replace(process, reverse="mixture")
    p0 = np.random.default_rng(0).dirichlet(np.ones(K))
    logits, yt = jnp.broadcast_to(jnp.log(p0) + 3.0, (1, 1, K, K)), jnp.arange(K)[None, None]
    for s, t in PAIRS:
        expected = (p0 @ matrix(process, 0, s))[None] * matrix(process, s, t).T
        expected /= expected.sum(-1, keepdims=True)
        got = categorical.log_reverse(process, yt, logits, times(s), times(t))
        np.testing.assert_allclose(np.exp(got)[0, 0], expected, atol=1e-11)
        y0, seen = (jnp.asarray(a)[None] for a in np.mgrid[:K, :K])
        certain = (categorical.q_posterior(p, seen, y0, times(s), times(t)) for p in (process, mixture))
        np.testing.assert_allclose(*(np.exp(np.asarray(c)) for c in certain), atol=1e-11)
    same, other = (
        categorical.log_reverse(p, yt, logits - 3.0, times(2), times(7)) for p in (process, mixture)
    )
    assert np.abs(np.exp(other) - np.exp(same)).max() > 0.01
    with pytest.raises(ValueError, match="reverse is 'of_mean', which absorbing"):
        Categorical(schedules()["linear"], reverse="of_mean")


def test_unmasking_without_the_class_would_be_wrong(x64):
    """The shared form, r = mean of the classes' r, is off by about 0.1 in total variation: the test above can tell."""
    process = absorbing()["classwise"]
    p0 = np.full(K, 1 / K)
    shown, _ = (np.asarray(p)[0] for p in categorical.reveal(process, times(4), times(8)))
    yt, log_p0 = jnp.full((1, 1, 1), K), jnp.log(p0)[None, None, None]
    right = np.exp(np.asarray(categorical.log_reverse(process, yt, log_p0, times(4), times(8)))).ravel()
    shared = np.append(p0 * (p0 @ shown), 1 - p0 @ shown)
    assert 0.05 < np.abs(right - shared).sum() / 2 < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_simulated_chain_has_the_marginals(name):
    """q_step from 0 to t, one step at a time, and q_sample at once, agree with gamma."""
    process, n = processes()[name], 20_000
    y0 = jnp.broadcast_to(jnp.arange(K)[None, :, None], (1, K, n))
    y, walk = y0, jax.jit(categorical.q_step)
    for t in range(1, 8):
        y = walk(process, y, times(t - 1), times(t), keys(t))
    at_once = categorical.q_sample(process, y0, times(7), keys(99))
    expected = matrix(process, 0, 7)[:K]
    for got in (y, at_once):
        share = np.stack([np.bincount(row, minlength=process.num_states) / n for row in np.asarray(got[0])])
        np.testing.assert_allclose(share, expected, atol=5 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("name", ["classwise", "lag", "uniform_cosine"])
def test_ancestral_chain_returns_the_data(name, x64):
    """Under the true p(y_0 | y_t), stepping T -> 8 -> 3 -> 0 has exactly the distribution of the data at the end."""
    process = processes()[name]
    p_data = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    state = p_data @ matrix(process, 0, T)[:K]
    for s, t in ((8, T), (3, 8), (0, 3)):
        joint = p_data[:, None] * matrix(process, 0, t)[:K]
        evidence = joint.sum(0)
        belief = jnp.log(jnp.asarray((joint / np.where(evidence > 0, evidence, 1)).T))[None, None]
        yt = jnp.arange(process.num_states)[None, None]
        step = np.exp(np.asarray(categorical.log_reverse(process, yt, belief, times(s), times(t)))[0, 0])
        state = state @ np.where(evidence[:, None] > 0, step, 0)
        np.testing.assert_allclose(state, p_data @ matrix(process, 0, s)[:K], atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_p_step_draws_what_log_reverse_says(name):
    process, n = processes()[name], 20_000
    logits = jnp.log(jnp.array([0.4, 0.3, 0.15, 0.1, 0.05])) + 3.0  # logits: not normalised
    yt = jnp.broadcast_to(jnp.arange(process.num_states)[None, :, None], (1, process.num_states, n))
    got = categorical.p_step(
        process, yt, jnp.broadcast_to(logits, (*yt.shape, K)), times(3), times(8), keys(1)
    )
    log_p0 = jax.nn.log_softmax(logits)[None, None, None]
    expected = [
        np.exp(categorical.log_reverse(process, jnp.full((1, 1, 1), j), log_p0, times(3), times(8))).ravel()
        for j in range(process.num_states)
    ]
    share = np.stack([np.bincount(row, minlength=process.num_states) / n for row in np.asarray(got[0])])
    np.testing.assert_allclose(share, expected, atol=5 * 0.5 / math.sqrt(n))


def test_unmasked_pixels_are_carried_over():
    process = absorbing()["classwise"]
    yt = jax.random.randint(jax.random.key(0), (2, 6, 6), 0, K + 1, jnp.int16)
    logits = jax.random.normal(jax.random.key(1), (2, 6, 6, K)) * 30
    ys = categorical.p_step(process, yt, logits, times(3, 2), times(8, 2), keys(2, 2))
    assert ys.dtype == yt.dtype
    shown = np.asarray(yt) < K
    np.testing.assert_array_equal(np.asarray(ys)[shown], np.asarray(yt)[shown])
    assert (np.asarray(ys)[~shown] < K).any()
    final = categorical.p_step(process, yt, logits, times(0, 2), times(8, 2), keys(2, 2))
    assert (np.asarray(final) < K).all()  # nothing is masked at 0


@pytest.mark.parametrize("name", ["classwise", "uniform_linear"])
def test_one_noise_makes_a_trajectory_that_only_opens_up(name):
    """Kept through all t: a pixel that shows its class at t shows it at every s < t."""
    process = processes()[name]
    y0 = jax.random.randint(jax.random.key(0), (1, 20, 20), 0, K)
    noise = categorical.noise(process, y0, keys(3))
    states = [np.asarray(categorical.diffuse(process, y0, times(t), *noise)) for t in range(T + 1)]
    np.testing.assert_array_equal(states[0], y0)
    for earlier, later in itertools.pairwise(states):
        changed = earlier != later
        np.testing.assert_array_equal(earlier[changed], np.asarray(y0)[changed])


def test_ids_that_are_no_class_stay_what_they_are():
    process = absorbing()["linear"]
    y0 = jnp.array([[[K, K + 1, -1, 0]]])
    at_end = categorical.q_sample(process, y0, times(T), keys())
    np.testing.assert_array_equal(at_end, [[[K, K + 1, -1, K]]])
    stepped = categorical.q_step(process, y0, times(3), times(T), keys())
    np.testing.assert_array_equal(stepped, [[[K, K + 1, -1, K]]])


def test_prior_is_mask_or_uniform():
    like = jnp.zeros((2, 40, 50), jnp.int32)
    masked = categorical.sample_prior(absorbing()["linear"], like, keys(0, 2))
    assert masked.dtype == jnp.int32
    assert (np.asarray(masked) == K).all()
    drawn = categorical.sample_prior(processes()["uniform_linear"], like, keys(0, 2))
    np.testing.assert_allclose(np.bincount(np.ravel(drawn), minlength=K) / 4000, 1 / K, atol=0.04)
    assert (np.asarray(drawn[0]) != np.asarray(drawn[1])).any()


def brute_kl(q, p):
    possible = q > 0
    return (q[possible] * np.log2(q[possible] / p[possible])).sum()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, 2), (3, 7), (5, T)])
def test_vlb_term_is_the_kl_in_bits(name, s, t, x64):
    process = processes()[name]
    posterior, evidence = bayes(process, s, t)
    y0 = np.array([[0, 2, 3, 4, 2]])
    yt = np.array([[0, K, K, 4, K]]) if process.transition == "absorbing" else np.array([[0, 1, 3, 2, 2]])
    possible = evidence[y0, yt] > 1e-15
    logits = np.random.default_rng(1).normal(size=(1, 5, K))
    p0 = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    expected = 0.0
    for i in range(5):
        q, p = posterior[y0[0, i], yt[0, i]], np.zeros(process.num_states)
        if process.transition == "absorbing" and yt[0, i] < K:
            p = q  # carried over
        else:
            for c in range(K):
                p += p0[0, i, c] * posterior[c, yt[0, i]]
        expected += brute_kl(q, p) / 5 if possible[0, i] else np.nan
    if not possible.all():
        pytest.skip("this y_t cannot occur")
    logits, yt, y0 = (jnp.asarray(a)[None] for a in (logits, yt, y0))
    got = categorical.vlb_term(process, logits, yt, y0, times(s), times(t))
    np.testing.assert_allclose(got, [expected], rtol=1e-8, atol=1e-12)


def test_last_step_is_the_nll_in_bits(x64):
    process = absorbing()["classwise"]
    logits = jax.random.normal(jax.random.key(0), (1, 1, 4, K))
    y0 = jnp.array([[[0, 1, 4, 2]]])
    yt = jnp.array([[[K, K, K, 2]]])
    got = categorical.vlb_term(process, logits, yt, y0, times(0), times(5))
    log_p = jax.nn.log_softmax(logits)[0, 0]
    expected = -(log_p[0, 0] + log_p[1, 1] + log_p[2, 4]) / math.log(2) / 4
    np.testing.assert_allclose(got, [expected], rtol=1e-12)


def test_ignored_and_unlabelled_pixels_do_not_count(x64):
    process = Categorical(class_schedules.linear(T, K), ignore=2)
    logits = jax.random.normal(jax.random.key(0), (1, 1, 4, K))
    y0, yt = jnp.array([[[0, 2, 2, K]]]), jnp.full((1, 1, 4), K)
    got = categorical.vlb_term(process, logits, yt, y0, times(0), times(5))
    np.testing.assert_allclose(got, [-jax.nn.log_softmax(logits)[0, 0, 0, 0] / math.log(2)], rtol=1e-12)
    nothing = categorical.vlb_term(process, logits, yt, jnp.full((1, 1, 4), 2), times(0), times(5))
    np.testing.assert_array_equal(nothing, [0.0])


@pytest.mark.parametrize("name", ["linear", "uniform_linear", "uniform_cosine"])
def test_bound_of_a_perfect_network_is_the_entropy_of_the_data(name, x64):
    """E[sum of the terms] + prior term >= H(y_0); under the true p(y_0 | y_t) of a single pixel, with equality."""
    process = processes()[name]
    p_data = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    # Every pair of a class and a state, an example of one pixel each.
    y0, yt = (jnp.asarray(a.reshape(-1, 1, 1)) for a in np.mgrid[:K, : process.num_states])
    total = np.zeros(K)
    for t in range(1, T + 1):
        given = matrix(process, 0, t)[:K]
        joint = p_data[:, None] * given
        belief = np.divide(joint, joint.sum(0), out=np.full_like(joint, 1 / K), where=joint.sum(0) > 0)
        with np.errstate(divide="ignore"):
            logits = jnp.asarray(np.maximum(np.log(belief.T), -1e30))[yt]
        s, t = times(t - 1, len(yt)), times(t, len(yt))
        term = np.asarray(categorical.vlb_term(process, logits, yt, y0, s, t)).reshape(given.shape)
        total += np.where(given > 0, given * term, 0).sum(1)
    prior = float(categorical.prior_term(process, jnp.zeros((1, 1, 1), int))[0])
    entropy = -(p_data * np.log2(p_data)).sum()
    np.testing.assert_allclose(p_data @ total + prior, entropy, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_prior_term_is_the_kl_to_the_prior(name, x64):
    process = processes()[name]
    y0 = jnp.arange(K)[None, None]
    at_end = matrix(process, 0, T)[:K]
    prior = np.eye(K + 1)[K] if process.transition == "absorbing" else np.full(K, 1 / K)
    with np.errstate(divide="ignore"):
        expected = np.mean([brute_kl(row, prior) for row in at_end])
    np.testing.assert_allclose(categorical.prior_term(process, y0), [expected], atol=1e-12)


def test_noise_depends_on_the_examples_own_key():
    process = absorbing()["classwise"]
    y0 = jax.random.randint(jax.random.key(0), (3, 9, 9), 0, K)
    together = categorical.q_sample(process, y0, times(6, 3), keys(5, 3))
    alone = categorical.q_sample(process, y0[1:2], times(6), keys(5, 3)[1:2])
    np.testing.assert_array_equal(together[1:2], alone)


def test_uniform_transitions_refuse_a_rate_per_class():
    with pytest.raises(ValueError, match="one schedule for all classes"):
        Categorical(class_schedules.classwise(T, RATES), "uniform")


@pytest.mark.parametrize("k", [2, 200])
def test_any_number_of_classes(k):
    process = Categorical(class_schedules.classwise(T, np.geomspace(1, 1e4, k)))
    y0 = jax.random.randint(jax.random.key(0), (1, 8, 8), 0, k)
    for s, t in ((0, 1), (5, T), (11, T)):
        yt = categorical.q_sample(process, y0, times(t), keys(t))
        term = categorical.vlb_term(process, jnp.zeros((1, 8, 8, k)), yt, y0, times(s), times(t))
        assert np.isfinite(term).all()
        assert (term >= 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, T), (3, 7), (7, T)])
def test_gradients_of_the_bound_are_finite(name, s, t):
    """Also at s = 0, where no class leaves MASK any share."""
    process = processes()[name]
    y0 = jnp.arange(K)[None, None]
    yt = categorical.q_sample(process, y0, times(t), keys())
    logits = jax.random.normal(jax.random.key(1), (1, 1, K, K))
    gradient = jax.grad(
        lambda logits: categorical.vlb_term(process, logits, yt, y0, times(s), times(t)).sum()
    )
    assert np.isfinite(gradient(logits)).all()


def late(transition):
    """A process that does nothing until t = 3."""
    gamma = np.repeat(np.concatenate([np.ones(4), np.linspace(1, 0, T - 2)[1:]])[:, None], K, 1)
    return Categorical(class_schedules.table(gamma), transition)


@pytest.mark.parametrize("transition", get_args(categorical.Transition))
def test_before_anything_changes_every_pixel_is_certain(transition):
    process = late(transition)
    y = jnp.arange(K)[None, None]
    logits = jax.random.normal(jax.random.key(1), (1, 1, K, K))

    def certainty(logits):
        log_p0 = jax.nn.log_softmax(logits)
        return categorical.log_reverse(process, y, log_p0, times(1), times(3))

    certain = np.where(np.eye(K, process.num_states, dtype=bool), 0, -np.inf)
    np.testing.assert_array_equal(certainty(logits)[0, 0], certain)
    gradient = jax.grad(lambda logits: categorical.vlb_term(process, logits, y, y, times(1), times(3)).sum())
    np.testing.assert_array_equal(gradient(logits), 0)
    for t in (2, 3):
        np.testing.assert_array_equal(categorical.q_sample(process, y, times(t), keys()), y)


@pytest.mark.parametrize("name", ["classwise", "linear", "uniform_linear"])
def test_a_step_from_the_end_to_itself_leads_nowhere(name):
    """Though no pixel shows its class there."""
    process = processes()[name]
    stay, change = categorical.transition(process, times(T), times(T))
    np.testing.assert_array_equal(stay, 1)
    np.testing.assert_array_equal(change, 0)
