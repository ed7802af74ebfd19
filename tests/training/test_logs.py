import json
import math
import re

import pytest

from jaxneg.errors import UserError
from jaxneg.training import logs


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


@pytest.mark.parametrize(
    "line, says",
    [
        ("[1]", "expected an object"),
        ('{"loss": 1.0}', "step is missing"),
        ('{"step": -1}', "step: expected at least 0"),
        ('{"step": "1"}', "step: expected a whole number"),
        ('{"step": 1, "step": 2}', "step is there twice"),
        ('{"step": 1, "lo', "no JSON"),
        ("[" * 100_000, "nest more than"),
    ],
)
def test_a_line_that_is_none_of_ours(line, says, tmp_path):
    """Also where a writer continues, which would drop it; as the last line it is one that a crash cut short."""
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    writer = logs.Writer(tmp_path)
    for read in (lambda: logs.read(tmp_path), lambda: writer.rewind(1)):
        with pytest.raises(UserError) as told:
            read()
        assert re.search(f"metrics.jsonl, line 2 is damaged: .*{says}.*move the file away", str(told.value))
        assert "\n" not in str(told.value)
    writer.close()
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 0}}\n{line}\n')
    assert logs.read(tmp_path) == [{"step": 0}]


def test_metrics_that_are_no_file(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl cannot be read"):
        logs.read(tmp_path)
