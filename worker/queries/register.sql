INSERT INTO outbox.worker (host, pid, version)
VALUES (%(host)s, %(pid)s, %(version)s)
RETURNING id
