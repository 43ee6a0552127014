"""One trial's training with Lightning; knows nothing of databases and worker processes."""
