"""Tests of the gateway; files are named after the module that they hold."""
