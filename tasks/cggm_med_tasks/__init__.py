"""The built-in tasks, registered through the same entry points as third-party ones."""
