"""Objectives and an encoder of the field that the library does not carry, for ``objectives.py`` to measure.

Nothing here is part of jaxneg: what proves worth it moves there.
"""
