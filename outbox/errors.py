"""Everything that can go wrong and is yours to catch.

    OutboxError
     + InvalidInput             a value breaks a rule; nothing was sent to the database
     + KeyConflict              a key was used before, for another event
     + NotFound                 no event, delivery or subscription has this id
     + WrongState               what was asked does not fit the state it is in
     + SchemaMismatch           the database is not on the schema version of this program
     + SignatureInvalid         a webhook's signature does not verify
     + DatabaseUnavailable      PostgreSQL cannot be reached or refused the login
     + EmbeddedUnavailable      the embedded PostgreSQL cannot be started

Each error carries its data as attributes; the message is made from them
and never holds a secret or a password.
"""

from __future__ import annotations


class OutboxError(Exception):
    """The root of the tree."""


class InvalidInput(OutboxError):
    """`field` breaks `rule`."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class KeyConflict(OutboxError):
    """`key` already stands for the event `event_id`, which holds something else."""

    def __init__(self, key: str, tenant: str | None, event_id: str) -> None:
        whose = f" of tenant {tenant!r}" if tenant else ""
        super().__init__(
            f"key: {key!r}{whose} already belongs to event {event_id}, whose content differs"
        )
        self.key = key
        self.tenant = tenant
        self.event_id = event_id


class NotFound(OutboxError):
    """There is no `kind` with the id `id`."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"{kind}: there is none with the id {id}")
        self.kind = kind
        self.id = id


class WrongState(OutboxError):
    """`kind` `id` is `state`, which does not allow `verb`."""

    def __init__(self, kind: str, id: str, state: str, verb: str) -> None:
        super().__init__(f"{kind} {id} is {state}: it cannot be {verb}")
        self.kind = kind
        self.id = id
        self.state = state


class SchemaMismatch(OutboxError):
    """The database has schema version `found` (None: none), this program needs `expected`."""

    def __init__(self, found: int | None, expected: int) -> None:
        super().__init__(self._remedy(found, expected))
        self.found = found
        self.expected = expected

    @staticmethod
    def _remedy(found: int | None, expected: int) -> str:
        if found is None:
            return "schema: not installed in this database; run `outbox schema apply`"
        if found < expected:
            return (
                f"schema: the database has version {found}, this program needs {expected}; "
                "run `outbox schema apply`"
            )
        return (
            f"schema: the database has version {found}, this program knows only {expected}; "
            "install a newer outbox-webhooks"
        )


class SignatureInvalid(OutboxError):
    """A webhook does not verify, for the reason `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"signature: {reason}")
        self.reason = reason


class DatabaseUnavailable(OutboxError):
    """PostgreSQL cannot be used now, for the reason `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"database: {reason}")
        self.reason = reason


class EmbeddedUnavailable(OutboxError):
    """The embedded PostgreSQL cannot be used, for the reason `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"embedded PostgreSQL: {reason}")
        self.reason = reason
