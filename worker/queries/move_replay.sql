-- Moves a replay on: its cursor and those of the subscriptions set apart, in the transaction
-- that made the deliveries in between. It is done when all have come to the last event.
WITH apart AS (
    INSERT INTO outbox.replay_lane (replay_id, subscription_id, after_event)
    SELECT %(id)s::uuid, l.id, l.after_event
    FROM unnest(%(lanes)s::uuid[], %(after_events)s::uuid[]) AS l (id, after_event)
    ON CONFLICT (replay_id, subscription_id) DO UPDATE SET after_event = excluded.after_event
), joined AS (
    DELETE FROM outbox.replay_lane
    WHERE replay_id = %(id)s::uuid AND subscription_id = ANY (%(joined)s::uuid[])
)
UPDATE outbox.replay
SET after_event = %(after_event)s::uuid, after_subscription = %(after_subscription)s::uuid,
    made = made + %(made)s, tokens = %(tokens)s, filled_at = %(at)s, moved_at = %(at)s,
    state = CASE WHEN %(done)s THEN 'done' ELSE state END,
    ended_at = CASE WHEN %(done)s THEN %(at)s::timestamptz END
WHERE id = %(id)s::uuid
RETURNING id
