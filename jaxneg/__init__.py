"""jaxneg: next-song recommenders that learn from what people reject."""

__version__ = "0.1.0"
