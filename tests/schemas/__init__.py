"""Tests of the shared schemas; files are named after the module that they hold."""

from hypothesis import HealthCheck, settings

# The tests share their cores with others: how long one example takes says nothing.
settings.register_profile("headrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")
