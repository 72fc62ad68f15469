-- The subscriptions that a replay has set apart, and behind which event each goes on.
SELECT subscription_id::text, after_event::text
FROM outbox.replay_lane WHERE replay_id = %(id)s::uuid
