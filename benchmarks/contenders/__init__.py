"""The programs that `real.py` lets compete, each one process or a few, and what is made of their runs.

| module | |
| --- | --- |
| `problem` | the study, its space and its data as the peers take them; one training as they write it |
| `record` | the callback with which every training is watched, and the log that a contender leaves |
| `optuna_study` | a script of Optuna and Lightning, as one process or several on one storage |
| `ray_tune` | a script of Ray Tune and Lightning; runs in the peers' environment |
| `curves` | what the logs come to: pure |
| `race` | starts them, and keeps their runs |
| `results` | tables, verdicts and the figure |

tuner itself needs no program here: it runs from the command line.
"""
