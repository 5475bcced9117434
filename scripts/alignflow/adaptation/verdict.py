"""The verdict: did the segmenter get better at the site? Figures and three sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignflow.evaluation.paired import Array, groups_of, images_needed, paired_gain, sureness
from alignflow.evaluation.verdict import (
    SMALLEST,
    SPREAD,
    TARGET,
    grounds,
    headline,
    image_means,
    images_of,
    in_points,
    trainings_of,
)

Facts = dict[str, Any]
NOT_ADAPTED = ("no_gap", "nothing_found")
"""Answers if nothing was adapted."""
SOURCE, ADAPTED = "source", "adapted"
GAIN = f"{ADAPTED} - {SOURCE}"


def judge(
    root: Path,
    arms: Sequence[str],
    seeds: Sequence[int],
    hand_over: str,
    test: Path | None,
    folds: int = 0,
    trial: bool = False,
) -> Facts:
    """The verdict of a finished adaptation.

    Args:
        root: folder of the adaptation. An optional `gap.json`, {"gap", "floor", "adapt", "reason"},
            says whether anything was adapted; "reason" is set if that is not due to a missing gap.
        arms: trained segmenters: "source", "adapted", and baselines.
        seeds: seeds of their trainings.
        hand_over: the arm to hand over if there are no labelled images of the site.
        test: labelled images of the site, or None.
        folds: number of folds of the annotated references, used if there is no `test`.
        trial: whether the run only shows that everything works; the answer is then "unknown".

    Returns:
        {"answer": see `sureness` and `NOT_ADAPTED`, "labelled", "trial", "folds",
        "site": {"dice": {arm: mean}, "gains": {"adapted - source": gain, ...}, "images"} in Dice
        points, or None, "validation": the same on the source's validation split, "proxies",
        "handed_over": arm, "spread", "images_needed": for a gain of 2 points, None for a trial,
        "text": three sentences}.
    """
    gap = _read(root / "gap.json") or {"adapt": True}
    arms = [arm for arm in arms if gap["adapt"] or arm != ADAPTED]
    if test is not None:
        site = compare([root / "scores/test"], arms, seeds, test)
    else:
        crossed = [root / f"scores/folds/{k}" for k in range(folds)]
        site = compare(crossed, [SOURCE, ADAPTED], seeds[:1]) if gap["adapt"] else None
    validation = compare([root / "scores/validation"], arms, seeds)
    known = (site or validation or {"gains": {}})["gains"].get(GAIN, {})
    result: Facts = {
        "answer": "unknown",
        "labelled": site is not None,
        "trial": trial,
        "site": site,
        "folds": folds,
        "validation": validation,
        "proxies": proxies(root) | gap,
        "handed_over": hand_over,
        "spread": known.get("spread") or SPREAD,
    }
    if site is not None:
        result["handed_over"] = max(site["dice"], key=site["dice"].__getitem__)
    if not gap["adapt"]:
        result["handed_over"] = SOURCE
        result["answer"] = "nothing_found" if gap.get("reason") else "no_gap"
    elif site is not None and not trial:
        result["answer"] = sureness(site["gains"][GAIN], SMALLEST)
    result["images_needed"] = None if trial else images_needed(TARGET, result["spread"])
    result["text"] = [_first(result), _second(result), _third(result)]
    return result


def compare(
    folders: Sequence[Path],
    arms: Sequence[str],
    seeds: Sequence[int],
    labelled: Path | None = None,
) -> Facts | None:
    """Mean Dice of each arm, and its gain over each earlier arm, in points.

    Args:
        folders: folders with `ARM-SEED/scores.json`; the result is None if none exists.
        arms, seeds: see `judge`.
        labelled: folder of the scored images, which may name patients.
    """
    found = [folder for folder in folders if folder.is_dir()]
    if not found:
        return None
    names = [n for f in found for n in _scores(f / f"{SOURCE}-{seeds[0]}")]
    groups = groups_of(labelled, names)
    table = {
        arm: np.stack([np.hstack([_dice(f / f"{arm}-{seed}") for f in found]) for seed in seeds])
        for arm in arms
    }
    gains = {
        f"{ours} - {other}": paired_gain(table[ours], table[other], groups)
        for k, ours in enumerate(table)
        for other in list(table)[:k]
    }
    dice = {arm: float(np.nanmean(values)) for arm, values in table.items()}
    counted = np.isfinite(table[SOURCE]).all(axis=0)
    return {"dice": dice, "gains": gains, "images": int(counted.sum())}


def proxies(root: Path) -> Facts:
    """Distances to the references before and after alignment, which do not prove a gain."""
    record = _read(root / "aligned/align.json")
    if not record:
        return {}
    distances = [record["before"]["left_out"], record["kept"]["left_out"]]
    return {"left_out": distances, "left_out_images": record["left_out"]}


# -- the three sentences ---------------------------------------------------------------------------


def _first(result: Facts) -> str:
    """Whether the segmenter is better at the site."""
    if result["answer"] in NOT_ADAPTED:
        sentence = _not_adapted(result)
    elif result["labelled"]:
        sentence = _at_the_site(result)
    else:
        sentence = _without_labels(result)
    if result["trial"]:
        return f"Trial run, not a result: {sentence[0].lower()}{sentence[1:]}"
    return sentence


def _not_adapted(result: Facts) -> str:
    found, site = result["proxies"], result["site"]
    why = (
        "the references cannot be told apart from source images "
        f"(distance {found['gap']:.3g}, by chance {found['floor']:.3g})"
    )
    if result["answer"] == "nothing_found":
        why = "no structure was found in any reference"
    dice = "how well it does at the site cannot be known without labelled images"
    if site is not None:
        dice = f"its Dice is {site['dice'][SOURCE]:.1f} on {site['images']} labelled images"
    return f"Nothing was adapted, because {why}: the segmenter is the source's, and {dice}."


def _at_the_site(result: Facts) -> str:
    gain = result["site"]["gains"][GAIN]
    ours, other = (
        (f"the {arm} segmenter", result["site"]["dice"][arm]) for arm in (ADAPTED, SOURCE)
    )
    return headline(result["answer"], ours, other, gain, _images(gain, result["folds"]))


def _without_labels(result: Facts) -> str:
    found, known = result["proxies"], _at_home(result)
    if "left_out" in found:
        before, after = found["left_out"]
        which = f"{found['left_out_images']} unseen" if found["left_out_images"] else "the"
        known.append(
            f"the distance of generated images to {which} references was {before:.2f} before "
            f"alignment and {after:.2f} after"
        )
    instead = f"; what is known is that {', and that '.join(known)}" if known else ""
    return (
        "Whether the adapted segmenter is better at the site cannot be known without labelled "
        f"images{instead}."
    )


def _at_home(result: Facts) -> list[str]:
    """The change on the source's validation images; [] if they were not scored."""
    if result["validation"] is None:
        return []
    change = in_points(result["validation"]["gains"][GAIN])
    return [f"Dice on the source's own validation images changed by {change}"]


def _second(result: Facts) -> str:
    """Which segmenter was handed over, and why."""
    why = "the setting hand_over names it for runs without labelled images"
    if result["answer"] in NOT_ADAPTED:
        why = "nothing was adapted"
    elif result["labelled"]:
        chance = "" if result["answer"] in ("better", "worse") else ", although this may be chance"
        why = f"its Dice on these images is the highest{chance}"
    arm = result["handed_over"]
    kind = f"the {arm} segmenter" if arm in (SOURCE, ADAPTED) else f"the segmenter '{arm}'"
    return f"The segmenter/ folder holds {kind}, because {why}."


def _third(result: Facts) -> str:
    """What is needed for an answer, or the main caveat of the answer."""
    if result["trial"]:
        return "For a result, run the same command without --quick."
    if result["answer"] == "nothing_found":
        return "Annotate some references (images/ and masks/) and run the same command again."
    if result["answer"] == "no_gap":
        tail = "" if result["labelled"] else " and only labelled images (--test DIR) would show"
        return (
            "Images that look alike can still differ in anatomy or in how they are outlined, "
            f"which the distance does not measure{tail}."
        )
    given, rests_on = ", given with --test DIR,", ""
    if result["labelled"]:
        gain = result["site"]["gains"][GAIN]
        trainings = trainings_of(gain["trainings"], gain["trainings"])
        rests_on = f"{_images(gain, result['folds'])} and {trainings}"
        given = given if result["folds"] else ""
    return grounds(result["answer"], result["spread"], rests_on, _at_home(result), given)


def _images(gain: Facts, folds: int) -> str:
    if folds:
        return f"{gain['images']} annotated references, each left out of the training that it tests"
    return images_of(gain)


def _dice(folder: Path) -> Array:
    """Dice of each image in points."""
    return image_means(image["dice"] for image in _scores(folder).values())


def _scores(folder: Path) -> Facts:
    images: Facts = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["images"]
    return images


def _read(path: Path) -> Facts:
    """The content of a JSON file, {} if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
