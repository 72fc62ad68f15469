SELECT max(version) FROM outbox.schema_version
