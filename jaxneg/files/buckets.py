"""Objects of a bucket at s3://, gs:// or az://, listed, fetched, put and removed, through fsspec.

A request that the network or the service fails is made again, with longer and longer waits, for up to PATIENCE seconds;
one that takes too long is given up and made again. What a person can mend is a UserError of one line at once: no
credentials, no permission, no such bucket, the library not installed.

Credentials and endpoints come from what the libraries themselves look at: AWS_* and ~/.aws, STORAGE_EMULATOR_HOST and
application default credentials, AZURE_STORAGE_*. FSSPEC_S3_ANON=true and FSSPEC_GCS_TOKEN=anon ask without any.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from typing import Any, NamedTuple

from jaxneg import errors
from jaxneg.errors import UserError
from jaxneg.files import Address

FIRST = 3.0  # seconds of trying before anything has ever been reached
PATIENCE = 180.0  # seconds of trying once something was
SECONDS = float(os.environ.get("JAXNEG_BUCKET_SECONDS") or 60)  # that a request may take
SLOWEST = 1 << 20  # bytes a second, on top of them for what is large
TOGETHER = 4  # objects on their way at the same time
PART = 16 << 20  # bytes of a part of a large object

# What the libraries raise without credentials, or with ones that nobody knows; and without the right to do a thing.
UNKNOWN = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "DefaultCredentialsError",
    "RefreshError",
    "ClientAuthenticationError",
    "CredentialUnavailableError",
)
UNKNOWN_CODES = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "401")
FORBIDDEN_CODES = ("AccessDenied", "AllAccessDisabled", "AuthorizationFailure", "403")
WANTED = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true asks without",
    "gs": "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS; FSSPEC_GCS_TOKEN=anon "
    "asks without",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
}


class Seen(NamedTuple):
    """An object as a listing has it."""

    size: int  # bytes
    tag: str  # changes with its contents


class Bucket:
    """The objects whose names begin with an address and a slash; each is called by what comes after.

    Threads may use it at the same time.
    """

    def __init__(self, at: Address):
        self.at, self._fs = at, _file_system(at.scheme)
        self._root = f"{at.bucket}/{at.key}".rstrip("/")

    def listed(self) -> dict[str, Seen]:
        """All objects; one whose name is the address itself is called "". Raises UserError where there is no bucket."""
        found = self._tried(lambda: self._fs._find(self._root, detail=True, withdirs=False))
        names = {}
        for path, one in found.items():
            if one.get("type") != "directory" and not path.endswith("/"):
                names[path[len(self._root) :].lstrip("/")] = Seen(int(one.get("size") or 0), _tag(one))
        return names

    def seen(self, name: str) -> Seen | None:
        """One object, if it is there."""
        try:
            one = self._tried(lambda: self._fs._info(self._path(name)), absent=True)
        except FileNotFoundError:
            return None
        return None if one.get("type") == "directory" else Seen(int(one.get("size") or 0), _tag(one))

    def read(self, name: str) -> bytes | None:
        """The contents of a small object, if it is there."""
        try:
            return self._tried(lambda: self._fs._cat_file(self._path(name)), absent=True)
        except FileNotFoundError:
            return None

    def fetch(self, name: str, to: pathlib.Path, size: int) -> None:
        """Writes an object to a file. Raises FileNotFoundError where it is gone, or of another size by now."""

        def fetched() -> None:
            if to.stat().st_size != size:
                raise Cut(f"{self._path(name)} came cut short")

        call = lambda: self._fs._get_file(self._path(name), str(to))  # noqa: E731
        try:
            self._tried(call, size, absent=True, check=fetched)
        except Cut as error:
            raise FileNotFoundError(str(error)) from error

    def put(self, path: pathlib.Path, name: str) -> None:
        """Writes a file to an object, which appears whole."""
        more: Mapping[str, Any] = {"max_concurrency": 2, "chunksize": PART} if self.at.scheme == "s3" else {}
        size = path.stat().st_size
        self._tried(lambda: self._fs._put_file(str(path), self._path(name), **more), size)

    def write(self, name: str, data: bytes, *, new: bool = False) -> bool:
        """Writes a small object; with ``new`` only where there is none, and says whether it did."""
        mode = {"mode": "create"} if new else {}
        try:
            self._tried(lambda: self._fs._pipe_file(self._path(name), data, **mode))
        except FileExistsError:  # perhaps by a try of this very call, whose answer was lost
            return self.read(name) == data
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects, one after the other, in this order; what is not there already is fine."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._tried(lambda name=name: self._fs._rm_file(self._path(name)), absent=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _tried(
        self,
        call: Callable[[], Any],
        size: int = 0,
        *,
        absent: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> Any:
        """The result of a request, made until it succeeds or is refused for a reason.

        Args:
          call: makes the coroutine of the request.
          size: bytes on their way.
          absent: whether FileNotFoundError may mean that the object is not there, and is raised as such.
          check: raises Cut where what came is not whole.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                found = _run(call(), self._fs.loop, SECONDS + size / SLOWEST)
                check()
                _reached.add(self.at.scheme)
                return found
            except FileNotFoundError as error:
                if absent:
                    raise
                raise UserError(
                    f"{self.at}: there is no bucket {self.at.bucket}: make it, or mend its name"
                ) from error
            except FileExistsError:
                raise
            except Exception as error:
                if (text := self._refusal(error)) is not None:
                    raise UserError(text) from error
                waited = time.monotonic() - began
                if isinstance(error, Cut) and tries >= 3:
                    raise
                if waited > (PATIENCE if self.at.scheme in _reached else FIRST):
                    why = errors.first_line(error, 120) or type(error).__name__
                    raise UserError(
                        f"{self.at} was not reached for {waited:.0f} s ({type(error).__name__}: {why}): look after the "
                        "network and the endpoint, and start it again"
                    ) from error
            tries += 1
            time.sleep(min(0.1 * 2**tries, 8.0) * random.uniform(0.5, 1.0))

    def _refusal(self, error: Exception) -> str | None:
        """A line where trying again would not help."""
        for cause in errors.chain(error):
            name, code = type(cause).__name__, _code(cause)
            if name in UNKNOWN or code in UNKNOWN_CODES:
                return f"{self.at}: no credentials that {self.at.scheme}:// takes: {WANTED[self.at.scheme]}"
            if (
                isinstance(cause, PermissionError)
                or code in FORBIDDEN_CODES
                or "Forbidden" in str(cause)[:40]
            ):
                return (
                    f"{self.at}: these credentials may not do that: ask for the right to read and write there"
                )
            if name in ("InvalidRegionError", "ParamValidationError", "InvalidBucketName") or (
                isinstance(cause, ValueError) and "Invalid endpoint" in str(cause)
            ):
                return f"{self.at}: {errors.first_line(cause, 120)}: mend the address, or the endpoint"
        return None


class Cut(OSError):
    """What came is shorter, or longer, than the listing says."""


def together(calls: Iterable[Callable[[], None]]) -> None:
    """Makes calls a few at a time; the first error is raised once those under way have ended."""
    with futures.ThreadPoolExecutor(TOGETHER) as pool:
        waiting = [pool.submit(call) for call in calls]
        try:
            for one in futures.as_completed(waiting):
                one.result()
        except BaseException:
            for one in waiting:
                one.cancel()
            raise


_reached: set[str] = set()  # schemes of which something has ever answered
_made: dict[str, Any] = {}  # file systems by scheme and what their settings are
_making = threading.Lock()


def _run(coroutine: Any, loop: asyncio.AbstractEventLoop, seconds: float) -> Any:
    """The result of a coroutine; cancelled where it takes too long, so that it does not come late."""
    waiting = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return waiting.result(seconds)
    except futures.TimeoutError:
        waiting.cancel()
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None


def _file_system(scheme: str) -> Any:
    """The library of a scheme, with listings that are always asked for anew."""
    settings = sorted(
        (k, v) for k, v in os.environ.items() if k.startswith(("AWS_", "STORAGE_", "FSSPEC_", "AZURE_"))
    )
    key = json.dumps([scheme, settings])
    with _making:
        if key not in _made:
            try:
                _made[key] = _CONNECT[scheme]()
            except ImportError as error:
                raise UserError(
                    f"{scheme}:// needs {error.name or error}: pip install 'jaxneg[buckets]'"
                ) from None
            except Exception as error:
                if type(error).__name__ not in (*UNKNOWN, "ValueError"):
                    raise
                raise UserError(
                    f"{scheme}://: no credentials that it takes ({errors.first_line(error, 120)}): {WANTED[scheme]}"
                ) from error
        return _made[key]


def _s3() -> Any:
    library = importlib.import_module("s3fs")
    settings = {"connect_timeout": 10, "read_timeout": SECONDS / 2, "retries": {"max_attempts": 0}}
    made = library.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs=settings)
    made.retries = 1  # here is tried again, and for longer
    return made


def _gs() -> Any:
    # Not the class of the package's own file, which asks of each bucket over gRPC what kind it is.
    library = importlib.import_module("gcsfs.core")
    _silence("gcsfs")
    emulated = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
    more = {"token": "anon"} if emulated else {}
    whole = library.GCSFileSystem
    # Its requests without their own retries, of which six take most of a minute, whatever the reason.
    once = type("Once", (whole,), {"_request": getattr(whole._request, "__wrapped__", whole._request)})
    return once(use_listings_cache=False, skip_instance_cache=True, requests_timeout=SECONDS, **more)


def _az() -> Any:
    library = importlib.import_module("adlfs")
    _silence("asyncio")  # of requests that were given up as the process ends
    more = {} if os.environ.get("FSSPEC_ABFS_ANON") else {"anon": False}
    return library.AzureBlobFileSystem(use_listings_cache=False, skip_instance_cache=True, **more)


def _silence(name: str) -> None:
    """Keeps a library from logging what it raises as well, traceback and all."""
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)


_CONNECT: dict[str, Callable[[], Any]] = {"s3": _s3, "gs": _gs, "az": _az}


def _tag(one: Mapping[str, Any]) -> str:
    """What changes with an object's contents, as a listing says it."""
    for name in ("generation", "ETag", "etag", "content_md5", "LastModified", "updated", "last_modified"):
        if found := one.get(name):
            return str(found).strip('"')
    return ""


def _code(error: BaseException) -> str:
    """The code of a service's answer, if the error carries one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "code", None) or getattr(error, "status_code", None) or "")
