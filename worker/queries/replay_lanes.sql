-- The subscriptions that a replay has set apart, each with the event behind which it goes on.
SELECT l.subscription_id::text, l.after_event::text, s.state
FROM outbox.replay_lane l
JOIN outbox.subscription s ON s.id = l.subscription_id
WHERE l.replay_id = %(id)s::uuid
