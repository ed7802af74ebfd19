"""What a person can mend."""

import errno
import os
import re
from collections.abc import Iterator

# Errors of the system, which are the user's to mend wherever they strike.
FULL, CLOSED, PLACE, MANY = (
    "free some space",
    "choose another place, or change its permissions",
    "choose another path",
    "raise the limit, as ulimit -n 4096 does",
)
MENDS = {
    errno.EMFILE: MANY, errno.ENFILE: MANY,
    errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL,
    errno.EACCES: CLOSED, errno.EPERM: CLOSED, errno.EROFS: CLOSED,
    errno.ENOTDIR: PLACE, errno.EISDIR: PLACE, errno.ENAMETOOLONG: PLACE,
}  # fmt: skip


class UserError(Exception):
    """A mistake that the user can mend: one clear line, exit code 2, no traceback.

    Attributes:
      by_all: of many processes that meet it each says it, and not the first alone.
    """

    by_all = False


def trouble(error: BaseException) -> str | None:
    """What the system refused and how to mend it, if that is the cause; libraries wrap what it said, or quote it."""
    for cause, said, mend in _causes(error):
        path = cause.filename if isinstance(cause, OSError) else None
        if path is None and (match := re.search(r'"(/[^"]+)"', str(cause))):
            path = match[1]
        return f"{path}: {said}: {mend}" if path else f"{said}: {mend}"
    return None


def refused(error: BaseException) -> bool:
    """Whether the system would not let a file be read, which says nothing of what is in the file."""
    return any(mend != PLACE for _, _, mend in _causes(error))


def with_remedy(error: UserError) -> str:
    """The error's line; where it quotes the system and leaves it at that, also how to mend it."""
    text = str(error)
    for _, said, mend in _causes(error.__cause__):
        if text.endswith(said):
            return f"{text}: {mend}"
    return text


def _causes(error: BaseException | None) -> Iterator[tuple[BaseException, str, str]]:
    """Errors of the system among an error and its causes: each with what the system said, and how to mend it.

    Causes may go round in a circle, where an error that was caught is raised again amid the handling of another.
    """
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        for code, mend in MENDS.items():
            said = os.strerror(code)
            if (isinstance(error, OSError) and error.errno == code) or said in str(error):
                yield error, said, mend
        error = error.__cause__ or error.__context__
