"""Did the segmenter get better at the site, by how much, how sure: in figures and in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignflow.evaluation.paired import groups_of, images_needed, paired_gain

Facts = dict[str, Any]
SOURCE, ADAPTED = "source", "adapted"
GAINS = (2.0, 5.0)
"""Dice points for which the number of labelled images is told."""
SPREAD = 15.0
"""Dice points: standard deviation over images of the difference of two segmenters, where none can
be measured. At three hospitals it was 10 to 17 (benchmarks/adaptation, polyps)."""

RANDOM = "; of random weights, the extra `eval` has ImageNet's"


def judge(
    root: Path, arms: Sequence[str], seeds: Sequence[int], hand_over: str, test: Path | None
) -> Facts:
    """The verdict of a finished adaptation.

    Args:
        root: its folder.
        arms: segmenters that were trained: "source" (the source's, trained on for as long as the
            others), "adapted", and baselines.
        seeds: of their trainings.
        hand_over: the arm to hand over where no labelled images of the site tell.
        test: labelled images of the site, or None.

    Returns:
        {"labelled", "answer": of `sureness`, "site": {"dice": {arm: mean}, "gains": {"adapted -
        source": gain, ...}} in Dice points, "validation": the same on the source's validation
        split, "proxies", "handed_over": arm, "spread", "images_needed": {points: images}, "text":
        lines for a person}.
    """
    validation = read_scores(root / "scores/validation", arms, seeds)
    site = read_scores(root / "scores/test", arms, seeds) if test is not None else None
    result: Facts = {
        "labelled": site is not None,
        "validation": None if validation is None else compare(validation, None),
        "site": None if site is None else compare(site, groups_of(test, site[SOURCE]["names"])),
        "proxies": proxies(root),
    }
    chosen = hand_over
    if result["site"] is not None:
        dice = result["site"]["dice"]
        chosen = max(dice, key=lambda arm: dice[arm])
    result["handed_over"] = chosen
    site_gain = result["site"] and result["site"]["gains"][f"{ADAPTED} - {SOURCE}"]
    result["answer"] = sureness(site_gain) if site_gain else "unknown"
    known = result["site"] or result["validation"]
    spread = known["gains"][f"{ADAPTED} - {SOURCE}"]["spread"] if known else None
    result["spread"] = spread or SPREAD
    result["spread_measured"] = bool(spread)
    result["images_needed"] = {f"{gain:g}": images_needed(gain, result["spread"]) for gain in GAINS}
    result["text"] = words(result)
    return result


def read_scores(folder: Path, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Facts] | None:
    """{arm: {"dice": (seeds, images) in points, "names": images}}; None where nothing was scored.

    An image's Dice is the mean over the classes it has, NaN where it has none.
    """
    if not folder.is_dir():
        return None
    found: dict[str, Facts] = {}
    for arm in arms:
        rows, names = [], []
        for seed in seeds:
            content = json.loads((folder / f"{arm}-{seed}/scores.json").read_text())
            names = list(content["images"])
            rows.append([_image_dice(one["dice"]) for one in content["images"].values()])
        found[arm] = {"dice": 100 * np.array(rows), "names": names}
    return found


def compare(scores: dict[str, Facts], groups: Sequence[str] | None) -> Facts:
    """Mean Dice of each arm, and the gain of each arm over each one before it."""
    arms = list(scores)
    table = {arm: scores[arm]["dice"] for arm in arms}
    gains = {
        f"{ours} - {other}": paired_gain(table[ours], table[other], groups)
        for k, ours in enumerate(arms)
        for other in arms[:k]
    }
    dice = {arm: _mean(values) for arm, values in table.items()}
    return {"dice": dice, "gains": gains, "images": len(scores[arms[0]]["names"])}


def proxies(root: Path) -> Facts:
    """What can be told without labels: distances before and after, and the Dice of the generator.

    None of them says whether a segmenter gains.
    """
    alignment = json.loads((root / "aligned/align.json").read_text())
    evaluation = json.loads((root / "evaluation/evaluation.json").read_text())
    kid = evaluation["metrics"].get("kid", {})
    found: Facts = {
        "left_out": [alignment["before"]["left_out"], alignment["kept"]["left_out"]],
        "left_out_images": alignment["left_out"],
        "kept_epoch": alignment["kept_epoch"],
        "appearance": alignment["appearance"],
        "unseen": evaluation["unseen"],
        "encoder": evaluation["encoder"]["name"],
        "kid": {name: kid[name] for name in ("unaligned", "aligned") if name in kid},
        "fall": (evaluation["fall"] or {}).get("kid"),
        "faithfulness": {
            name: evaluation["faithfulness"]["dice"][name]["mean"]
            for name in ("unaligned", "aligned")
            if name in evaluation["faithfulness"]["dice"]
        },
    }
    return found


# -- words -----------------------------------------------------------------------------------------


def words(result: Facts) -> list[str]:
    """The verdict, a line for each thought."""
    lines = _site_words(result) if result["labelled"] else _unlabelled_words(result)
    if result["validation"] is not None:
        one = result["validation"]["gains"][f"{ADAPTED} - {SOURCE}"]
        lines.append(
            f"At the source: the adapted segmenter is {_gain(one)} against the source segmenter, "
            "on the source's own validation images."
        )
    lines += _proxy_words(result)
    lines.append(f"Handed over in segmenter/: {_kind(result['handed_over'])}.")
    return lines


def sureness(gain: Facts) -> str:
    """Whether a gain is one: 'better', 'worse', 'unclear' or 'unknown'."""
    if gain["low"] is None:
        return "unknown"
    if gain["low"] > 0:
        return "better"
    return "worse" if gain["high"] < 0 else "unclear"


def _site_words(result: Facts) -> list[str]:
    site = result["site"]
    gain = site["gains"][f"{ADAPTED} - {SOURCE}"]
    head = {
        "better": "Yes: the adapted segmenter is better at the site.",
        "worse": "No: the adapted segmenter is worse at the site.",
        "unclear": "Not shown: at the site the adapted segmenter cannot be told from the "
        "source segmenter.",
        "unknown": "Unknown: too few labelled images.",
    }[sureness(gain)]
    dice = site["dice"]
    lines = [
        head,
        f"Dice on {gain['images']} labelled images of the site: adapted {dice[ADAPTED]:.1f}, "
        f"source {dice[SOURCE]:.1f}: {_gain(gain)}.",
    ]
    if gain["above_0"] is not None:
        lines.append(
            f"{100 * gain['above_0']:.0f}% of {_draws(gain)} show a gain above 0. {_scope(gain)}"
        )
    for arm in dice:
        if arm in (SOURCE, ADAPTED):
            continue
        other = site["gains"].get(f"{ADAPTED} - {arm}")
        if other is not None:
            verdict = {
                "better": "the aligned pairs help",
                "worse": "the aligned pairs harm",
            }.get(sureness(other), "what the aligned pairs add is not told apart from nothing")
            lines.append(
                f"Against {_kind(arm)} ({dice[arm]:.1f}) the adapted one is {_gain(other)}: "
                f"{verdict}."
            )
    if result["handed_over"] != ADAPTED:
        lines.append(
            f"The highest Dice on these images has {_kind(result['handed_over'])}; it is handed "
            "over. It was chosen on the images that it is scored on, which favours it."
        )
    lines.append(_needed(result))
    return lines


def _unlabelled_words(result: Facts) -> list[str]:
    return [
        "Unknown: without labelled images of the site nobody can tell whether the segmenter got "
        "better there. A smaller distance to the site does not show it.",
        _needed(result) + " Give them with --test DIR; they must not be references.",
        "Until then strong augmentation alone is the choice that measurements favour: at three "
        "hospitals aligned pairs added nothing to it (-0.5 Dice points on average, see README).",
    ]


def _needed(result: Facts) -> str:
    numbers = [f"{n} images for {g} points" for g, n in result["images_needed"].items()]
    source = "measured here" if result["spread_measured"] else "as at three hospitals"
    return (
        f"To show a gain (95% interval above 0, found 4 times in 5): {', '.join(numbers)}; "
        f"independent images, Dice differing by {result['spread']:.0f} points between them, "
        f"{source}."
    )


def _proxy_words(result: Facts) -> list[str]:
    found = result["proxies"]
    before, after = found["left_out"]
    images = (
        f"{found['left_out_images']} references that alignment never saw"
        if found["left_out_images"]
        else "the references (none left out)"
    )
    lines = [f"Distance of generated images to {images}: {before:.2f} before, {after:.2f} after."]
    if found["kept_epoch"] == 0:
        lines.append("No epoch of alignment helped: the weights are those of training.")
    kid = found["kid"]
    if all(kid.get(n) and kid[n]["value"] is not None for n in ("unaligned", "aligned")):
        real = "unseen images of the site" if found["unseen"] else "the references"
        parts = [
            f"{name} {one['value']:#.3g} ({one['low']:#.3g} to {one['high']:#.3g})"
            for name, one in kid.items()
        ]
        floor = kid["aligned"]["floor"]["value"]
        kind = RANDOM if found["encoder"] == "random" else ""
        lines.append(
            f"Distance in the held-out encoder (KID{kind}) "
            f"to {real}: {', '.join(parts)}; real against real {floor:#.3g}."
        )
    dice = found["faithfulness"]
    if len(dice) == 2:
        lines.append(
            "The source segmenter finds the masks asked for with Dice "
            f"{dice['unaligned']:.3f} in unaligned and {dice['aligned']:.3f} in aligned images."
        )
    return lines


def _gain(gain: Facts) -> str:
    if gain["value"] is None:
        return "not comparable"
    if gain["low"] is None:
        return f"{gain['value']:+.1f} points (no interval: too few images)"
    return f"{gain['value']:+.1f} points (95% interval {gain['low']:+.1f} to {gain['high']:+.1f})"


def _draws(gain: Facts) -> str:
    trainings = "" if gain["trainings"] == 1 else " and trainings"
    unit = "images" if gain["groups"] == gain["images"] else f"{gain['groups']} groups of images"
    return f"resamples of {unit}{trainings}"


def _scope(gain: Facts) -> str:
    if gain["trainings"] == 1:
        return "One training of each: another seed may move this by 1 to 2 points."
    return f"{gain['trainings']} trainings of each."


def _kind(arm: str) -> str:
    return {
        SOURCE: "the source segmenter, trained on",
        "augmented": "strong augmentation alone",
        ADAPTED: "the adapted segmenter (aligned pairs)",
    }.get(arm, f"'{arm}'")


def _image_dice(classes: dict[str, float | None]) -> float:
    present = [value for value in classes.values() if value is not None]
    return float(np.mean(present)) if present else np.nan


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values))
