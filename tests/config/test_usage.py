"""Options earn their place: each is in a config, behind a claim or on a page for users."""

import dataclasses
import pathlib
import re

import pytest

from jaxneg import config as configs
from jaxneg.config import Config
from jaxneg.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent
WHERE = ["configs/*.py", "benchmarks/**/*.py", "examples/**/*.py", "launch/*", "docs/**/*.md", "README.md"]
MOST = 96  # the like head came with five, starting from another run with two


def texts():
    for pattern in WHERE:
        for path in ROOT.glob(pattern):
            if path.is_file() and path.name != "options.md":  # it is made of the fields
                yield path.read_text(encoding="utf-8")


def test_every_option_is_in_a_config_a_claim_or_a_page():
    found, unused, count = list(texts()), [], 0
    for part in dataclasses.fields(Config):
        kind = part.default_factory
        for one in dataclasses.fields(kind):
            count += 1
            dashed = f"{part.name}.{one.name.replace('_', '-')}"
            names = re.compile(rf"(?<![\w.]){re.escape(dashed)}(?![\w-])|[\"']{part.name}\.{one.name}[\"']")
            given = re.compile(rf"{kind.__name__}\([^()]*(\([^()]*\)[^()]*)*\b{one.name}=")
            if not any(names.search(text.replace("--", " ")) or given.search(text) for text in found):
                unused.append(dashed)
    assert unused == []
    assert count < MOST


def test_an_option_that_is_gone_is_refused_and_runs_that_have_it_are_read():
    with pytest.raises(UserError, match="no option --data.prefetch"):
        configs.override(Config(), ["--data.prefetch", "8"])
    text = configs.to_json(Config()).replace('"data": {', '"data": {"prefetch": 8,')
    assert "prefetch" in text and configs.from_json(text) == Config()
