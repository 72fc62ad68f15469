"""The tables of schema.sql as SQLAlchemy Core knows them, for the stores of this package.

schema.sql is the source; only columns that the stores use stand here.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    cast,
    literal_column,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, OID
from sqlalchemy.types import UserDefinedType

metadata = MetaData(schema="outbox")
Moment = DateTime(timezone=True)
INFINITY = literal_column("'infinity'::timestamptz", Moment)  # due when somebody says so


class JsonText(UserDefinedType[str]):
    """PostgreSQL's `json` as the text it is: drivers neither parse nor rewrite it."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"

    def bind_expression(self, bindparam: Any) -> Any:
        return cast(cast(bindparam, Text), JsonText)

    def column_expression(self, column: Any) -> Any:
        return cast(column, Text)


class JsonPath(UserDefinedType[str]):
    """PostgreSQL's `jsonpath`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSONPATH"


schema_version = Table(
    "schema_version", metadata, Column("version", Integer), Column("installed_at", Moment)
)

event = Table(
    "event",
    metadata,
    Column("id", Uuid),
    Column("type", Text),
    Column("tenant", Text),
    Column("subject", Text),
    Column("source", Text),
    Column("data", JsonText),
    Column("context", JsonText),
    Column("occurred_at", Moment),
    Column("due_at", Moment),
)

event_key = Table(
    "event_key",
    metadata,
    Column("tenant", Text),
    Column("key", Text),
    Column("event_id", Uuid),
    Column("digest", LargeBinary),
)

event_queue = Table(
    "event_queue",
    metadata,
    Column("due_at", Moment),
    Column("event_id", Uuid),
    Column("error", Text),
)

subscription = Table(
    "subscription",
    metadata,
    Column("id", Uuid),
    Column("name", Text),
    Column("tenant", Text),
    Column("url", Text),
    Column("types", ARRAY(Text)),
    Column("filter", Text),
    Column("method", Text),
    Column("format", Text),
    Column("schemes", ARRAY(Text)),
    Column("headers", JsonText),
    Column("user_agent", Text),
    Column("timeout", Double),
    Column("schedule", ARRAY(Double)),
    Column("max_age", Double),
    Column("max_in_flight", Integer),
    Column("rate", Double),
    Column("burst", Integer),
    Column("ordered", Text),
    Column("state", Text),
    Column("state_reason", Text),
    Column("revision", Integer),
    Column("created_at", Moment),
    Column("changed_at", Moment),
)

subscription_health = Table(
    "subscription_health",
    metadata,
    Column("subscription_id", Uuid),
    Column("failing_since", Moment),
    Column("failures", Integer),
)

throttle = Table("throttle", metadata, Column("subscription_id", Uuid))

blocked_subject = Table(
    "blocked_subject",
    metadata,
    Column("subscription_id", Uuid),
    Column("subject", Text),
    Column("delivery_id", Uuid),
    Column("blocked_at", Moment),
)

subscription_type = Table(
    "subscription_type",
    metadata,
    Column("pattern", Text),
    Column("tenant", Text),
    Column("subscription_id", Uuid),
)

subscription_change = Table(
    "subscription_change",
    metadata,
    Column("id", Uuid),
    Column("subscription_id", Uuid),
    Column("revision", Integer),
    Column("change", Text),
    Column("actor", Text),
    Column("command", Text),
    Column("after", JSONB),
    Column("changed_at", Moment),
)

secret = Table(
    "secret",
    metadata,
    Column("id", Uuid),
    Column("subscription_id", Uuid),
    Column("key_id", Text),
    Column("sealed", Text),
    Column("created_at", Moment),
    Column("expires_at", Moment),
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", Uuid),
    Column("event_id", Uuid),
    Column("subscription_id", Uuid),
    Column("replay_id", Uuid),
)

delivery_queue = Table(
    "delivery_queue",
    metadata,
    Column("delivery_id", Uuid),
    Column("subscription_id", Uuid),
    Column("event_id", Uuid),
    Column("subject", Text),
    Column("due_at", Moment),
    Column("lease_until", Moment),
    Column("lease_owner", Integer),
    Column("attempt", SmallInteger),
    Column("failures", SmallInteger),
)

attempt = Table(
    "attempt",
    metadata,
    Column("delivery_id", Uuid),
    Column("attempt", SmallInteger),
    Column("outcome", Text),
    Column("worker_id", Integer),
    Column("revision", Integer),
    Column("started_at", Moment),
    Column("duration_ms", Integer),
    Column("dns_ms", Integer),
    Column("connect_ms", Integer),
    Column("tls_ms", Integer),
    Column("first_byte_ms", Integer),
    Column("body_ms", Integer),
    Column("status", SmallInteger),
    Column("error_class", Text),
    Column("error", Text),
    Column("response_headers", JsonText),
    Column("response_body", LargeBinary),
    Column("due_at", Moment),
    Column("recorded_at", Moment),
)

replay = Table(
    "replay",
    metadata,
    Column("id", Uuid),
    Column("mode", Text),
    Column("event_id", Uuid),
    Column("subscription_id", Uuid),
    Column("type", Text),
    Column("tenant", Text),
    Column("subject", Text),
    Column("since", Moment),
    Column("until", Moment),
    Column("rate", Double),
    Column("counted", BigInteger),
    Column("made", BigInteger),
    Column("after_event", Uuid),
    Column("after_subscription", Uuid),
    Column("last_event", Uuid),
    Column("tokens", Double),
    Column("state", Text),
    Column("error", Text),
    Column("actor", Text),
    Column("command", Text),
    Column("created_at", Moment),
    Column("moved_at", Moment),
    Column("ended_at", Moment),
)

event_type = Table(
    "event_type",
    metadata,
    Column("type", Text),
    Column("description", Text),
    Column("schema", JsonText),
    Column("example", JsonText),
    Column("deprecated", Boolean),
    Column("created_at", Moment),
    Column("changed_at", Moment),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Integer),
    Column("host", Text),
    Column("pid", Integer),
    Column("version", Text),
    Column("started_at", Moment),
    Column("seen_at", Moment),
    Column("stopped_at", Moment),
)

retention = Table(
    "retention",
    metadata,
    Column("keep", Interval),
    Column("actor", Text),
    Column("command", Text),
    Column("changed_at", Moment),
)

erasure = Table(
    "erasure",
    metadata,
    Column("id", Uuid),
    Column("tenant", Text),
    Column("subject", Text),
    Column("actor", Text),
    Column("command", Text),
    Column("erased_at", Moment),
)

capture = Table(
    "capture",
    metadata,
    Column("id", Uuid),
    Column("table_name", Text),
    Column("type", Text),
    Column("operations", ARRAY(Text)),
    Column("columns", ARRAY(Text)),
    Column("excluded", ARRAY(Text)),
    Column("tenant_from", Text),
    Column("subject_from", ARRAY(Text)),
    Column("type_from", Text),
    Column("actor", Text),
    Column("command", Text),
    Column("created_at", Moment),
    Column("removed_at", Moment),
    Column("removed_by", Text),
)

capture_state = Table(
    "capture_state",
    metadata,
    Column("id", Uuid),
    Column("state", Text),
    Column("host_table", OID),
    Column("table_now", Text),
    Column("columns_now", ARRAY(Text)),
    Column("children_now", ARRAY(Text)),
)

limited_claim = Table(
    "limited_claim",
    metadata,
    Column("delivery_id", Uuid),
    Column("subscription_id", Uuid),
    Column("subject", Text),
    Column("attempt", SmallInteger),
    Column("lease_until", Moment),
)

replay_lane = Table(
    "replay_lane",
    metadata,
    Column("replay_id", Uuid),
    Column("subscription_id", Uuid),
    Column("after_event", Uuid),
)
