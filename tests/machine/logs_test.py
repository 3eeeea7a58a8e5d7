"""What a run says."""

import json

import numpy as np
import pytest

from semdiff.machine import logs


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_scalars_go_to_jsonl_and_tensorboard(tmp_path):
    writer = logs.Writer(tmp_path)
    writer.scalars(10, {"loss": np.float32(0.5)})
    writer.scalars(20, {"loss": float("nan")})
    path = writer.picture(20, "grid", np.zeros((4, 4, 3), np.uint8))
    writer.close()
    assert rows(tmp_path) == [{"step": 10, "loss": 0.5}, {"step": 20, "loss": "nan"}]
    assert path.name == "grid_00000020.png"
    assert path.exists()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_resumed_run_writes_its_later_lines_again(tmp_path):
    writer = logs.Writer(tmp_path)
    for step in (10, 20, 30):
        writer.scalars(step, {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')  # killed while writing
    again = logs.Writer(tmp_path, start_step=20)
    again.scalars(30, {"loss": 31})
    again.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(10, 10), (20, 20), (30, 31)]


def test_the_curve_is_drawn_from_the_metrics(tmp_path):
    writer = logs.Writer(tmp_path)
    for step in (10, 20, 30):
        writer.scalars(step, {"mse": 1 / step})
    writer.scalars(30, {"eval/mse": float("nan")})
    writer.close()
    path = logs.draw_curve(tmp_path)
    assert path == tmp_path / "pictures" / "curve_mse.png"
    assert path.stat().st_size > 1000


def test_an_inactive_writer_writes_nothing(tmp_path):
    writer = logs.Writer(tmp_path, active=False)
    writer.scalars(1, {"loss": 1.0})
    assert writer.picture(1, "grid", np.zeros((2, 2, 3), np.uint8)) is None
    writer.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5s"), (65, "1m 05s"), (3700, "1h 01m"), (90000, "1d 1h"), (59.6, "1m 00s")]
)
def test_durations_read_well(seconds, text):
    assert logs.duration(seconds) == text


def test_progress_tells_rate_and_time_left(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock[0])
    progress = logs.Progress(total=100, done=20)
    clock[0] += 15
    progress.pause(5)  # an evaluation in between
    progress.report(40, "loss 1")
    line = capsys.readouterr().out
    assert "step 40/100 (40%)  loss 1  2 steps/s  30s left" in line


def test_a_heartbeat_is_heard_now_and_then(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock[0])
    beat = logs.Heartbeat(steps=1000, every=15)
    for done in range(1, 41):
        clock[0] += 1
        beat(done)
    assert capsys.readouterr().out.splitlines() == [
        "  step 16/1000 of this batch",
        "  step 32/1000 of this batch",
    ]
