"""The answer that stands first on the page where `run adapt` gave none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignflow.evaluation.paired import sureness
from alignflow.evaluation.verdict import (
    SMALLEST,
    SPREAD,
    Gain,
    grounds,
    headline,
    images_of,
    trainings_of,
)
from alignflow.report.arms import KINDS, Arm, difference

WITH_PAIRS = ("aligned", "synthetic")


def judge(arms: Sequence[Arm] | None) -> dict[str, Any]:
    """Compare the best segmenter with aligned pairs to the best one without pairs.

    The strongest of several segmenters without pairs is the one to beat: a weaker one would
    flatter the pairs. Segmenters known to have learnt from unaligned pairs take no part.

    Returns:
        {"answer", "text": sentences}, as in `verdict.json` of `run adapt`.
    """
    base, candidate = baseline(arms or ()), best(arms or (), WITH_PAIRS)
    if base is None or candidate is None:
        missing = " without synthetic pairs" if base is None else " with aligned pairs"
        return {
            "answer": "unknown",
            "text": [
                f"Not known: no segmenter{missing if arms else ''} was scored at the site.",
                "Whether a segmenter gets better at the site cannot be known without labelled "
                "images of the site and two segmenters scored on them, one trained with the pairs "
                "and one without (run segment with and without pairs_dir). Figures on the look of "
                "the images, below, do not replace it.",
            ],
        }
    gain = difference(candidate, base)
    answer, images = sureness(gain, SMALLEST), images_of(gain)
    rests_on = f"{images} and {trainings_of(candidate.seeds, base.seeds)}"
    return {
        "answer": answer,
        "text": [
            headline(answer, _named(candidate), _named(base), gain, images),
            grounds(answer, gain["spread"] or SPREAD, rests_on),
            *_caveats(arms or (), candidate, gain),
        ],
    }


def compared(arms: Sequence[Arm]) -> list[Arm]:
    """The one to beat and the best one with pairs, as far as there are any."""
    return [arm for arm in (baseline(arms), best(arms, WITH_PAIRS)) if arm is not None]


def baseline(arms: Sequence[Arm]) -> Arm | None:
    """The segmenter without pairs that does best at the site."""
    return best(arms, ("without",))


def best(arms: Sequence[Arm], kinds: Sequence[str]) -> Arm | None:
    """The one of these kinds with the largest mean Dice."""
    among = [arm for arm in arms if arm.kind in kinds]
    return max(among, key=lambda arm: arm.score()["value"] or 0.0, default=None)


def _named(arm: Arm) -> tuple[str, float]:
    return f"the segmenter '{arm.name}' ({KINDS[arm.kind]})", arm.score()["value"]


def _caveats(arms: Sequence[Arm], candidate: Arm, gain: Gain) -> list[str]:
    grouped = gain["groups"] < gain["images"]
    alike = "" if grouped else " and counts images of one patient as independent"
    sentences = [f"The interval leaves out another draw of references{alike}."]
    if candidate.kind == "synthetic":
        sentences.append(
            "That the pairs come from the aligned bundle cannot be checked: their folder is gone."
        )
    count = sum(arm.kind in WITH_PAIRS for arm in arms)
    if count > 1:
        sentences.append(
            f"The best of {count} segmenters with pairs was chosen on these images, which favours "
            "it."
        )
    return sentences
