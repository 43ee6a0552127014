"""What `benchmarks/controller.py` measures with.

| module | |
| --- | --- |
| `systems` | what is compared: command lines and settings |
| `worker` | a worker that answers at once, and how long it waits for the controller |
| `measurement` | one measurement, in a process of its own |

Filled databases are made by `filling`; copies, turns, tables and targets are the business of `controller.py`.
"""
