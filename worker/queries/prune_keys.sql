SELECT tenant, key, pruned FROM outbox.prune_keys(%(tenant)s, %(key)s, 10000)
