"""The main job end to end: real processes, real ports, on SQLite and on Kafka."""
