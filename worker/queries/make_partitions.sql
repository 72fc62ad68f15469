SELECT outbox.make_partitions() AS made
