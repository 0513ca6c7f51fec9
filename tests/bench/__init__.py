"""What an event costs: measured through the real processes, beside a baseline and a limit in the same run."""
