-- A fan-out that began before a subscription was removed, and ended after, leaves open
-- deliveries that nobody would ever claim. They are cancelled like the others.
WITH gone AS (
    DELETE FROM outbox.delivery_queue q USING outbox.subscription s
    WHERE q.subscription_id = s.id AND s.state = 'removed'
    RETURNING q.delivery_id, q.attempt, s.state_reason
), cancelled AS (
    INSERT INTO outbox.attempt (delivery_id, attempt, outcome, error)
    SELECT delivery_id, attempt, 'cancelled', state_reason FROM gone
    RETURNING 1
)
SELECT count(*) AS cancelled FROM cancelled
