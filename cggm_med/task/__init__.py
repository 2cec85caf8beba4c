"""What a task must say, and the families of tasks."""
