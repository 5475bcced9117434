"""The arms: each gives the folder of a trained or adapted segmenter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adapting import adapt_segmenter
from bench import Bench, Job

from alignflow.baselines.test_time import adapt_batch_norm, adapt_by_entropy

BASELINES = "alignflow.baselines"


@dataclass(frozen=True)
class Arm:
    """How an arm gets its segmenter, and whether references of the target enter it."""

    segmenter: Callable[[Bench, Job], Path]
    uses_references: bool


def source(bench: Bench, job: Job) -> Path:
    """Source images alone."""
    return bench.segmenter(job)


def source_aug(bench: Bench, job: Job) -> Path:
    """Source images under strong augmentation."""
    return bench.segmenter(job, augmentation="strong")


def styled(bench: Bench, job: Job, style: str) -> Path:
    """Source images, some of them in a style, see `segmentation.reference_style`."""
    prob = bench.settings["style"]["prob"]
    references = str(bench.reference_dir(job))
    return bench.segmenter(job, reference_dir=references, styles=[style], style_prob=prob)


def unaligned(bench: Bench, job: Job) -> Path:
    """Source images and synthetic pairs of the source's generator."""
    return bench.segmenter(job, pairs_dir=str(bench.pairs(bench.generator())))


def mmd_guidance(bench: Bench, job: Job) -> Path:
    """Source images and pairs of the source's generator, guided towards the references."""
    overrides = {
        "references": references(bench.reference_dir(job)),
        "network_def::_target_": f"{BASELINES}.mmd_guidance.MMDGuidedSampler",
        "network_def::references": "$@references.images",
        "network_def::weight": bench.settings["mmd_guidance"]["weight"],
    }
    return bench.segmenter(job, pairs_dir=str(bench.pairs(bench.generator(), **overrides)))


def aligned(bench: Bench, job: Job, **overrides: Any) -> Path:
    """Source images and pairs of the aligned generator."""
    return bench.segmenter(job, pairs_dir=str(bench.pairs(bench.alignment(job))), **overrides)


def aligned_aug(bench: Bench, job: Job) -> Path:
    """The same under strong augmentation."""
    return aligned(bench, job, augmentation="strong")


def finetune(bench: Bench, job: Job) -> Path:
    """The bundle's source segmenter, trained on with the references and their masks."""
    found = "build_datalist(@dataset_dir, @group_pattern, @group_column)"
    held_out = f"split_by_group({found}, @validation_fraction, @split_seed)[1]"
    labelled = str(bench.labelled_reference_dir(job))
    return bench.segmenter(
        job,
        init="source",
        cases=f"$(build_datalist({labelled!r}), {held_out})",
        **bench.settings["finetune"],
    )


def oracle(bench: Bench, job: Job) -> Path:
    """Labelled target images alone."""
    return bench.segmenter(job, dataset_dir=str(bench.pool_dir))


def ceiling(bench: Bench, job: Job) -> Path:
    """Strong augmentation, and labelled images of the pool in the place of synthetic pairs."""
    return bench.segmenter(
        job,
        pairs_dir=str(bench.pool_pairs_dir),
        pairs="$read_labelled(build_datalist(@pairs_dir), @stage1, @read_size)",
        augmentation="strong",
    )


def source_bn(bench: Bench, job: Job) -> Path:
    """Source images alone, a network with batch norms: what `tta_bn` starts from."""
    return bench.segmenter(job, **bench.settings["source_bn"])


def tta_bn(bench: Bench, job: Job, on_test: bool = False) -> Path:
    """That segmenter with the batch-norm statistics of the references."""
    adapt = partial(adapt_batch_norm, **bench.settings["tta_bn"])
    return adapted(bench, job, "tta_bn", source_bn(bench, job), adapt, on_test)


def tta_tent(bench: Bench, job: Job, on_test: bool = False) -> Path:
    """The source segmenter after entropy minimisation on the references."""
    adapt = partial(adapt_by_entropy, **bench.settings["tta_tent"], seed=job.seed)
    return adapted(bench, job, "tta_tent", source(bench, job), adapt, on_test)


def adapted(
    bench: Bench,
    job: Job,
    method: str,
    segmenter: Path,
    adapt: Callable[..., Any],
    on_test: bool,
) -> Path:
    """A segmenter after a method of test-time adaptation."""
    images = bench.test_images_dir if on_test else bench.reference_dir(job)
    model_dir = bench.generator()
    content = {
        "method": method,
        "settings": bench.settings[method],
        "segmenter": str(segmenter),
        "images": str(images),
    }
    return bench.cache.make(
        "adapted",
        content,
        lambda folder, _: adapt_segmenter(segmenter, images, model_dir, folder, adapt),
    )


def references(directory: Path) -> dict[str, Any]:
    """Config part that reads references."""
    return {
        "_target_": "alignflow.data.references.load_references",
        "directory": str(directory),
        "stage1": "@stage1",
    }


ARMS = {
    "source": Arm(source, False),
    "source_aug": Arm(source_aug, False),
    "fda": Arm(partial(styled, style="fourier"), True),
    "histogram": Arm(partial(styled, style="histogram"), True),
    "gin": Arm(partial(styled, style="convolution"), True),
    "unaligned": Arm(unaligned, False),
    "mmd_guidance": Arm(mmd_guidance, True),
    "aligned": Arm(aligned, True),
    "aligned_aug": Arm(aligned_aug, True),
    "finetune": Arm(finetune, True),
    "source_bn": Arm(source_bn, False),
    "tta_bn": Arm(tta_bn, True),
    "tta_tent": Arm(tta_tent, True),
    "tta_bn_test": Arm(partial(tta_bn, on_test=True), False),
    "tta_tent_test": Arm(partial(tta_tent, on_test=True), False),
    "oracle": Arm(oracle, False),
    "ceiling": Arm(ceiling, False),
}
