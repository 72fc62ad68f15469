-- Claims due deliveries: of each given lane at most its quota. Lanes that have limits are
-- for claim_limited. A row whose lease ran out
-- is claimed like any other; its former owner's attempt is recorded as lost, here, in the
-- same transaction. Committed before the first byte of a request leaves.
WITH lane AS (
    SELECT * FROM unnest(%(lanes)s::uuid[], %(quotas)s::int[]) AS l (subscription_id, quota)
), taken AS MATERIALIZED (
    SELECT q.delivery_id, q.lease_owner, q.attempt, s.revision
    FROM lane l
    JOIN outbox.subscription s ON s.id = l.subscription_id AND s.state = 'active' AND NOT s.limited
    CROSS JOIN LATERAL (
        SELECT q.delivery_id, q.lease_owner, q.attempt
        FROM outbox.delivery_queue q
        WHERE q.subscription_id = l.subscription_id
            AND q.due_at <= now()
            AND (q.lease_until IS NULL OR q.lease_until <= now())
        ORDER BY q.due_at
        LIMIT l.quota
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
    RETURNING q.delivery_id, q.subscription_id, q.event_id, q.attempt, q.failures, t.revision,
        t.lease_owner IS NOT NULL AS took_over
)
SELECT c.delivery_id::text, c.subscription_id::text, c.event_id::text, c.attempt, c.failures,
    c.revision, c.took_over, e.type, e.tenant, e.subject, e.source, e.data::text AS data,
    e.occurred_at, e.context ->> 'traceparent' AS traceparent,
    false AS limited, extract(epoch FROM e.due_at)::float8 AS scheduled
FROM claimed c CROSS JOIN LATERAL (
    SELECT * FROM outbox.event e WHERE e.id = c.event_id LIMIT 1
) e
