"""Real Kafka and real Postgres on loopback, from nothing but Python packages."""
