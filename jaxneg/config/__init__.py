"""The whole schema of an experiment: frozen dataclasses, one comment per field.

An experiment is a Python file with ``get_config() -> Config``. The command line, sweeps and tests all change it by
``override``, which checks names and types.
"""

from jaxneg.config.fields import Effect as Effect, option as option
from jaxneg.config.loading import load as load, override as override
from jaxneg.config.options import parse as parse
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
    LikeConfig as LikeConfig,
    LossConfig as LossConfig,
    ModelConfig as ModelConfig,
    OptimConfig as OptimConfig,
    TrainConfig as TrainConfig,
)
from jaxneg.errors import UserError as UserError
