"""Asking the Hugging Face hub: no request without a limit in time, a few tries, and one clear line at the end.

The hub's own client retries some requests (files, listings) and not others (what a repository is), and lets a listing
wait for ever. So every request gets a limit here, and a whole look is repeated while its failure may pass.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ensemw2s.artifacts import disk_error
from ensemw2s.errors import ConfigError, PrerequisiteError

T = TypeVar("T")
log = logging.getLogger("ensemw2s.network")

#: Tries of a look in all, and the wait before the second (seconds; doubled each time, and a little is left to chance).
TRIES_VARIABLE, TRIES = "ENSEMW2S_HUB_TRIES", 3
WAIT_VARIABLE, WAIT_SECONDS = "ENSEMW2S_HUB_WAIT", 1.0
#: Longest silence of the hub, connecting or answering, before a request counts as failed (seconds).
TIMEOUT_VARIABLE, TIMEOUT_SECONDS = "ENSEMW2S_HUB_TIMEOUT", 10.0

_LONGEST_WAIT_SECONDS = 30.0
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_PASSING = {408, 425, 429, 500, 502, 503, 504}
# The HTTP client differs between versions of the hub's library; the module's name tells its errors.
_CLIENTS = ("httpx", "httpcore", "requests", "urllib3")
_LASTING = {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "TooManyRedirects", "MissingSchema"}


class Unreachable(PrerequisiteError):
    """The hub gave no answer, or none that helps; says how often it was asked."""


def setting(variable: str, default: float, least: float) -> float:
    """A number from the environment.

    Raises:
        ConfigError: it is no number, or too small.
    """
    text = os.environ.get(variable, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = float("nan")
    if not value >= least:
        raise ConfigError(f"the environment variable {variable} is '{text}': give a number of at least {least:g}")
    return value


def ask(look: Callable[[], T], what: str, remedy: str) -> T:
    """The result of ``look``, repeated while it fails in a way that may pass.

    Args:
        look: asks the hub; it is called again from its beginning.
        what: the thing asked for, say ``'owner/name'``.
        remedy: what else the user can do, the end of the error message.

    Raises:
        Unreachable: the last try failed like the others, or ``HF_HUB_OFFLINE`` forbids to ask.
        CacheError: the disk is full, or the hub's cache cannot be written.
        Exception: any other failure of ``look``, at once and as it came.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    tries = int(setting(TRIES_VARIABLE, TRIES, 1))
    limit = setting(TIMEOUT_VARIABLE, TIMEOUT_SECONDS, 0.01)
    retrying = Retrying(
        stop=stop_after_attempt(tries), wait=_wait, retry=retry_if_exception(passing), before_sleep=_tell(what, tries),
        reraise=True,
    )  # fmt: skip
    began = time.monotonic()

    def limited() -> T:
        with time_limit(limit):
            return look()

    try:
        return retrying(limited)
    except Exception as error:
        if is_offline(error):
            raise Unreachable(
                f"cannot fetch {what}: the Hugging Face hub cannot be reached while HF_HUB_OFFLINE is set, and it is "
                f"not in its local cache; unset HF_HUB_OFFLINE, or {remedy}"
            ) from error
        if passing(error):
            asked = f"{tries} tries in {time.monotonic() - began:.0f} s"
            raise Unreachable(
                f"cannot fetch {what}: the Hugging Face hub cannot be reached and it is not in its local cache "
                f"({first_line(error)}; {asked}); check the network, or {remedy}"
            ) from error
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise disk_error(error, Path(str(error.filename or "the hub's local cache"))) from error
        raise


def passing(error: BaseException) -> bool:
    """Whether a failure may be over a moment later: no answer, a cut answer, or "busy"."""
    for one in _causes(error):
        if is_offline(one):
            return False
        status = getattr(getattr(one, "response", None), "status_code", None)
        if status is not None:
            return status in _PASSING
        if isinstance(one, (ConnectionError, TimeoutError)) or str(one).startswith("Consistency check failed"):
            return True
        if type(one).__module__.startswith(_CLIENTS):
            return type(one).__name__ not in _LASTING
    return False


def is_offline(error: BaseException) -> bool:
    """Whether the hub's client was told not to ask."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return any(isinstance(one, OfflineModeIsEnabled) for one in _causes(error))


def first_line(error: BaseException) -> str:
    """An error's first line, 160 characters at most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(". ")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Within the block no request of the hub's client waits longer for a connection or for the next piece."""
    from huggingface_hub.utils import get_session

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout") or {}
        kinds = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {kind: min(given.get(kind) or seconds, seconds) for kind in kinds}

    client = get_session()
    before = client.event_hooks
    client.event_hooks = {**before, "request": [*before.get("request", []), limit]}
    try:
        yield
    finally:
        client.event_hooks = before


def _wait(state: Any) -> float:
    """Seconds before the next try: doubled each time with some chance, and what the hub itself asks for."""
    import random

    first = setting(WAIT_VARIABLE, WAIT_SECONDS, 0.0)
    seconds = first * 2 ** (state.attempt_number - 1) * random.uniform(1.0, 1.25)
    response = getattr(state.outcome.exception(), "response", None)
    asked = str(getattr(response, "headers", {}).get("Retry-After", "")) if response is not None else ""
    return min(max(seconds, float(asked) if asked.isdigit() else 0.0), _LONGEST_WAIT_SECONDS)


def _tell(what: str, tries: int) -> Callable[[Any], None]:
    def tell(state: Any) -> None:
        log.warning("%s: %s (try %d of %d)", what, first_line(state.outcome.exception()), state.attempt_number, tries)

    return tell
