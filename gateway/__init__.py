"""The HTTP side: authenticate, decode, claim, produce, answer; and the queries."""
