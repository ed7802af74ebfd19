"""What listeners did while the server ran: in memory, or in Redis or Valkey for several servers and after a restart."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxneg.errors import UserError
from jaxneg.serve import histories
from jaxneg.serve.histories import Event

EVENTS = 10_000  # of a listener, that are kept
USERS = 100_000  # of whom events are kept in memory
KEY = "jaxneg:events:"  # before a listener's name
DAYS = 30  # after which Redis forgets who does nothing
SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}


class Unreached(Exception):
    """The server of the sessions does not answer."""


@runtime_checkable
class Sessions(Protocol):
    """Events of listeners, oldest first."""

    async def add(self, user: str, events: Sequence[Event]) -> int:
        """Appends events to a listener's; returns how many are kept. Raises Unreached."""
        ...

    async def of(self, user: str) -> list[Event]:
        """A listener's events; none of one that is not known. Raises Unreached."""
        ...

    async def close(self) -> None: ...


class Unkept(UserError):
    """A server that keeps no events was told some."""


class Nothing:
    """No events at all."""

    async def add(self, user: str, events: Sequence[Event]) -> int:
        raise Unkept(
            "this server keeps no events: send them with each request, or start it with other --sessions"
        )

    async def of(self, user: str) -> list[Event]:
        return []

    async def close(self) -> None:
        pass


class Memory:
    """Of each listener the last events; those heard of longest ago are forgotten."""

    def __init__(self, users: int = USERS, events: int = EVENTS):
        self._users, self._events = users, events
        self._of: OrderedDict[str, tuple[Event, ...]] = OrderedDict()

    async def add(self, user: str, events: Sequence[Event]) -> int:
        kept = (*self._of.pop(user, ()), *events)[-self._events :]
        self._of[user] = kept
        while len(self._of) > self._users:
            self._of.popitem(last=False)
        return len(kept)

    async def of(self, user: str) -> list[Event]:
        return list(self._of.get(user, ()))

    async def close(self) -> None:
        pass


class Redis:
    """A list of JSON by listener, in a server that speaks the protocol of Redis."""

    def __init__(self, url: str, events: int = EVENTS, seconds: float = 1.0):
        """Connects when it is first asked.

        Args:
          url: redis://, rediss://, valkey://, valkeys:// or unix://.
          events: of a listener, that are kept.
          seconds: until a server that does not answer is given up.
        """
        try:
            from redis import asyncio as client, exceptions
        except ImportError:
            raise UserError("sessions in Redis or Valkey need redis: pip install 'jaxneg[redis]'") from None
        scheme, _, place = url.partition("://")
        if scheme not in SCHEMES or not place:
            known = ", ".join(f"{one}://" for one in SCHEMES)
            raise UserError(
                f"--sessions {url}: expected memory, none, or an address that begins with {known}"
            )
        try:
            address, times = f"{SCHEMES[scheme]}://{place}", {"socket_timeout": seconds}
            times |= {} if scheme == "unix" else {"socket_connect_timeout": seconds}
            pool = client.BlockingConnectionPool.from_url(
                address, timeout=seconds, max_connections=64, **times
            )
            self._client = client.Redis.from_pool(pool)
        except ValueError as error:
            raise UserError(f"--sessions {url}: {error}") from None
        self._events, self._errors = events, (exceptions.RedisError, OSError, TimeoutError)

    async def add(self, user: str, events: Sequence[Event]) -> int:
        told, key = [json.dumps(event) for event in events], KEY + user
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.rpush(key, *told)
                pipe.ltrim(key, -self._events, -1)
                pipe.expire(key, DAYS * 86_400)
                pipe.llen(key)
                return int((await pipe.execute())[-1])
        except self._errors as error:
            raise Unreached(str(error)) from error

    async def of(self, user: str) -> list[Event]:
        try:
            told = await self._client.lrange(KEY + user, 0, -1)  # pyright: ignore[reportGeneralTypeIssues]
            return histories.events([Event(*json.loads(one)) for one in told])
        except (*self._errors, ValueError, TypeError) as error:
            raise Unreached(str(error)) from error

    async def close(self) -> None:
        await self._client.aclose()


def check(where: str, processes: int) -> None:
    """Raises UserError where several processes would each keep events of their own, and on what ``opened`` refuses."""
    if where == "memory" and processes > 1:
        raise UserError(
            f"--workers {processes} needs --sessions redis://HOST:PORT, or none: each would keep its own"
        )
    opened(where)


def opened(where: str) -> Sessions:
    """Sessions in memory, none, or by the address of a server. Raises UserError on another address."""
    return Memory() if where == "memory" else Nothing() if where == "none" else Redis(where)
