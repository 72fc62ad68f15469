SELECT outbox.deliver_again(%(event_ids)s::uuid[], %(subscription_ids)s::uuid[], %(id)s::uuid) AS made
