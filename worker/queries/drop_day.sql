SELECT outbox.drop_day(%(fact)s, %(day)s, %(looked_at)s) AS dropped
