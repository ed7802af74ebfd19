"""The ``jaxneg`` command, also as ``python -m jaxneg``: streams and signals are in order before much is imported."""

from jaxneg import signals


def main() -> None:
    """Runs a verb and exits with its code."""
    signals.open_streams()
    signals.install()
    from jaxneg import cli

    cli.main()


if __name__ == "__main__":
    main()
