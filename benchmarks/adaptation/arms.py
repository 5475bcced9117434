"""The arms: each gives the folder of the scores of a segmenter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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


def aligned(bench: Bench, job: Job, annotated: bool = False) -> Path:
    """Styled source images, pairs of the aligned generator, and annotated references."""
    pairs = bench.pairs(bench.alignment(job, annotated))
    folders = {"pairs_dir": str(pairs), "reference_dir": str(bench.references(job, annotated))}
    return bench.scores(bench.segmenter(job.seed, **folders))


def in_batch(bench: Bench, job: Job, everything: bool = False) -> Path:
    """Styled source images, and the annotated references (or the whole pool) as half a batch."""
    labelled = bench.pool_dir if everything else bench.references(job, annotated=True)
    settings = {"reference_dir": str(labelled)} | bench.settings["annotated"]
    return bench.scores(bench.segmenter(job.seed, **settings))


def finetuned(bench: Bench, job: Job) -> Path:
    """The segmenter of `strong_aug`, trained on with the annotated references alone."""
    labelled = str(bench.references(job, annotated=True))
    found = "build_datalist(@dataset_dir, @group_pattern, @group_column)"
    held_out = f"split_by_group({found}, @validation_fraction, @split_seed)[1]"
    folders = {
        "init": str(bench.segmenter(job.seed)),
        "cases": f"$(build_datalist({labelled!r}), {held_out})",
    }
    return bench.scores(bench.segmenter(job.seed, **folders, **bench.settings["finetune"]))


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
