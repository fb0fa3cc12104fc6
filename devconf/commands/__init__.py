"""The commands of clients (``docs/protocol.md`` §4): the registry, and a module for each subject."""
