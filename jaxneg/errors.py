"""What a person can mend."""


class UserError(Exception):
    """A mistake that the user can mend: one clear line, exit code 2, no traceback.

    Attributes:
      by_all: of many processes that meet it each says it, and not the first alone.
    """

    by_all = False
