"""What ends a measurement but not the run."""


class Failed(Exception):
    """Why one side could not be measured; it becomes a line of the results."""
