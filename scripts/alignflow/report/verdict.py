"""Did the segmenter get better at the site, by how much, how sure: in plain language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignflow.evaluation.paired import Answer, sureness
from alignflow.report.arms import Arm, difference
from alignflow.report.text import points, signed_points

SMALLEST = 0.005
"""Dice, of 1: a smaller difference is called neither better nor worse."""
NO_INTERVAL = "no interval, since all images are of one patient or sequence"


@dataclass(frozen=True)
class Verdict:
    """What stands first on the page.

    Attributes:
        answer: one of `inputs.ANSWERS`.
        headline: one line.
        sentences: what it rests on.
    """

    answer: str
    headline: str
    sentences: list[str] = field(default_factory=list)


def told(adapted: dict[str, Any]) -> Verdict:
    """The answer that `run adapt` gave, in its words."""
    return Verdict(adapted["answer"], adapted["text"][0], adapted["text"][1:])


def judge(arms: Sequence[Arm] | None) -> Verdict:
    """Compare the best segmenter with aligned pairs to the best one without pairs.

    The strongest of several segmenters without pairs is the one to beat: a weaker one would
    flatter the pairs. Segmenters known to have learnt from unaligned pairs take no part.
    """
    if not arms:
        return Verdict(
            "unknown",
            "Not known: no segmenter was scored at the site.",
            [
                "Whether a segmenter gets better at the site cannot be known without labelled "
                "images of the site. Figures on the look of the images, below, do not replace it."
            ],
        )
    base, candidate = baseline(arms), best(arms, ("aligned", "synthetic"))
    if base is None or candidate is None:
        missing = "without synthetic pairs" if base is None else "with aligned pairs"
        return Verdict(
            "unknown",
            f"Not known: no segmenter {missing} was scored at the site.",
            [_alone(candidate or base or arms[0])],
        )
    gain = difference(candidate, base)
    return Verdict(*_answer(gain), _grounds(arms, candidate, base, gain))


def baseline(arms: Sequence[Arm]) -> Arm | None:
    """The segmenter without pairs that does best at the site."""
    return best(arms, ("without",))


def best(arms: Sequence[Arm], kinds: Sequence[str]) -> Arm | None:
    """The one of these kinds with the largest mean Dice."""
    among = [arm for arm in arms if arm.kind in kinds]
    return max(among, key=lambda arm: arm.score()["value"] or 0.0, default=None)


def _answer(gain: dict[str, Any]) -> tuple[Answer, str]:
    answer = sureness(gain, SMALLEST)
    return answer, {
        "unknown": "Not known: the scored images are of one patient or sequence.",
        "better": f"Yes: the segmenter got better, by {points(gain['value'])} points of Dice.",
        "worse": f"No: the segmenter got worse, by {points(-gain['value'])} points of Dice.",
        "unclear": f"Not shown: Dice changed by {signed_points(gain['value'])} points, too little "
        "to tell from chance or to be worth naming.",
    }[answer]


def _grounds(arms: Sequence[Arm], candidate: Arm, base: Arm, gain: dict[str, Any]) -> list[str]:
    sentences = [
        f"With aligned pairs ({candidate.name}) Dice is {points(candidate.score()['value'])}, "
        f"without ({base.name}) {points(base.score()['value'])}: means over {base.counted} "
        f"labelled images of the site, in points of 100. The difference, image by image, is "
        f"{signed_points(gain['value'])} points, {_between(gain)}.",
        _trainings(candidate, base, gain),
    ]
    if candidate.kind == "synthetic":
        sentences.append(
            "That the pairs come from the aligned bundle cannot be checked: their folder is gone."
        )
    others = [arm for arm in arms if arm.kind in ("aligned", "synthetic")]
    if len(others) > 1:
        sentences.append(
            f"The best of {len(others)} segmenters with pairs was chosen on these images, which "
            "favours it."
        )
    return sentences


def _trainings(candidate: Arm, base: Arm, gain: dict[str, Any]) -> str:
    """What the interval covers, and what it leaves out."""
    grouped = gain["groups"] < gain["images"]
    unit = f"{gain['groups']} patients or sequences" if grouped else "images"
    alike = "" if grouped else ", and it counts frames of one patient as independent"
    over = f"{unit} and trainings" if gain["trainings"] > 1 else unit
    training = "" if gain["trainings"] > 1 else "another training or "
    return (
        f"Trainings: {candidate.seeds} with pairs and {base.seeds} without. The "
        f"interval is over {over}: it leaves out {training}another draw of references{alike}."
    )


def _between(record: dict[str, Any], shown: Callable[[Any], str] = signed_points) -> str:
    """The interval of a record in points of 100."""
    if record["low"] is None:
        return NO_INTERVAL
    return f"95% interval {shown(record['low'])} to {shown(record['high'])}"


def _alone(arm: Arm) -> str:
    """A score that stands by itself."""
    score = arm.score()
    return (
        f"Dice of {arm.name} on {arm.counted} labelled images of the site: "
        f"{points(score['value'])} points, {_between(score, points)}. Whether that is better needs "
        "both: one segmenter trained with the pairs and one without, scored on the same images "
        "(run segment with and without pairs_dir)."
    )
