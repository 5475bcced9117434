"""Writes the distilled bundle: teacher and students in one folder, with their errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from alignflow.alignment.saving import save_bundle
from alignflow.config import running_config
from alignflow.distillation.update import DistillUpdate
from alignflow.errors import InputError
from alignflow.files import replacing
from alignflow.flow.sampler import FlowSampler
from alignflow.inference.weights import load_sampler
from alignflow.inference.writing import versions
from alignflow.pictures import image_tiles, save_sheet, y_points_up
from alignflow.stage1 import STUDENTS, WEIGHTS, Stage1, weight_hashes

FILE = "distill.json"
COLUMNS = 12


def student_file(model_dir: str, flow: str, steps: int | None) -> str:
    """Path of the weights of a student or, with steps None, of the flow itself.

    `Stage1.load` compares the files of a bundle with the hashes in its record.

    Args:
        model_dir: a bundle; written by `distill` if it has students.
        flow: "image" or "mask".
        steps: solver steps of the student.

    Raises:
        InputError: there is no such student.
    """
    if steps is None:
        return str(Path(model_dir) / WEIGHTS[flow])
    path = Path(model_dir) / f"{STUDENTS[flow]}_{steps}.pt"
    if not path.is_file():
        found = sorted(p.name for p in path.parent.glob(f"{STUDENTS[flow]}_*.pt"))
        raise InputError(
            f"'{model_dir}': no {path.name}, its students are: {', '.join(found) or 'none'}; run "
            'distill and set model_dir to its output_dir, or set "student" and "mask_student" to '
            "null"
        )
    return str(path)


def require_no_guidance(student: int | None, guidance: float) -> None:
    """Raise `InputError` if guidance is set for a student, which has learned its guidance."""
    if student is not None and guidance != 1:
        raise InputError(
            f'config "student": {student} uses the guidance it was distilled with; set '
            '"image_guidance" to 1, or "student" to null'
        )


@idist.one_rank_only()
def save_distilled(
    stage1: Stage1,
    model_dir: str,
    output_dir: str,
    students: dict[str, dict[str, dict[str, Any]]],
) -> None:
    """Copy the teacher into the folder of its students and write the record.

    Args:
        stage1: record of the teacher.
        model_dir: bundle of the teacher.
        output_dir: folder with the students' weights.
        students: result of `measured` for each flow.
    """
    save_bundle(stage1, model_dir, output_dir, trained=())
    record = {
        "students": students,
        "teacher_sha256": weight_hashes(model_dir),
        "config": running_config(),
        "versions": versions(),
    }
    with replacing(Path(output_dir) / FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


def measured(
    network: nn.Module,
    output_dir: str,
    flow: str,
    steps: Sequence[int],
    update: DistillUpdate,
    held_out: Dataset[dict[str, Tensor]],
    device: str,
) -> dict[str, dict[str, Any]]:
    """Losses of each student on held-out pairs of the coupling, by number of steps.

    Args:
        network: network with the teacher's architecture; its weights are replaced.
        output_dir: folder with the students' weights.
        flow: "image" or "mask".
        steps: steps of the students.
        update: computes the losses.
        held_out: items for the update.
        device: device for the computation.
    """
    [batch] = DataLoader(held_out, batch_size=len(held_out))  # type: ignore[arg-type]
    found: dict[str, dict[str, Any]] = {}
    for count in steps:
        weights = student_file(output_dir, flow, count)
        student = load_sampler(network, weights, device, steps=count)
        update.steps = count
        values = update.errors(student.network, batch, device)
        found[str(count)] = {"held_out": {name: round(v, 5) for name, v in values.items()}}
    return found


@idist.one_rank_only()
@torch.no_grad()
def picture(
    network: nn.Module,
    output_dir: str,
    steps: Sequence[int],
    held_out: Dataset[dict[str, Tensor]],
    stage1: Stage1,
    device: str,
) -> None:
    """Write `distill.png`: images of the teacher, and of each student from the same noise."""
    items = [held_out[i] for i in range(min(COLUMNS, len(held_out)))]  # type: ignore[arg-type]
    noise, data, maps = (
        torch.stack([item[name] for item in items]) for name in ("noise", "data", "condition")
    )
    rows = [image_tiles(data)]
    for count in steps:
        weights = student_file(output_dir, "image", count)
        student: FlowSampler = load_sampler(network, weights, device, steps=count)
        rows.append(image_tiles(student(noise.to(device), condition=maps.to(device)).cpu()))
    path = Path(output_dir) / "distill.png"
    save_sheet(path, rows, columns=COLUMNS, y_up=y_points_up(stage1.source))
