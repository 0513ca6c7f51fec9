"""The commands of ``headrace``, a module for each."""
