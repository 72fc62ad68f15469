SELECT pg_advisory_xact_lock(hashtextextended('outbox.fan_out', 0))::text AS locked
