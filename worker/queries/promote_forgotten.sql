-- Lets the next delivery of each subject go whose head is gone and was not followed: the
-- worker that ended it lost its claim to another, which then died. Also drops the claims
-- that such workers left. A loose index scan, one probe a subject.
WITH RECURSIVE stream AS (
    (SELECT q.subscription_id, q.subject FROM outbox.delivery_queue q
     WHERE q.subject IS NOT NULL
     ORDER BY q.subscription_id, q.subject LIMIT 1)
    UNION ALL
    SELECT n.subscription_id, n.subject FROM stream s CROSS JOIN LATERAL (
        SELECT q.subscription_id, q.subject FROM outbox.delivery_queue q
        WHERE q.subject IS NOT NULL AND (q.subscription_id, q.subject) > (s.subscription_id, s.subject)
        ORDER BY q.subscription_id, q.subject LIMIT 1
    ) n
), headless AS (
    SELECT s.subscription_id, s.subject FROM stream s
    WHERE NOT coalesce((
            SELECT true FROM outbox.delivery_queue q
            WHERE q.subscription_id = s.subscription_id AND q.subject = s.subject
                AND q.subject IS NOT NULL AND q.due_at < 'infinity' LIMIT 1), false)
        AND NOT coalesce((
            SELECT true FROM outbox.blocked_subject b
            WHERE b.subscription_id = s.subscription_id AND b.subject = s.subject LIMIT 1), false)
), left_over AS (
    DELETE FROM outbox.limited_claim c WHERE c.lease_until < now() - interval '1 hour'
)
SELECT coalesce(outbox.promote(array_agg(subscription_id), array_agg(subject)), 0) AS promoted
FROM headless
