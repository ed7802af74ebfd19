"""What a person can mend."""

import contextlib
import difflib
import errno
import inspect
import os
import re
import sys
from collections.abc import Collection, Iterator
from typing import Any

# Errors of the system, which are the user's to mend wherever they strike.
FULL, CLOSED, PLACE, MANY, DISK, MEMORY = (
    "free some space",
    "choose another place, or change its permissions",
    "choose another path",
    "raise the limit, as ulimit -n 4096 does",
    "look after the disk, or the mount",
    "free some memory, raise its limit, or ask for less",
)
MENDS = {
    errno.EMFILE: MANY,
    errno.ENFILE: MANY,
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EACCES: CLOSED,
    errno.EPERM: CLOSED,
    errno.EROFS: CLOSED,
    errno.EIO: DISK,
    errno.ESTALE: DISK,
    errno.ENOTCONN: DISK,
    errno.ENOMEM: MEMORY,
    errno.ENOTDIR: PLACE,
    errno.EISDIR: PLACE,
    errno.ENAMETOOLONG: PLACE,
    errno.EEXIST: PLACE,
    errno.ELOOP: PLACE,
}
# What else of the machine may not suffice, in the words of Python and XLA.
EXHAUSTED = (
    (RuntimeError, "can't start new thread", "raise the limit of processes, as ulimit -u does"),
    (RuntimeError, "RESOURCE_EXHAUSTED", "lower --data.batch-size or --data.length, or give --train.shards"),
    (RuntimeError, "Out of memory allocating", "lower --model.width, --data.batch-size or --data.length"),
    (MemoryError, "", MEMORY),
)

# Paths that stand for something else, and what they are called when a person is told of them.
SPOKEN: dict[str, str] = {}
SLASHES = re.compile(r"\b(s3|gs|az):/(?=[^/\s])")


class UserError(Exception):
    """A mistake that the user can mend: one clear line, exit code 2, no traceback.

    Attributes:
      by_all: of many processes that meet it each says it, and not the first alone.
    """

    by_all = False

    def __init__(self, text: object = ""):
        super().__init__(spoken(str(text)))


def spoken(text: str) -> str:
    """A text in which paths are called as their user does: by an address, whose slashes pathlib has made one."""
    for path, name in SPOKEN.items():
        text = text.replace(path, name)
    return SLASHES.sub(r"\1://", text)


def tell(text: str) -> None:
    """A line on standard error, written with its end at once: unbuffered, another process could write between them."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody may be listening any more
        print(f"{text}\n", end="", file=sys.stderr, flush=True)


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """What to say of a name that is none of those known, and which of them may have been meant."""
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; perhaps you meant {near[0]}" if near else ""
    return f"no {what} {name!r}: use one of {', '.join(known)}{hint}"


def check_callable(given: Any, what: str) -> None:
    """Raises UserError unless this is something to call that gives its result at once."""
    if not callable(given):
        raise UserError(f"{what} must be something to call, got {type(given).__name__}")
    if inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(type(given).__call__):
        raise UserError(f"{what} must be a plain function, and async def makes another")


def trouble(error: BaseException) -> str | None:
    """What the system refused and how to mend it, if that is the cause; libraries wrap what it said, or quote it."""
    for cause, said, mend in _causes(error):
        path = cause.filename if isinstance(cause, OSError) else None
        if path is None and (match := re.search(r'"(/[^"]+)"', str(cause))):
            path = match[1]
        return f"{path}: {said}: {mend}" if path else f"{said}: {mend}"
    for cause in chain(error):
        for kind, quoted, mend in EXHAUSTED:
            if isinstance(cause, kind) and quoted in str(cause):
                return f"{first_line(cause) or 'not enough memory'}: {mend}"
    return None


@contextlib.contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file in what the system refuses within the block; of writing it says none by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def carried(what: str, mend: str, ours: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Raises UserError where a library, or a thread of it, dies within the block: one line, how to go on, and no hang.

    Causes that ``trouble`` knows keep their own line.

    Args:
      what: that could not be done.
      mend: what its user does then.
      ours: errors that would be of this package itself, and are raised as they are.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, GeneratorExit, *ours):
        raise
    except BaseException as error:  # also what ends a thread alone, as SystemExit
        if isinstance(error, Exception) and trouble(error) is not None:
            raise
        name = type(error).__name__
        line = first_line(error)
        raise UserError(f"{what}: {name}{': ' if line else ''}{line}: {mend}") from error


def refused(error: BaseException) -> bool:
    """Whether the system would not let a file be read, which says nothing of what is in the file."""
    return any(mend != PLACE for _, _, mend in _causes(error))


def with_remedy(error: UserError) -> str:
    """The error's line; where it quotes the system and leaves it at that, also how to mend it."""
    text = str(error)
    for _, said, mend in _causes(error.__cause__):
        if said in text and mend not in text:
            return f"{text}: {mend}"
    return text


def _causes(error: BaseException | None) -> Iterator[tuple[BaseException, str, str]]:
    """Errors of the system among an error and its causes: each with what the system said, and how to mend it."""
    for cause in chain(error):
        for code, mend in MENDS.items():
            said = os.strerror(code)
            if (isinstance(cause, OSError) and cause.errno == code) or said in str(cause):
                yield cause, said, mend


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes.

    They may go round in a circle, where an error that was caught is raised again amid the handling of another.
    """
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException, longest: int = 200) -> str:
    """The first line of an error's text that says something, cut where it is longer; empty where none does."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text if len(text) <= longest else f"{text[:longest]}..."
