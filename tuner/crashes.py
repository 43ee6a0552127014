"""Whether it is the user's code that fails, and not some configurations: all first trials crash in the same place."""

from __future__ import annotations

from tuner.errors import RoundFailed

#: So many first trials that all crash in the same place are the code's fault, not the configurations'.
SAME_CRASHES = 3


class Crashes:
    """The crashes that this call of a round has seen."""

    def __init__(self, trials: int | None) -> None:
        """`trials` is how many the round draws at most: fewer crashes than `SAME_CRASHES` are enough for fewer."""
        self._enough = min(SAME_CRASHES, trials or SAME_CRASHES)
        self._places: list[str] = []

    def add(self, place: str, text: str, *, trained: bool) -> None:
        """Count one more crash.

        Args:
            place: where and how; see `place_of`.
            text: what the user is told.
            trained: whether any trial of the round has got as far as a value.

        Raises:
            RoundFailed: all so far crashed in the same place, they are enough, and nothing was ever trained.
        """
        self._places.append(place)
        alike = len(set(self._places)) == 1
        if alike and not trained and len(self._places) >= self._enough:
            raise RoundFailed(f"The first {len(self._places)} trials failed in the same way:\n\n{text}")


def place_of(traceback: str) -> str:
    """Where and how a crash happened, without the values that differ between configurations."""
    lines = [line for line in traceback.splitlines() if line.strip()]
    frames = [line.strip() for line in lines if line.lstrip().startswith("File ")]
    kind = lines[-1].partition(":")[0] if lines else ""
    return f"{frames[-1] if frames else ''} {kind}"
