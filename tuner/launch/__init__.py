"""Worker groups and the messages between them and the controller."""
