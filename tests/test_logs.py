import json
import math

from jaxneg import logs


def test_lines_come_back_and_what_is_not_finite_is_null(tmp_path):
    writer = logs.Writer(tmp_path / "run")
    writer.write(1, {"loss": 0.5})
    writer.write(2, {"loss": math.nan})
    writer.close()
    assert logs.read(tmp_path / "run") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]


def test_rewind_drops_later_lines_and_a_torn_one(tmp_path):
    writer = logs.Writer(tmp_path)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    assert [line["step"] for line in logs.read(tmp_path)] == [10, 20, 30]
    writer.rewind(20)
    writer.write(30, {"loss": 2.0})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 1.0}, {"step": 30, "loss": 2.0}]
