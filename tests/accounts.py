"""What a run of the tests cost: processor time, programs compiled, memory, the slowest tests. Shown at its end."""

import collections
import resource

SHOWN = 10
KEY = "semdiff_accounts"
COMPILED, KEPT = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"

events: collections.Counter = collections.Counter()
seconds: collections.Counter = collections.Counter()
tests: collections.Counter = collections.Counter()
of_workers: list[dict] = []


def pytest_configure(config):
    import jax.monitoring

    def lasted(name, duration, **_):
        events[name] += 1
        seconds[name] += duration

    jax.monitoring.register_event_duration_secs_listener(lasted)
    jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))


def own() -> dict:
    """Of this process and the programs that it started and waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "processor": sum(part.ru_utime + part.ru_stime for part in parts),
        "started": parts[1].ru_utime + parts[1].ru_stime,
        "compiled": events[COMPILED] - events[KEPT],
        "kept": events[KEPT],
        "compiling": seconds[COMPILED],
        "memory": parts[0].ru_maxrss / 2**20,
    }


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[KEY] = own()


def pytest_testnodedown(node, error):
    of_workers.append(getattr(node, "workeroutput", {}).get(KEY, {}))


def pytest_runtest_logreport(report):
    tests[report.nodeid] += report.duration


def pytest_terminal_summary(terminalreporter):
    costs = [cost for cost in of_workers if cost] or [own()]
    total = {name: sum(cost[name] for cost in costs) for name in costs[0]}
    most = max(cost["memory"] for cost in costs)
    terminalreporter.section("what it cost")
    terminalreporter.line(
        f"processor time {total['processor']:.0f} s, {total['started']:.0f} s of it in programs that tests started; "
        f"{total['compiled']} programs compiled and {total['kept']} found compiled in the tests' own processes, "
        f"{total['compiling']:.0f} s; peak memory of a worker {most:.1f} GiB"
    )
    for name, duration in tests.most_common(SHOWN):
        terminalreporter.line(f"{duration:7.1f} s  {name}")
