"""What `benchmarks/search.py` measures with: tables of learning curves, simulated rounds, and what they are held to."""
