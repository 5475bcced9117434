"""The arms: each gives the folder of the scores of a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import Bench, Job


@dataclass(frozen=True)
class Arm:
    """How an arm gets its scores, and what of the target enters it.

    Attributes:
        scores: from pair and run to the folder of `scores.json`.
        references: whether the references enter it.
        labels: whether masks of the target enter it.
    """

    scores: Callable[[Bench, Job], Path]
    references: bool = True
    labels: bool = False


def strong_aug(bench: Bench, job: Job) -> Path:
    """Source images under strong augmentation, as in every arm below."""
    return bench.scores(bench.segmenter(job.seed))


def styled(bench: Bench, job: Job, style: str) -> Path:
    """Half of the source images in the style of a reference, see `reference_style`."""
    references = str(bench.references(job, annotated=False))
    return bench.scores(bench.segmenter(job.seed, reference_dir=references, styles=[style]))


def gin(bench: Bench, job: Job) -> Path:
    """Half of the source images after random convolutions; no reference enters them."""
    images = str(bench.images(bench.source.validation))  # the style's argument, not looked at
    styles = {"reference_dir": images, "styles": ["convolution"]}
    return bench.scores(bench.segmenter(job.seed, **styles))


def pseudo_labels(bench: Bench, job: Job) -> Path:
    """All styles, and the references with predicted masks in the batch, two rounds."""
    references = bench.references(job, annotated=False)
    labeller = bench.labeller(job, references)
    for seed in (job.draw or 0, job.seed):
        folders = {"reference_dir": str(references), "labeller_dir": str(labeller)}
        labeller = bench.segmenter(seed, **folders)
    return bench.scores(labeller)


def to_source(bench: Bench, job: Job) -> Path:
    """The segmenter of `strong_aug` on test images that the source's flow has drawn anew."""
    return bench.scores(bench.segmenter(job.seed), carried=True)


def unaligned(bench: Bench, job: Job) -> Path:
    """Source images and pairs of the source's generator."""
    pairs = str(bench.pairs(bench.generator()))
    return bench.scores(bench.segmenter(job.seed, pairs_dir=pairs))


def aligned(bench: Bench, job: Job, **options: Any) -> Path:
    """What `aligned_segmenter` gives, with its options."""
    return bench.scores(aligned_segmenter(bench, job, **options))


def aligned_segmenter(
    bench: Bench,
    job: Job,
    annotated: bool = False,
    in_batch: bool = True,
    segment: Mapping[str, Any] | None = None,
    **alignment: Any,
) -> Path:
    """Styled source images, pairs of the aligned generator, and annotated references.

    Args:
        bench, job: pair and run.
        annotated: whether the references have their masks.
        in_batch: whether these are among the segmenter's images too.
        segment: overrides of its config.
        alignment: rounds, and overrides of alignment's config.
    """
    model_dir, _ = bench.alignment(job, annotated, **alignment)
    folders = {
        "pairs_dir": str(bench.pairs(model_dir)),
        "reference_dir": str(bench.references(job, annotated and in_batch)),
    }
    return bench.segmenter(job.seed, **folders | dict(segment or {}))


def pseudo_in_batch(bench: Bench, job: Job) -> Path:
    """As `aligned`, and the references with the masks that alignment had in the batch."""
    _, labeller = bench.alignment(job, annotated=False)
    return aligned(bench, job, segment={"labeller_dir": str(labeller)})


def in_batch(bench: Bench, job: Job, everything: bool = False) -> Path:
    """Styled source images, and the annotated references (or the whole pool) as half a batch."""
    labelled = bench.pool_dir if everything else bench.references(job, annotated=True)
    settings = {"reference_dir": str(labelled)} | bench.settings["annotated"]
    return bench.scores(bench.segmenter(job.seed, **settings))


def finetuned(bench: Bench, job: Job) -> Path:
    """The segmenter of `strong_aug`, trained on with the annotated references alone."""
    return bench.scores(trained_on(bench, job, bench.segmenter(job.seed)))


def aligned_finetuned(bench: Bench, job: Job) -> Path:
    """That of `aligned_annotated`, trained on with the annotated references alone."""
    return bench.scores(trained_on(bench, job, aligned_segmenter(bench, job, annotated=True)))


def trained_on(bench: Bench, job: Job, segmenter_dir: Path) -> Path:
    """A segmenter after further steps on the annotated references alone."""
    labelled = str(bench.references(job, annotated=True))
    found = "build_datalist(@dataset_dir, @group_pattern, @group_column)"
    held_out = f"split_by_group({found}, @validation_fraction, @split_seed)[1]"
    folders = {
        "init": str(segmenter_dir),
        "cases": f"$(build_datalist({labelled!r}), {held_out})",
    }
    return bench.segmenter(job.seed, **folders, **bench.settings["finetune"])


ARMS = {
    "strong_aug": Arm(strong_aug, references=False),
    "histogram": Arm(partial(styled, style="histogram")),
    "fda": Arm(partial(styled, style="fourier")),
    "gin": Arm(gin, references=False),
    "pseudo_labels": Arm(pseudo_labels),
    "to_source": Arm(to_source, references=False),
    "unaligned": Arm(unaligned, references=False),
    "aligned": Arm(aligned),
    "annotated_in_batch": Arm(in_batch, labels=True),
    "annotated_finetuned": Arm(finetuned, labels=True),
    "aligned_annotated": Arm(partial(aligned, annotated=True), labels=True),
    "ceiling": Arm(partial(in_batch, everything=True), references=False, labels=True),
}

DISTANCE = {"matching": 0, "reward_weight": 1, "anchor": 0.1, "detail_anchor": 10}
ABLATION = {
    "one_round": Arm(partial(aligned, rounds=1)),
    "true_masks": Arm(partial(aligned, annotated=True, in_batch=False), labels=True),
    "pseudo_in_batch": Arm(pseudo_in_batch),
    "no_style": Arm(partial(aligned, segment={"style_prob": 0})),
    "no_confidence": Arm(partial(aligned, weigh_confidence=False)),
    "aligned_finetuned": Arm(aligned_finetuned, labels=True),
    "with_distance": Arm(partial(aligned, reward_weight=1)),
    "distance_alone": Arm(partial(aligned, rounds=1, learning_rate=0.001, **DISTANCE)),
}
"""Changes to `aligned`, one at a time; run.py runs them where --arms names them."""
