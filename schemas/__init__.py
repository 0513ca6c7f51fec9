"""The event: its fields and limits, its identity, and its forms on HTTP, Kafka and SQL. No sockets, no event loops."""
