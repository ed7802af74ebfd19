"""What a line says of errors and their causes."""

import errno

from jaxneg import errors
from jaxneg.errors import UserError


def _circle() -> UserError:
    """Two errors that are each other's cause, as where one is raised again amid the handling of the other."""
    one, other = UserError("one"), UserError("other")
    one.__cause__, other.__cause__ = other, one
    return one


def test_causes_that_go_round_in_a_circle_come_to_an_end():
    assert errors.with_remedy(_circle()) == "one"
    assert errors.trouble(_circle()) is None and not errors.refused(_circle())


def test_an_error_that_is_its_own_cause():
    error = ValueError("alone")
    error.__cause__ = error
    assert errors.trouble(error) is None


def test_the_system_is_found_in_a_circle_too():
    error = _circle()
    assert error.__cause__ is not None
    error.__cause__.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/x")
    error.__cause__.__cause__.__cause__ = error
    assert errors.trouble(error) == "/x: No space left on device: free some space"
