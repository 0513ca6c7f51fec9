"""The verifier: load and faults from one seed, and a checker of what they leave. ``make chaos SEED=7 MINUTES=30``."""
