"""The command line `outbox`: one noun a file, one verb a command."""
