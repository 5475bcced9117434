"""How long an adaptation still takes: from what was measured, or unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BAR = re.compile(
    r"(?P<name>[^:|]+): +\d+%\|.*\| (?P<done>\d+)/(?P<total>\d+) \[(?P<elapsed>[\d:]+)<"
)
"""What tqdm shows: `image flow:  40%|####      | 24/60 [00:10<00:15,  2.3step/s]`."""


@dataclass
class _Bar:
    """Units done when first seen, done now, and seconds in between."""

    first: int
    done: int
    seconds: float


@dataclass
class _Work:
    """Planned units of a job's bars, and what was seen of them."""

    planned: dict[str, float]
    seen: dict[str, _Bar] = field(default_factory=dict)
    over: bool = False


class Clock:
    """Time left in each job and in all.

    A unit of a bar (a step, a pair, ...) costs so many units of time, in training steps of the
    image flow; those ratios were measured once and stand in the config. How long such a step takes
    is measured here: before the start, and then by what has been done. A bar that runs is taken at
    its own pace.

    Args:
        costs: bar -> cost of its unit.
        step_seconds: of one training step of the image flow, None where unknown.
    """

    def __init__(self, costs: Mapping[str, float], step_seconds: float | None = None) -> None:
        self.costs = costs
        self.step_seconds = step_seconds
        self.works: dict[str, _Work] = {}

    def plan(self, job: str, work: Mapping[str, float]) -> None:
        """Add a job that has not been done, {bar: units}."""
        self.works[job] = _Work(dict(work))

    def see(self, job: str, line: str) -> bool:
        """Take in a line of a job's output; whether it is a progress bar."""
        found = BAR.match(line)
        if found is None:
            return False
        done, seconds = int(found["done"]), _seconds(found["elapsed"])
        work = self.works[job]
        bar = work.seen.get(found["name"])
        if bar is None or done < bar.done:
            bar = work.seen[found["name"]] = _Bar(done, done, seconds)
        bar.done, bar.seconds = done, seconds
        if found["name"] in work.planned:  # a reading bar is not planned
            work.planned[found["name"]] = float(found["total"])
        return True

    def finish(self, job: str, seconds: float) -> None:
        """A job is done; a bar that it never showed took what the others did not."""
        work = self.works[job]
        hidden = [name for name in work.planned if name not in work.seen]
        rest = seconds - sum(bar.seconds for bar in work.seen.values())
        for name in hidden:
            units = round(work.planned[name])
            work.seen[name] = _Bar(0, units, max(rest, 0.0) / len(hidden))
        work.over = True

    def left(self, jobs: Sequence[str] | None = None) -> float | None:
        """Seconds left in these jobs (in all by default); None while nothing is measured."""
        unit = self.unit()
        if unit is None:
            return None
        chosen = self.works.values() if jobs is None else [self.works[j] for j in jobs]
        return sum(self._left(work, unit) for work in chosen if not work.over)

    def unit(self) -> float | None:
        """Seconds of a training step: of all that was seen, or measured before."""
        seconds = cost = 0.0
        for work in self.works.values():
            for name, bar in work.seen.items():
                if name in self.costs and bar.done > bar.first:
                    seconds += bar.seconds
                    cost += self.costs[name] * (bar.done - bar.first)
        return seconds / cost if seconds >= 1 and cost else self.step_seconds

    def _left(self, work: _Work, unit: float) -> float:
        total = 0.0
        for name, units in work.planned.items():
            bar = work.seen.get(name)
            moved = bar is not None and bar.done > bar.first and bar.seconds > 0
            pace = (
                bar.seconds / (bar.done - bar.first) if moved and bar else self.costs[name] * unit
            )
            total += pace * (units - (bar.done if bar else 0))
        return total


def _seconds(text: str) -> float:
    """Of `MM:SS` or `H:MM:SS`."""
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return float(total)
