-- Turns due events into deliveries: one statement, one transaction, one at a time in the
-- fleet, so that what is committed is whole and events keep their order. Each type of the
-- batch is matched once. Of an ordered subscription only the first of each subject may go.
-- LIMIT 1 leaves the planner no other way than the primary key.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended('outbox.fan_out', 0)) AS mine
), taken AS MATERIALIZED (
    SELECT q.due_at, q.event_id
    FROM outbox.event_queue q
    WHERE (SELECT mine FROM turn) AND q.due_at <= now()
        AND (%(only)s::uuid IS NULL OR q.event_id = %(only)s::uuid)
    ORDER BY q.due_at, q.event_id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM outbox.event_queue q USING taken t
    WHERE q.due_at = ANY (ARRAY[t.due_at]) AND q.event_id = ANY (ARRAY[t.event_id])
), fresh AS MATERIALIZED (
    SELECT t.due_at, e.id, e.type, e.tenant, e.subject, coalesce(e.source = 'outbox', false) AS ours
    FROM taken t CROSS JOIN LATERAL (
        SELECT e.id, e.type, e.tenant, e.subject, e.source
        FROM outbox.event e WHERE e.id = t.event_id LIMIT 1
    ) e
), matched AS MATERIALIZED (
    SELECT k.type, k.tenant, k.ours, array_agg(m.subscription_id) AS subscription_ids,
        array_agg(m.filter) AS filters, array_agg(m.first_delay) AS first_delays,
        array_agg(m.limited) AS limited, array_agg(m.ordered) AS ordered
    FROM (SELECT DISTINCT type, tenant, ours FROM fresh) k
    CROSS JOIN LATERAL outbox.matching(k.type, k.tenant, k.ours) m
    GROUP BY k.type, k.tenant, k.ours
), pair AS MATERIALIZED (
    SELECT outbox.uuid7() AS delivery_id, p.*
    FROM (
        SELECT f.id AS event_id, s.id AS subscription_id, s.first_delay, s.limited,
            CASE WHEN s.ordered THEN f.subject END AS subject
        FROM fresh f
        JOIN matched m
            ON m.type = f.type AND m.tenant IS NOT DISTINCT FROM f.tenant AND m.ours = f.ours
        CROSS JOIN LATERAL unnest(m.subscription_ids, m.filters, m.first_delays, m.limited, m.ordered)
            AS s (id, filter, first_delay, limited, ordered)
        WHERE s.filter IS NULL OR (
            SELECT outbox.passes(e.data, s.filter) FROM outbox.event e WHERE e.id = f.id LIMIT 1)
        ORDER BY f.due_at, f.id
    ) p
), made AS (
    INSERT INTO outbox.delivery (id, event_id, subscription_id)
    SELECT delivery_id, event_id, subscription_id FROM pair
), queued AS (
    INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, due_at)
    SELECT delivery_id, subscription_id, event_id, now() + make_interval(secs => first_delay)
    FROM pair WHERE subject IS NULL
), in_order AS (
    INSERT INTO outbox.delivery_queue (delivery_id, subscription_id, event_id, subject, due_at)
    SELECT delivery_id, subscription_id, event_id, subject, 'infinity'
    FROM pair WHERE subject IS NOT NULL
    RETURNING subscription_id, subject
), promoted AS (
    SELECT outbox.promote(array_agg(subscription_id), array_agg(subject)) AS heads
    FROM in_order HAVING count(*) > 0
)
SELECT
    (SELECT count(*) FROM taken) AS events,
    (SELECT count(*) FROM pair) AS deliveries,
    ARRAY(SELECT DISTINCT subscription_id::text FROM pair WHERE NOT limited) AS lanes,
    ARRAY(SELECT DISTINCT subscription_id::text FROM pair WHERE limited) AS limited,
    (SELECT heads FROM promoted) AS heads
