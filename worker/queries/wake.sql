-- Lets the other workers look for deliveries that were just made, in a transaction of its own
-- that flushes nothing: all notifications of a database take one lock until their commit is
-- done, and a host that notifies somebody would wait for a flush of ours.
SELECT set_config('synchronous_commit', 'off', true), pg_notify('outbox_fan_out', %(owner)s::text)
