"""The handlers that come with Headrace; users' own have the same form."""
