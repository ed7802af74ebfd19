"""The whole schema of an experiment: frozen dataclasses, one comment per field.

An experiment is a Python file with ``get_config() -> Config``. The command line, sweeps and tests all change it by
``override``, which checks names and types.
"""

import pathlib
from collections.abc import Sequence

from jaxneg.config import experiments
from jaxneg.config.fields import Effect as Effect, settled
from jaxneg.config.options import option as option, parse as parse
from jaxneg.config.rules import check as check
from jaxneg.config.saved import (
    Change as Change,
    changes as changes,
    from_json as from_json,
    to_json as to_json,
)
from jaxneg.config.schema import (
    KINDS as KINDS,
    Config as Config,
    DataConfig as DataConfig,
    EvalConfig as EvalConfig,
    Kind as Kind,
    LossConfig as LossConfig,
    ModelConfig as ModelConfig,
    OptimConfig as OptimConfig,
    TrainConfig as TrainConfig,
)
from jaxneg.errors import UserError as UserError


def load(path: str | pathlib.Path) -> Config:
    """The config that a Python experiment file's ``get_config()`` returns. Raises UserError if there is none.

    Its values are what the fields take; whether they go together, ``check`` says once options had their say.
    """
    with experiments.loaded(path, "a config ends in .py and defines get_config() -> Config") as module:
        config = module.get_config()
        if not isinstance(config, Config):
            what = config.__name__ if isinstance(config, type) else type(config).__name__
            raise UserError(f"get_config() in {path} must return a jaxneg.config.Config, got {what}")
        try:
            return settled(config, Config)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def override(config: Config, args: Sequence[str]) -> Config:
    """The config with command-line options applied, as in ``override(config, ["--model.layers", "4"])``.

    Raises UserError on an unknown option or a value of the wrong type.
    """
    return check(parse(Config, args, default=settled(config, Config), prog="jaxneg train"))
