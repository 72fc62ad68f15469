-- Records what attempts came to: one statement for a batch. The fence is lease_owner and
-- attempt: who lost the claim changes nothing and is recorded as late. A 2xx is a fact
-- and ends the delivery whoever brings it. `again` says that the answer to an earlier
-- run was lost: what that run did record is left as it is.
WITH given AS MATERIALIZED (
    SELECT g.* FROM unnest(
        %(delivery_id)s::uuid[], %(attempt)s::smallint[], %(outcome)s::text[], %(counts)s::boolean[],
        %(delay)s::float8[],
        %(revision)s::int[], %(started_at)s::timestamptz[], %(duration_ms)s::int[],
        %(status)s::smallint[], %(error_class)s::text[], %(error)s::text[], %(response_body)s::bytea[]
    ) AS g (delivery_id, attempt, outcome, counts, delay, revision, started_at, duration_ms,
            status, error_class, error, response_body)
    WHERE NOT (%(again)s::boolean AND coalesce((
        SELECT true FROM outbox.attempt a
        WHERE a.delivery_id = g.delivery_id AND a.attempt = g.attempt
            AND a.worker_id = %(owner)s AND a.outcome <> 'lost' LIMIT 1), false))
    ORDER BY g.delivery_id
), ended AS (
    DELETE FROM outbox.delivery_queue q USING given g
    WHERE q.delivery_id = g.delivery_id
        AND (g.outcome = 'delivered'
            OR g.outcome = 'dead' AND q.lease_owner = %(owner)s AND q.attempt = g.attempt)
    RETURNING q.delivery_id
), retried AS (
    UPDATE outbox.delivery_queue q
    SET due_at = now() + make_interval(secs => g.delay), failures = q.failures + g.counts::int,
        lease_until = NULL, lease_owner = NULL
    FROM given g
    WHERE q.delivery_id = g.delivery_id
        AND g.outcome = 'retry' AND q.lease_owner = %(owner)s AND q.attempt = g.attempt
    RETURNING q.delivery_id
), judged AS (
    SELECT g.*,
        g.delivery_id IN (SELECT delivery_id FROM ended)
            OR g.delivery_id IN (SELECT delivery_id FROM retried) AS in_time
    FROM given g
)
INSERT INTO outbox.attempt (
    delivery_id, attempt, outcome, worker_id, revision, started_at, duration_ms,
    status, error_class, error, response_body, due_at)
SELECT delivery_id, attempt, CASE WHEN in_time THEN outcome ELSE 'late' END, %(owner)s,
    revision, started_at, duration_ms, status, error_class, error, response_body,
    CASE WHEN in_time AND outcome = 'retry' THEN now() + make_interval(secs => delay) END
FROM judged
RETURNING delivery_id::text, attempt, outcome, extract(epoch FROM due_at - now())::float8 AS due_in
