-- The next pairs of a replay, and the last event that was looked at for them: so many
-- events from a cursor on, whether they have any. Either those behind the cursor of all, of
-- subscriptions that are not set apart, or those of the ones that are, each behind its own.
WITH reach AS MATERIALIZED (
    SELECT coalesce((
        SELECT e.id FROM outbox.event e
        WHERE e.id BETWEEN %(after_event)s::uuid AND %(last_event)s::uuid
        ORDER BY e.id OFFSET %(scan)s LIMIT 1
    ), %(last_event)s::uuid) AS event_id
)
SELECT r.event_id::text AS reached, p.event_id::text, p.subscription_id::text
FROM reach r LEFT JOIN LATERAL (
    SELECT p.event_id, p.subscription_id
    FROM outbox.replay_pairs(
        %(mode)s::text, %(only_to)s::uuid, %(type)s::text, %(tenant)s::text, %(subject)s::text,
        %(after_event)s::uuid, r.event_id, %(asked_at)s::timestamptz, true) p
    WHERE CASE WHEN %(apart)s
        THEN EXISTS (
            SELECT FROM unnest(%(lanes)s::uuid[], %(after_events)s::uuid[]) AS l (id, after_event)
            WHERE l.id = p.subscription_id AND l.after_event < p.event_id)
        ELSE (p.event_id, p.subscription_id)
                > (%(after_event)s::uuid, %(after_subscription)s::uuid)
            AND p.subscription_id <> ALL (%(lanes)s::uuid[])
        END
    ORDER BY p.event_id, p.subscription_id
    LIMIT %(limit)s
) p ON true
ORDER BY p.event_id, p.subscription_id
