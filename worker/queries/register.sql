INSERT INTO outbox.worker (host, pid, version)
VALUES (%(host)s, %(pid)s, %(version)s)
RETURNING id, host, pid, version, started_at
