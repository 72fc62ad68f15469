-- Gives claims back before their lease ends. A request that never began did not use its
-- number: the next claim takes it again. One that was cut stands in the log as lost.
WITH given AS (
    SELECT * FROM unnest(%(delivery_id)s::uuid[], %(attempt)s::smallint[]) AS g (delivery_id, attempt)
), released AS (
    UPDATE outbox.delivery_queue q
    SET lease_until = NULL, lease_owner = NULL,
        attempt = q.attempt - CASE WHEN %(cut)s::boolean THEN 0 ELSE 1 END
    FROM given g
    WHERE q.delivery_id = ANY (ARRAY[g.delivery_id])
        AND q.lease_owner = %(owner)s AND q.attempt = g.attempt
    RETURNING q.delivery_id, g.attempt
), uncounted AS (
    DELETE FROM outbox.limited_claim c USING given g
    WHERE c.delivery_id = ANY (ARRAY[g.delivery_id]) AND c.attempt = g.attempt
)
INSERT INTO outbox.attempt (delivery_id, attempt, outcome, worker_id, error)
SELECT delivery_id, attempt, 'lost', %(owner)s, 'the worker was stopped before an answer came'
FROM released WHERE %(cut)s::boolean
RETURNING delivery_id
