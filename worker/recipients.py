"""Subscriptions as requests need them: loaded and made ready once for each revision.

A claim says which revision it saw, so an edit takes effect at the next attempt. What
cannot be sent to, because its secret, URL or header is not usable, is disabled with its
reason; its deliveries are held and no attempt is used up.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from outbox.errors import InvalidInput
from outbox.request import Target, prepare
from outbox.schedule import DEFAULT_SCHEDULE

from .settings import READY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outbox.keyring import Keyring

    from .claim import Claim
    from .rows import Recipient
    from .store import Store

logger = logging.getLogger("outbox.worker")


@dataclass(frozen=True, slots=True)
class Ready:
    """A subscription ready to be sent to. Times are in seconds; None is the worker's timeout."""

    revision: int
    target: Target
    schedule: tuple[float, ...]
    timeout: float | None = None
    max_age: float | None = None


class Recipients:
    """What is ready, by subscription id."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._ready: dict[str, Ready] = {}

    async def load(self, claims: list[Claim]) -> None:
        """Make the subscriptions of `claims` ready, those that changed anew."""
        if len(self._ready) > READY:
            self._ready.clear()
        stale = {c.subscription_id for c in claims if not self._is_current(c)}
        if stale:
            heard = {c.subscription_id for c in claims if not c.operational}
            for recipient in await self._store.recipients(stale):
                await self._prepare(recipient, tell=recipient.subscription_id in heard)

    async def foresee(self, lanes: Iterable[str]) -> None:
        """Make ready what of `lanes` is new, while they are claimed from.

        Whatever goes wrong here is left to `load`, which knows who is to hear of it.
        """
        new = [lane for lane in lanes if lane not in self._ready]
        with suppress(psycopg.Error):
            for recipient in await self._store.recipients(new) if new else ():
                with suppress(InvalidInput):
                    self._keep(recipient)

    def get(self, claim: Claim) -> Ready | None:
        """Return the subscription of `claim`, or None if nothing can be sent to it."""
        return self._ready.get(claim.subscription_id)

    def _is_current(self, claim: Claim) -> bool:
        known = self._ready.get(claim.subscription_id)
        return (
            known is not None
            and known.revision >= claim.revision
            and known.target.sign_at(time.time()) is not None
        )

    async def _prepare(self, recipient: Recipient, *, tell: bool) -> None:
        id = recipient.subscription_id
        try:
            self._keep(recipient)
        except InvalidInput as error:
            self._ready.pop(id, None)
            if await self._store.disable(id, str(error), tell=tell):
                logger.warning("disabled subscription %s: %s", id, error)

    def _keep(self, recipient: Recipient) -> None:
        target, schedule = self._target(recipient), recipient.schedule or DEFAULT_SCHEDULE
        self._ready[recipient.subscription_id] = Ready(
            recipient.revision, target, schedule, recipient.timeout, recipient.max_age
        )

    def _target(self, recipient: Recipient) -> Target:
        id = recipient.subscription_id
        return prepare(
            id,
            recipient.url,
            [(self._keyring.open(s, subscription_id=id), s.expires_at) for s in recipient.secrets],
            headers=recipient.headers,
            method=recipient.method,
            format=recipient.format,
            schemes=recipient.schemes,
            user_agent=recipient.user_agent,
        )
