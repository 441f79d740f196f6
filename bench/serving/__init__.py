"""The server under load: a process to measure, clients, hostile clients."""
