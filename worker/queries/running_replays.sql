SELECT id::text FROM outbox.replay WHERE state = 'running' ORDER BY id
