-- The event at the head of the queue, for the one that holds the lock of the fan-out.
SELECT event_id FROM outbox.event_queue
WHERE due_at <= now()
ORDER BY due_at, event_id
LIMIT 1
