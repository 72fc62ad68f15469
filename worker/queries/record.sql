-- Records what attempts came to: one statement for a batch. The fence is lease_owner and
-- attempt: who lost the claim changes nothing and is recorded as late. A 2xx is a fact
-- and ends the delivery whoever brings it. `again` says that the answer to an earlier
-- run was lost: what that run did record is left as it is. What comes late for a delivery
-- that is not there, because a standby took over that had not heard of it, is left out.
-- A column in which all are NULL comes as NULL itself. Nothing is said of what was delivered.
--
-- The health of their subscriptions goes with it. Where one of a batch succeeded, its
-- failures in the same batch say nothing. Deliveries of operational events neither count
-- for it nor are told of, so that no operational event can bring forth another.
WITH given AS MATERIALIZED (
    SELECT g.* FROM unnest(
        %(delivery_id)s::uuid[], %(attempt)s::smallint[], %(outcome)s::text[], %(counts)s::boolean[],
        %(delay)s::float8[],
        %(revision)s::int[], %(started_at)s::float8[], %(duration_ms)s::int[],
        %(status)s::smallint[], %(error_class)s::text[], %(error)s::text[], %(response_body)s::bytea[],
        %(dns_ms)s::int[], %(connect_ms)s::int[], %(tls_ms)s::int[], %(first_byte_ms)s::int[],
        %(body_ms)s::int[], %(response_headers)s::json[], %(operational)s::boolean[]
    ) AS g (delivery_id, attempt, outcome, counts, delay, revision, started_at, duration_ms,
            status, error_class, error, response_body,
            dns_ms, connect_ms, tls_ms, first_byte_ms, body_ms, response_headers, operational)
    WHERE NOT (%(again)s::boolean AND coalesce((
        SELECT true FROM outbox.attempt a
        WHERE a.delivery_id = g.delivery_id AND a.attempt = g.attempt
            AND a.worker_id = %(owner)s AND a.outcome <> 'lost' LIMIT 1), false))
    ORDER BY g.delivery_id
), ended AS (
    DELETE FROM outbox.delivery_queue q USING given g
    WHERE q.delivery_id = ANY (ARRAY[g.delivery_id])
        AND (g.outcome = 'delivered'
            OR g.outcome = 'dead' AND q.lease_owner = %(owner)s AND q.attempt = g.attempt)
    RETURNING q.delivery_id, q.subscription_id, q.event_id, g.attempt, g.outcome, g.counts,
        g.operational, g.status, g.error_class, g.error
), retried AS (
    UPDATE outbox.delivery_queue q
    SET due_at = now() + make_interval(secs => g.delay), failures = q.failures + g.counts::int,
        lease_until = NULL, lease_owner = NULL
    FROM given g
    WHERE q.delivery_id = ANY (ARRAY[g.delivery_id])
        AND g.outcome = 'retry' AND q.lease_owner = %(owner)s AND q.attempt = g.attempt
    RETURNING q.delivery_id, q.subscription_id, q.event_id, g.attempt, g.outcome, g.counts,
        g.operational, g.status, g.error_class, g.error
), judged AS (
    SELECT g.*,
        g.delivery_id IN (
            SELECT delivery_id FROM ended UNION ALL SELECT delivery_id FROM retried) AS in_time
    FROM given g
), lane AS (
    SELECT subscription_id, bool_or(outcome = 'delivered') AS succeeded,
        nullif(count(*) FILTER (WHERE counts AND outcome <> 'delivered'), 0)::int AS failed,
        json_agg(r) FILTER (WHERE outcome = 'dead') AS dead
    FROM (SELECT * FROM ended UNION ALL SELECT * FROM retried) r
    WHERE NOT operational
    GROUP BY subscription_id
), noted AS (
    SELECT outbox.note_results(
        l.subscription_id, CASE WHEN l.succeeded THEN 0 ELSE l.failed END, l.dead)
    FROM (SELECT * FROM lane ORDER BY subscription_id) l
    LEFT JOIN LATERAL (
        SELECT h.failures FROM outbox.subscription_health h
        WHERE h.subscription_id = l.subscription_id LIMIT 1
    ) h ON true
    WHERE NOT l.succeeded AND l.failed > 0 OR l.dead IS NOT NULL OR l.succeeded AND h.failures > 0
), written AS (
    INSERT INTO outbox.attempt (
        delivery_id, attempt, outcome, worker_id, revision, started_at, duration_ms,
        dns_ms, connect_ms, tls_ms, first_byte_ms, body_ms,
        status, error_class, error, response_headers, response_body, due_at)
    SELECT delivery_id, attempt, CASE WHEN in_time THEN outcome ELSE 'late' END, %(owner)s,
        revision, to_timestamp(started_at), duration_ms, dns_ms, connect_ms, tls_ms, first_byte_ms,
        body_ms, status, error_class, error, response_headers, response_body,
        CASE WHEN in_time AND outcome = 'retry' THEN now() + make_interval(secs => delay) END
    FROM judged j
    WHERE (SELECT count(*) FROM noted) >= 0  -- lets it happen
        AND CASE WHEN in_time THEN true ELSE coalesce(
            (SELECT true FROM outbox.delivery d WHERE d.id = j.delivery_id LIMIT 1), false) END
    RETURNING delivery_id, attempt, outcome, due_at
)
SELECT delivery_id::text, attempt, outcome, extract(epoch FROM due_at - now())::float8 AS due_in
FROM written WHERE outcome <> 'delivered'
