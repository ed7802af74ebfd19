"""The config of an experiment file, and options applied to a config."""

import pathlib
from collections.abc import Sequence

from jaxneg.config import experiments, options, rules
from jaxneg.config.fields import settled
from jaxneg.config.schema import Config
from jaxneg.errors import UserError


def load(path: str | pathlib.Path) -> Config:
    """The config that a Python experiment file's ``get_config()`` returns. Raises UserError if there is none.

    Its values are what the fields take; whether they go together, ``check`` says once options had their say.
    """
    with experiments.loaded(path, "a config ends in .py and defines get_config() -> Config") as module:
        config = experiments.called(module.get_config)
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
    if isinstance(args, str) or not all(isinstance(word, str) for word in args):
        raise UserError(f'options are a list of words, as ["--model.layers", "4"], got {args!r}')
    return rules.check(options.parse(Config, args, default=settled(config, Config), prog="jaxneg train"))
