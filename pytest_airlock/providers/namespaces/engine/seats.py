"""Places for sandboxes: an id slot, and the spare that waits there for its next generation.

A spare is a whole life begun ahead of time, from the same recipe, in the same slot. The living and the spare share nothing
that can be written: all name spaces are their own. What it saves is time; whether it is taken never decides what is in it.
"""

from __future__ import annotations

from collections import Counter

from . import identity, stage
from .identity import Slot
from .lives import Life, Lives, Recipe
from .syscalls import StepError

__all__ = ["Seat", "Seats"]

#: Spares of one server at most, and those among them that wait at a place that nobody has.
MOST, MOST_FREE = 8, 2
#: Bytes of memory that must be left on the machine: whoever runs short is worse off than whoever waits.
_ROOM = 256 * 1024**2
_REMEMBERED = 256  # recipes


class Seat:
    """A slot with its spare; `recipe` is what the spare was made of."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.spare: Life | None = None
        self.recipe: Recipe | None = None

    def fits(self, recipe: Recipe | None) -> bool:
        return self.spare is not None and self.recipe == recipe

    def take(self, recipe: Recipe) -> Life | None:
        """The spare, if it lives and is what is asked for; one that is not is ended."""
        spare, self.spare = self.spare, None
        if spare is None:
            return None
        if self.recipe == recipe and spare.alive():
            return spare
        spare.bury()
        spare.dispose()
        return None

    def clear(self) -> None:
        """End the spare."""
        spare, self.spare = self.spare, None
        if spare is not None:
            spare.bury()
            spare.dispose()


class Seats:
    """All places of one server."""

    def __init__(self, lives: Lives, found: stage.Stage) -> None:
        self._lives, self._stage = lives, found
        self._free = [Seat(found.probe)]
        self._taken: set[Seat] = set()
        self._opened = 1
        self._asked: Counter[str] = Counter()

    def sit(self, recipe: Recipe | None = None) -> Seat:
        """A free place, best one where a spare of the recipe waits."""
        free = self._free
        # Best is a fitting spare, then none; only then one that has to be ended.
        seat = max(free, key=lambda seat: (seat.fits(recipe), seat.spare is None), default=None)
        if seat is None:
            seat = Seat(self._open_slot())
        else:
            free.remove(seat)
        self._taken.add(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """Nobody's any more; its spare waits for the next one like it."""
        self._taken.discard(seat)
        self._free.append(seat)
        waiting = [other for other in self._free if other.spare is not None]
        for other in waiting[:-MOST_FREE]:
            other.clear()

    def abandon(self, seat: Seat) -> None:
        """Its last life would not die: the slot is never used again."""
        self._taken.discard(seat)
        seat.clear()

    def refill(self, seat: Seat, recipe: Recipe) -> None:
        """Begin a spare, where the same was asked for before and there is room for it."""
        key = repr((recipe.image.number, recipe.layers, recipe.spec))
        if len(self._asked) > _REMEMBERED:
            self._asked.clear()
        self._asked[key] += 1
        if self._asked[key] < 2 or seat.spare is not None or seat not in self._taken:
            return
        if sum(other.spare is not None for other in (*self._taken, *self._free)) >= MOST or not _has_room():
            return
        try:
            seat.spare, seat.recipe = self._lives.begin(recipe, seat.slot), recipe
        except StepError:
            # Whoever needs the next life gets the same error then, where it is told.
            seat.spare = None

    def forget(self, image: object) -> None:
        """End the spares of a base image that goes."""
        for seat in (*self._taken, *self._free):
            if seat.recipe is not None and seat.recipe.image is image:
                seat.clear()
                seat.recipe = None

    def close(self) -> None:
        """Kill all spares first, then wait for all."""
        spares = [seat for seat in (*self._taken, *self._free) if seat.spare is not None]
        for seat in spares:
            if seat.spare is not None:
                seat.spare.kill()
        for seat in spares:
            seat.clear()

    def _open_slot(self) -> Slot:
        if not (self._stage.identity.privileged and self._stage.idmap):
            return self._stage.probe  # one range of ids for all
        self._opened += 1
        return identity.open_slot(self._opened - 1, self._stage.identity)


def _has_room() -> bool:
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024 > _ROOM
    return False
