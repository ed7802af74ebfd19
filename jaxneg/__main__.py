"""``python -m jaxneg`` is the ``jaxneg`` command."""

from jaxneg import cli

cli.main()
