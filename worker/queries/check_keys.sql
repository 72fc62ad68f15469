-- The keys that live secrets are sealed with.
SELECT DISTINCT k.key_id
FROM outbox.secret k
WHERE k.key_id IS NOT NULL AND (k.expires_at IS NULL OR k.expires_at > now())
ORDER BY 1
