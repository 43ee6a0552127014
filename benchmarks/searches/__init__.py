"""What `benchmarks/search.py` measures with: tables of learning curves, simulated rounds, and what they are held to."""

import os

# Before numpy is imported: runs take a core each, and threads of their own would take each other's.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
