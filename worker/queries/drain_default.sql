SELECT outbox.drain_default(%(fact)s) AS moved
