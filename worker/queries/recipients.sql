SELECT s.id::text AS subscription_id, s.revision, s.url, s.method, s.format, s.schemes,
    s.headers::text AS headers, s.user_agent, s.timeout, s.schedule, s.max_age,
    coalesce(array_agg(k.id::text ORDER BY k.created_at DESC, k.id DESC)
        FILTER (WHERE k.id IS NOT NULL), '{}') AS secret_ids,
    coalesce(array_agg(k.key_id ORDER BY k.created_at DESC, k.id DESC)
        FILTER (WHERE k.id IS NOT NULL), '{}') AS key_ids,
    coalesce(array_agg(k.sealed ORDER BY k.created_at DESC, k.id DESC)
        FILTER (WHERE k.id IS NOT NULL), '{}') AS secrets,
    coalesce(array_agg(extract(epoch FROM k.expires_at)::float8 ORDER BY k.created_at DESC, k.id DESC)
        FILTER (WHERE k.id IS NOT NULL), '{}') AS expirations
FROM outbox.subscription s
LEFT JOIN outbox.secret k
    ON k.subscription_id = s.id AND (k.expires_at IS NULL OR k.expires_at > now())
WHERE s.id = ANY (%(ids)s::uuid[])
GROUP BY s.id
