"""Tests of the shared schemas; files are named after the module that they hold."""
