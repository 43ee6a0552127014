"""Imported by the server that workers are forked from: torch, lightning and all that a worker needs.

These are 380,000 objects that live as long as the process. Without the garbage collector the imports take three
quarters of the time, and set apart from it they are never looked at again, which would copy their pages in each worker.
"""

import gc

gc.disable()
import tuner.launch.worker  # noqa: E402, F401

gc.freeze()
gc.enable()
