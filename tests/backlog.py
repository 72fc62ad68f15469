"""A database in which much waits, with the statistics that a planner may find there.

    backlog.bring_to("analyzed when empty")
    with psycopg.connect(backlog.url) as connection: ...

The worst is a queue that was empty when it was analyzed and kept its pages: it counts as
empty however much comes, until it is analyzed again.

Of the open deliveries half are held by a paused subscription, a fifth are of a busy one,
a fifth of forty quiet ones, and a tenth are in order, by subject. As many events wait for
their fan-out, and each open delivery has failed once.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from .databases import NAME, clone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor

QUIET = 40

# Autovacuum would bring statistics of its own.
_BEGIN = """
DO $$
DECLARE
    the_table regclass;
BEGIN
    FOR the_table IN
        SELECT oid FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'r'
    LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', the_table);
    END LOOP;
END
$$;
INSERT INTO outbox.event (type, data) SELECT 'invoice.paid', '{}' FROM generate_series(1, 10);
INSERT INTO outbox.delivery (event_id, subscription_id)
SELECT id, gen_random_uuid() FROM outbox.event;
INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
SELECT id, subscription_id, event_id, now() FROM outbox.delivery;
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, status)
SELECT id, 1, 'delivered', 200 FROM outbox.delivery;
INSERT INTO outbox.limited_claim (delivery_id, subscription_id, attempt, lease_until)
SELECT id, subscription_id, 1, now() FROM outbox.delivery;
INSERT INTO outbox.subscription_health (subscription_id, failures)
SELECT subscription_id, 1 FROM outbox.delivery;
INSERT INTO outbox.event_key (tenant, key, event_id, digest)
VALUES ('', 'first', gen_random_uuid(), '');
DELETE FROM outbox.event_queue;
DELETE FROM outbox.delivery_queue;
DELETE FROM outbox.limited_claim;
DELETE FROM outbox.subscription_health;
ANALYZE;
"""

_FILL = """
SET LOCAL session_replication_role = replica;  -- no triggers
INSERT INTO outbox.subscription (name, url, types, state, ordered, rate, max_in_flight)
SELECT name, 'http://127.0.0.1:9/', '{{invoice.paid}}',
    CASE name WHEN 'paused' THEN name ELSE 'active' END,
    CASE name WHEN 'ordered' THEN 'stop' END, CASE name WHEN 'ordered' THEN 1000 END,
    CASE name WHEN 'ordered' THEN 10000 END
FROM unnest(ARRAY['paused', 'busy', 'ordered'] || ARRAY(
    SELECT 'quiet-' || n FROM generate_series(1, {quiet}) n)) AS name;
INSERT INTO outbox.subscription_type (pattern, tenant, subscription_id)
SELECT 'invoice.paid', '', id FROM outbox.subscription WHERE name = 'busy';
INSERT INTO outbox.throttle (subscription_id, filled_at)
SELECT id, '2020-01-01' FROM outbox.subscription WHERE limited;

INSERT INTO outbox.event (type, subject, data)
SELECT 'invoice.paid', 'invoice/' || n, '{{"id": 1}}' FROM generate_series(1, {count} / 10) n;
WITH e AS (
    SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM outbox.event WHERE subject IS NOT NULL
), s AS MATERIALIZED (
    SELECT array_agg(id ORDER BY name) AS quiet FROM outbox.subscription WHERE name LIKE 'quiet-%'
), made AS MATERIALIZED (
    SELECT outbox.uuid7() AS id, e.id AS event_id, e.n, e.p AS place, CASE
        WHEN p < 5 THEN (SELECT id FROM outbox.subscription WHERE name = 'paused')
        WHEN p < 7 THEN (SELECT id FROM outbox.subscription WHERE name = 'busy')
        WHEN p < 8 THEN (SELECT id FROM outbox.subscription WHERE name = 'ordered')
        ELSE s.quiet[(2 * e.n + p) % {quiet} + 1] END AS subscription_id
    FROM s, (SELECT * FROM e CROSS JOIN generate_series(0, 9) p ORDER BY e.n, p) e
), facts AS (
    INSERT INTO outbox.delivery (id, event_id, subscription_id)
    SELECT id, event_id, subscription_id FROM made
), attempts AS (
    INSERT INTO outbox.attempt (
        delivery_id, attempt, outcome, status, started_at, duration_ms, worker_id)
    SELECT id, 1, 'retry', 503, now(), 7, 7 FROM made
)
INSERT INTO outbox.delivery_queue (
    delivery_id, subscription_id, event_id, subject, attempt, failures, due_at,
    lease_owner, lease_until)
SELECT id, subscription_id, event_id,
    CASE place WHEN 7 THEN 'user/' || n % ({count} / 100) END, 1, 1,
    CASE WHEN place = 7 AND n >= {count} / 100 THEN 'infinity'
         ELSE now() - interval '1 h' + n * interval '1 ms' END,
    CASE WHEN place = 7 AND n < 5 THEN 7 END,
    CASE WHEN place = 7 AND n < 5 THEN now() + interval '1 h' END
FROM made;
INSERT INTO outbox.limited_claim (delivery_id, subscription_id, subject, attempt, lease_until)
SELECT delivery_id, subscription_id, subject, attempt, lease_until
FROM outbox.delivery_queue WHERE lease_owner IS NOT NULL;
SELECT brin_summarize_new_values(oid) FROM pg_class  -- as autovacuum does
WHERE relname LIKE 'attempt\\_%\\_recorded\\_at\\_idx' AND relkind = 'i';
INSERT INTO outbox.subscription_health (subscription_id, failures)
SELECT gen_random_uuid(), 1 FROM generate_series(1, {count} / 50)
UNION ALL SELECT id, 1 FROM outbox.subscription;
INSERT INTO outbox.event_key (tenant, key, event_id, digest)
SELECT '', 'key-' || n, gen_random_uuid(), d.digest
FROM generate_series(1, {count}) n,
    (SELECT outbox.digest('{{"type": "invoice.paid", "data": {{"id": 1}}}}') AS digest) d;

SET LOCAL session_replication_role = origin;
DO $$
BEGIN
    FOR n IN 1 .. {count} / 100 LOOP
        INSERT INTO outbox.event (type, data)
        SELECT 'invoice.paid', '{{"id": 1}}' FROM generate_series(1, 100);
    END LOOP;
END
$$;
"""

_FORGET = """
DELETE FROM pg_statistic WHERE starelid IN (
    SELECT oid FROM pg_class WHERE relnamespace = 'outbox'::regnamespace);
UPDATE pg_class SET reltuples = -1, relpages = 0, relallvisible = 0
WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'i', 'p', 'I');
"""

# Ended are all but the newest; nothing has been vacuumed yet.
_DRAIN = """
DELETE FROM outbox.delivery_queue WHERE delivery_id < (
    SELECT delivery_id FROM outbox.delivery_queue ORDER BY delivery_id DESC OFFSET 500 LIMIT 1);
DELETE FROM outbox.event_queue WHERE event_id < (
    SELECT event_id FROM outbox.event_queue ORDER BY due_at DESC OFFSET 100 LIMIT 1);
"""

# Each leads on from the one before.
SITUATIONS = {
    "analyzed when empty": "",
    "never analyzed": _FORGET,
    "analyzed": "ANALYZE",
    "analyzed when full": _DRAIN,
}


class Backlog:
    """A database with `count` rows in each large table, made when it is asked for."""

    def __init__(self, template: NoopExecutor, count: int) -> None:
        self.count = count
        self.url = ""
        self.situation = ""
        self._left = list(SITUATIONS)
        self._template = template
        self._stack = ExitStack()

    def bring_to(self, situation: str) -> None:
        """Let the statistics be those of a situation."""
        if not self.url or situation not in (*self._left, self.situation):
            self._fill()
        while self.situation != situation:
            self.situation = self._left.pop(0)
            self._run(SITUATIONS[self.situation])

    def _fill(self) -> None:
        self.close()
        self.url = self._stack.enter_context(clone(self._template, f"{NAME}_{self.count}")).url
        self._left = list(SITUATIONS)
        self._run(_BEGIN)
        self._run(_FILL.format(count=self.count, quiet=QUIET))

    def _run(self, script: str) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(script.encode())

    def close(self) -> None:
        """Drop the database."""
        self._stack.close()

    @property
    def dead(self) -> int:
        """How many pages of dead entries a look at a queue may pass, until it is vacuumed."""
        return self.count // 50 if self.situation == "analyzed when full" else 0


@pytest.fixture(scope="session")
def backlogs(template: NoopExecutor) -> Iterator[dict[int, Backlog]]:
    """Those made so far: what is much is filled once for all tests."""
    made = {count: Backlog(template, count) for count in (1_000, 1_000_000)}
    yield made
    for backlog in made.values():
        backlog.close()


@pytest.fixture(
    scope="session",
    params=[
        pytest.param((count, situation), id=f"{count:,} {situation}", marks=marks)
        for count, marks in ((1_000, ()), (1_000_000, pytest.mark.slow))
        for situation in SITUATIONS
    ],
)
def backlog(request: pytest.FixtureRequest, backlogs: dict[int, Backlog]) -> Backlog:
    """A short or a long backlog, in each situation."""
    count, situation = request.param
    backlogs[count].bring_to(situation)
    return backlogs[count]
