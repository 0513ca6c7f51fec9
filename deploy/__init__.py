"""How Headrace runs: the command line, the local Kafka and Postgres, migrations, images."""
