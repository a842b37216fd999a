"""Notices when training becomes far slower than it was in the same run."""

from __future__ import annotations

SLOWER = 5.0
"""Times slower from which a warning is worth its line."""
WINDOW = 5.0
"""Seconds over which a pace is measured; one long step is its own window."""


class Pace:
    """Compares each few seconds of training with the fastest of the same run; warns once."""

    def __init__(self) -> None:
        self.start: tuple[float, float] | None = None
        self.images = 0
        self.fastest = 0.0
        self.warned = False

    def add(self, images: int, clock: float, used: float) -> str | None:
        """Images trained on by this moment.

        Args:
            images: since the last call.
            clock: seconds of the wall clock.
            used: core-seconds that this process has used; against the clock they tell a busy machine from a slow program.

        Returns:
            A warning, the first time that the pace is less than a fifth of the fastest one.
        """
        if self.start is None:
            self.start = clock, used
            return None
        self.images += images
        wall, cores = clock - self.start[0], used - self.start[1]
        if wall < WINDOW:
            return None
        pace = self.images / wall
        self.fastest = max(self.fastest, pace)
        self.start, self.images = (clock, used), 0
        if self.warned or pace * SLOWER > self.fastest:
            return None
        self.warned = True
        why = (
            f"it gets {cores / wall:.1f} of a core: other processes use this machine"
            if cores / wall < 0.8
            else f"it uses {cores / wall:.1f} cores: the processor is throttled, outputs are computed that were cached before, or "
            "threads wait for each other (fewer --threads help)"
        )
        return f"training is {self.fastest / pace:.0f} times slower than earlier in this run, and {why}"
