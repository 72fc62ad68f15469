"""The daemon: fans events out, claims deliveries, sends them, records what came of it."""
