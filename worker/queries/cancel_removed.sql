-- A fan-out that began before a subscription was removed, and ended after, leaves open
-- deliveries that nobody would ever claim, and so does a worker that was just at them. They
-- are cancelled like the others; what somebody is at again has its turn the next time.
WITH taken AS MATERIALIZED (
    SELECT q.delivery_id
    FROM outbox.delivery_queue q JOIN outbox.subscription s ON q.subscription_id = ANY (ARRAY[s.id])
    WHERE s.state = 'removed'
    FOR UPDATE OF q SKIP LOCKED
), gone AS (
    DELETE FROM outbox.delivery_queue q USING taken t, outbox.subscription s
    WHERE q.delivery_id = ANY (ARRAY[t.delivery_id]) AND s.id = ANY (ARRAY[q.subscription_id])
    RETURNING q.delivery_id, q.attempt, q.lease_owner, q.lease_until > now() AS in_flight,
        s.state_reason
), lost AS (
    INSERT INTO outbox.attempt (delivery_id, attempt, outcome, worker_id, error)
    SELECT delivery_id, attempt, 'lost', lease_owner, 'the worker stopped before it recorded an answer'
    FROM gone WHERE NOT in_flight
), settled AS (
    DELETE FROM outbox.limited_claim c USING gone g
    WHERE c.delivery_id = ANY (ARRAY[g.delivery_id]) AND NOT g.in_flight
), cancelled AS (
    INSERT INTO outbox.attempt (delivery_id, attempt, outcome, error)
    SELECT delivery_id, attempt, 'cancelled', state_reason FROM gone
    RETURNING 1
)
SELECT count(*) AS cancelled FROM cancelled
