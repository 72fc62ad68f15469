-- Claims from lanes that have limits and that lock_throttles has taken in hand: as in
-- claim, but no more than the limits leave. What is leased counts as in flight; the rate
-- is a bucket of tokens that fills by the clock and holds half of the burst: the other half
-- is room for what the way to the receiver pushes together. A statement of its own after the lock, so
-- that it sees what the one before had claimed. Each lane has at least one row, which says
-- whether it is full and in how many seconds its rate allows the next request.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS at
), lane AS MATERIALIZED (
    SELECT l.subscription_id, l.quota, s.revision, s.rate, b.bucket,
        s.max_in_flight - (
            SELECT count(*) FROM outbox.limited_claim c
            WHERE c.subscription_id = s.id AND c.lease_until > m.at) AS free,
        CASE WHEN s.rate IS NOT NULL THEN
            least(b.bucket, t.tokens + s.rate * extract(epoch FROM m.at - t.filled_at)) END AS tokens
    FROM moment m
    CROSS JOIN unnest(%(lanes)s::uuid[], %(quotas)s::int[]) AS l (subscription_id, quota)
    JOIN outbox.subscription s ON s.id = l.subscription_id AND s.state = 'active' AND s.limited
    JOIN outbox.throttle t ON t.subscription_id = s.id
    CROSS JOIN LATERAL (SELECT greatest(1, coalesce(s.burst, s.rate / 10) / 2) AS bucket) b
), taken AS MATERIALIZED (
    SELECT q.delivery_id, q.lease_owner, q.attempt, l.revision
    FROM lane l
    CROSS JOIN LATERAL (
        SELECT q.delivery_id, q.lease_owner, q.attempt
        FROM outbox.delivery_queue q
        WHERE q.subscription_id = l.subscription_id
            AND q.due_at <= now()
            AND (q.lease_until IS NULL OR q.lease_until <= now())
        ORDER BY q.due_at
        LIMIT greatest(0, least(l.quota, l.free, floor(l.tokens)))::bigint
        FOR UPDATE SKIP LOCKED
    ) q
), lost AS (
    INSERT INTO outbox.attempt (delivery_id, attempt, outcome, worker_id, error)
    SELECT delivery_id, attempt, 'lost', lease_owner, 'the worker stopped before it recorded an answer'
    FROM taken WHERE lease_owner IS NOT NULL
), claimed AS (
    UPDATE outbox.delivery_queue q
    SET lease_until = now() + make_interval(secs => %(lease)s), lease_owner = %(owner)s,
        attempt = q.attempt + 1
    FROM taken t
    WHERE q.delivery_id = ANY (ARRAY[t.delivery_id])
    RETURNING q.delivery_id, q.subscription_id, q.event_id, q.subject, q.attempt, q.failures,
        q.lease_until, t.revision, t.lease_owner IS NOT NULL AS took_over
), counted AS (
    INSERT INTO outbox.limited_claim (delivery_id, subscription_id, subject, attempt, lease_until)
    SELECT delivery_id, subscription_id, subject, attempt, lease_until FROM claimed
    ON CONFLICT (delivery_id) DO UPDATE
    SET attempt = excluded.attempt, lease_until = excluded.lease_until
), used AS MATERIALIZED (
    SELECT l.*, (SELECT count(*) FROM claimed c WHERE c.subscription_id = l.subscription_id) AS n
    FROM lane l
), spent AS (
    UPDATE outbox.throttle t
    SET tokens = u.tokens - u.n, filled_at = m.at
    FROM used u, moment m
    WHERE t.subscription_id = u.subscription_id AND u.rate IS NOT NULL
)
SELECT u.subscription_id::text AS lane, coalesce(u.free <= u.n, false) AS is_full,
    CASE WHEN u.tokens - u.n < 1
        THEN greatest((1 - u.tokens + u.n) / u.rate, least(0.05, u.bucket / (2 * u.rate)))
        ELSE 0 END::float8 AS wait,
    c.delivery_id::text, c.subscription_id::text, c.event_id::text, c.attempt, c.failures,
    c.revision, c.took_over, c.type, c.tenant, c.subject, c.source, c.data, c.occurred_at,
    c.traceparent, true AS limited, c.scheduled
FROM used u
LEFT JOIN (
    SELECT c.*, e.type, e.tenant, e.source, e.data::text AS data, e.occurred_at,
        e.context ->> 'traceparent' AS traceparent,
        extract(epoch FROM e.due_at)::float8 AS scheduled
    FROM claimed c CROSS JOIN LATERAL (
        SELECT * FROM outbox.event e WHERE e.id = c.event_id LIMIT 1
    ) e
) c ON c.subscription_id = u.subscription_id
