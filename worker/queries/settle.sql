SELECT outbox.settle(%(delivery_id)s::uuid[], %(attempt)s::smallint[])
