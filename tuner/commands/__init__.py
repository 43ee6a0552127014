"""What the words of the command line do, each a function of `Settings` that returns an exit code."""
