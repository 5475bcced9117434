"""`alignflow adapt` as a user runs it, on 20 images of 20 x 24 pixels, in a minute."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from alignflow.alignment.site import site_masks
from alignflow.command_line import main
from alignflow.segmentation.record import SegmenterRecord
from alignflow.stage1 import Stage1

ROUNDS = ["rounds/1/aligned", "aligned"]
STAGES = ["prepare", "train", "align", "infer", "segment", "distill", "evaluate", "report"]


def write_images(folder, count, gain, seed, masks=True):
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[:20, :24]
    for k in range(count):
        centre = rng.uniform(7, 12), rng.uniform(8, 15)
        mask = np.hypot(x - centre[0], y - centre[1]) < rng.uniform(3, 6)
        image = np.array(gain) * (rng.normal(80, 18, (20, 24, 3)) + 90 * mask[..., None])
        for part, array in (("images", image), ("masks", 255 * mask))[: 2 if masks else 1]:
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(folder / part / f"{k}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapt")
    write_images(root / "source", 20, 1.0, 0)
    write_images(root / "references", 6, [1.0, 0.6, 0.5], 1, masks=False)
    write_images(root / "test", 8, [1.0, 0.6, 0.5], 2)
    return root


def arguments(data, out, *more):
    folders = ["--source", data / "source", "--references", data / "references", "--out", out]
    options = ["--quick", "--device", "cpu", *more]
    return ["adapt", *map(str, folders), *map(str, options)]


@pytest.fixture(scope="module")
def adapted(data, bundle):
    """A whole adaptation with labelled test images, and what it printed."""
    out = data / "out"
    line = [sys.executable, "-m", "alignflow", *arguments(data, out, "--test", data / "test")]
    path = {"PYTHONPATH": str(bundle.parent / "scripts"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, cwd=bundle, env=os.environ | path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return out, done.stdout


def read(path):
    return json.loads(path.read_text())


def test_from_the_command_to_the_verdict(adapted):
    out, printed = adapted
    for number, stage in enumerate(STAGES, start=1):
        assert re.search(rf"^stage {number} of \d: {stage}", printed, re.MULTILINE), printed
    assert "apart: align" in printed
    verdict = read(out / "verdict.json")
    assert verdict["labelled"] and verdict["site"]["dice"].keys() == {"source", "adapted"}
    gain = verdict["site"]["gains"]["adapted - source"]
    assert gain["images"] == 8 and gain["low"] <= gain["value"] <= gain["high"]
    assert printed.rstrip().endswith(f"report: {out / 'report/report.html'}")
    assert f"  {verdict['text'][-1]}" in printed.splitlines()
    assert (out / "verdict.txt").read_text().splitlines() == verdict["text"]
    best = max(verdict["site"]["dice"], key=verdict["site"]["dice"].get)
    assert verdict["handed_over"] == best
    assert verdict["trial"] and verdict["answer"] == "unknown"
    assert len(verdict["text"]) == 3 and verdict["text"][0].startswith("Trial run, not a result")


def test_the_picture_shows_both_segmenters(adapted):
    with Image.open(adapted[0] / "verdict.png") as picture:
        assert picture.height == 4 * 10 * 18 and picture.width > 6 * 10 * 18


def shown_verdict(out):
    """(class, paragraphs) of the verdict on the page, which must be complete."""
    page = (out / "report/report.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert page.count('<img class="picture"') == 1
    kind, content = re.search(
        r'<section id="verdict" class="verdict (\w+)">(.*?)</section>', page, re.S
    ).groups()
    return kind, [
        html.unescape(p) for p in re.findall(r"<p(?: class=\"headline\")?>(.*)</p>", content)
    ]


def test_the_report_shows_all_of_it_and_gives_the_same_answer(adapted):
    out = adapted[0]
    verdict = read(out / "verdict.json")
    assert shown_verdict(out) == (verdict["answer"], verdict["text"])
    page = (out / "report/report.html").read_text()
    for part in ("Unseen target", "Nearest pairs", "Dice of each segmenter less that of"):
        assert part in page
    assert "Not given" not in page.split('id="copies"')[0] and "<b>NO</b>" not in page
    # the table's differences are to the best of those without pairs, with the verdict's intervals
    gain = verdict["site"]["gains"]["adapted - source"]
    value, low, high = (f"{gain[k]:+.1f}".replace("-", "\u2212") for k in ("value", "low", "high"))
    assert f"<b>{value}</b> <small>{low} to {high}</small>" in page


def test_no_lock_is_left(adapted):
    assert not list(adapted[0].rglob(".lock"))


def test_each_stage_left_its_result(adapted):
    out = adapted[0]
    for folder in ("models", "aligned", "distilled"):
        Stage1.load(str(out / folder))
    assert (out / "distilled/student_1.pt").is_file()
    # two rounds of pseudo-masks: each alignment reads those of another segmenter
    labellers = [read(out / f"{name}/align.json")["config"]["labeller_dir"] for name in ROUNDS]
    assert labellers == [str(out / f"rounds/{k}/segmenter") for k in (0, 1)]
    for name in ("aligned", "unaligned"):
        assert len(list((out / "pairs" / name / "images").iterdir())) == 8
    assert read(out / "evaluation/evaluation.json")["unseen"]
    record = SegmenterRecord.load(out / "segmenter")
    assert record.network == Stage1.load(str(out / "models")).segmenter  # trained on from it
    pairs = {
        arm: SegmenterRecord.load(out / f"segmenters/{arm}-0").provenance["synthetic"]
        for arm in ("source", "adapted")
    }
    assert pairs == {"source": 0, "adapted": 8}


def test_validation_images_are_those_that_training_held_out(adapted):
    out = adapted[0]
    held_out = read(out / "prepare/validation/dataset.json")["training"]
    assert len(held_out) == 2
    scored = read(out / "scores/validation/source-0/scores.json")["images"]
    assert scored.keys() == {case["image"].rsplit("/", 1)[1] for case in held_out}


def test_one_experiment_with_nested_runs(adapted):
    out = adapted[0]
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    experiment = client.get_experiment_by_name(f"alignflow-{out.name}")
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    below = {}
    for run in runs:
        parent = names.get(run.data.tags.get("mlflow.parentRunId"), "")
        below.setdefault(parent, set()).add(run.info.run_name)
    assert below[""] == {"adaptation"} and below["adaptation"] == set(STAGES)
    assert below["train"] == {"image_flow", "mask_flow", "segmenter"}
    assert below["segment"] == {"source-0", "adapted-0"}
    assert below["distill"] == {"student", "mask_student"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_name = {run.info.run_name: run.data for run in runs}
    scores = read(out / "scores/test/adapted-0/scores.json")["dice"]["mean"]
    assert by_name["adapted-0"].metrics["site_dice"] == scores
    assert by_name["adapted-0"].params["synthetic_share"] == "0.5"
    assert by_name["adaptation"].metrics["site_dice_adapted"] == pytest.approx(scores)
    assert by_name["evaluate"].metrics["kid_aligned"]
    assert by_name["adaptation"].tags["trial"] == "true"
    assert by_name["adaptation"].tags["mlflow.note.content"].startswith("Trial run")
    assert by_name["train"].params["image_epochs"] == "2"
    assert by_name["adaptation"].params["source"].endswith("source")
    assert all(by_name[stage].metrics for stage in STAGES)


def test_weights_are_artifacts(adapted):
    out = adapted[0]
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    experiment = client.get_experiment_by_name(f"alignflow-{out.name}")
    runs = client.search_runs([experiment.experiment_id])
    ids = {run.info.run_name: run.info.run_id for run in runs}
    for stage, path, logged in (
        ("align", "aligned/model.pt", "generator/model.pt"),
        ("distill", "distilled/student_1.pt", "student/student_1.pt"),
        ("segment", "segmenter/segmenter.pt", "segmenter/segmenter.pt"),
    ):
        copy = Path(client.download_artifacts(ids[stage], logged))
        assert copy.read_bytes() == (out / path).read_bytes()


def results(out):
    folders = ["models", "aligned", "distilled", "pairs", "segmenters", "evaluation", "scores"]
    folders.append("report")
    return {p: p.stat().st_mtime_ns for name in folders for p in (out / name).rglob("*")}


def test_the_same_command_again_skips_all(adapted, data, capsys):
    out = adapted[0]
    before = results(out)
    assert main(arguments(data, out, "--test", data / "test")) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished before, skipped") == len(STAGES)
    assert results(out) == before
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    experiment = client.get_experiment_by_name(f"alignflow-{out.name}")
    assert len(client.search_runs([experiment.experiment_id])) == 20


def test_what_is_finished_is_told_to_another_store(adapted, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(adapted[0], out)
    uri = f"sqlite:///{tmp_path}/shared.db"
    assert main(arguments(data, out, "--test", data / "test", "--tracking_uri", uri)) == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("alignflow-out")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"adaptation", *STAGES}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["evaluate"].data.metrics["kid_aligned"] and runs["prepare"].data.metrics["images"]
    logged = client.list_artifacts(runs["align"].info.run_id, "generator")
    assert "generator/model.pt" in {file.path for file in logged}


def test_other_references_run_again_from_alignment_on(adapted, data, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(adapted[0], out)
    shutil.copytree(data / "references", tmp_path / "references")
    shutil.copytree(data / "source", tmp_path / "source")
    (tmp_path / "references/images/0.png").unlink()
    before = results(out)
    # without --test, and with the data in another place
    assert main(arguments(tmp_path, out, "--no_mlflow")) == 0
    printed = capsys.readouterr().out
    assert re.search(r"train: finished before, skipped", printed)
    assert "rounds/0/segmenter: references changed; runs again" in printed
    after = results(out)
    kept = {p for p in before if p.parts[-2] in ("models", "unaligned", "source-0")}
    assert kept and all(after[p] == before[p] for p in kept)
    for name in ("aligned/model.pt", "pairs/aligned/provenance.json", "evaluation/evaluation.json"):
        assert after[out / name] > before[out / name]
    assert len(list((out / "old").glob("align-*"))) == 1
    assert read(out / "aligned/align.json")["references"] == [f"{k}.png" for k in range(1, 6)]
    verdict = read(out / "verdict.json")
    assert not verdict["labelled"] and verdict["handed_over"] == "adapted"
    assert "cannot be known" in verdict["text"][0] and verdict["answer"] == "unknown"
    assert shown_verdict(out) == ("unknown", verdict["text"])


def test_a_given_bundle_is_not_trained(adapted, data, tmp_path, capsys):
    model_dir, out = adapted[0] / "models", tmp_path / "out"
    before = results(adapted[0])
    # stopped by a bad value behind alignment: what was given must have been taken by then
    more = ["--model_dir", model_dir, "--no_mlflow", "--set", "distill.held_out=0"]
    assert main(arguments(data, out, *more)) == 2  # refused before anything runs
    assert "held_out" in capsys.readouterr().err and not (out / "aligned").exists()
    more[-1] = "distill.encoder_levels=[-1]"
    assert main(arguments(data, out, *more)) == 1
    printed = capsys.readouterr()
    assert "is given, skipped" in printed.out and not (out / "models").exists()
    assert 'error: distill: config "encoder_levels": [-1]' in printed.err
    assert "distill.log" in printed.err
    for name in ("mask_model.pt", "segmenter.pt"):
        assert (out / "aligned" / name).read_bytes() == (model_dir / name).read_bytes()
    assert results(adapted[0]) == before


def test_annotated_references_need_no_rounds(adapted, data, tmp_path):
    out = tmp_path / "out"
    more = ["--model_dir", adapted[0] / "models", "--no_mlflow", "--references", data / "test"]
    assert main(arguments(data, out, *more)) == 0
    assert not (out / "rounds").exists()
    assert read(out / "aligned/align.json")["config"]["labeller_dir"] is None
    assert SegmenterRecord.load(out / "segmenters/adapted-0").provenance["site"] == 8
    cross_validated(out, data / "test")


def dice(image):
    return float(np.mean(list(image["dice"].values())))


def cross_validated(out, references):
    """Each annotated reference is scored once, by a segmenter that did not see it."""
    scored, gains = [], []
    for k in range(2):
        listed = read(out / f"prepare/folds/{k}/fitted/dataset.json")["training"]
        assert SegmenterRecord.load(out / f"folds/{k}/segmenter").provenance["site"] == len(listed)
        arms = [
            read(out / f"scores/folds/{k}/{arm}-0/scores.json") for arm in ("source", "adapted")
        ]
        source, ours = (arm["images"] for arm in arms)
        state = read(out / f"state/score-source-0-folds-{k}.json")
        assert "references" in state["parts"]  # other references are scored again
        assert source.keys() == ours.keys()
        assert not ours.keys() & {Path(case["image"]).name for case in listed}
        scored += list(ours)
        gains += [100 * (dice(ours[n]) - dice(source[n])) for n in ours]
    assert sorted(scored) == sorted(path.name for path in (references / "images").iterdir())
    verdict = read(out / "verdict.json")
    assert verdict["site"]["gains"]["adapted - source"]["value"] == pytest.approx(np.mean(gains))
    assert "8 annotated references, each left out" in verdict["text"][0]


def test_without_a_gap_nothing_is_adapted(adapted, data, tmp_path, capsys):
    out = tmp_path / "out"
    same = tmp_path / "same/images"
    same.mkdir(parents=True)
    for k in range(20):
        Image.open(data / f"source/images/{k}.png").rotate(180).save(same / f"{k}.png")
    more = ["--model_dir", adapted[0] / "models", "--references", same.parent]
    assert main(arguments(data, out, *more)) == 0
    assert "no gap" in capsys.readouterr().out
    verdict = read(out / "verdict.json")
    assert verdict["answer"] == "no_gap" and verdict["handed_over"] == "source"
    assert not (out / "aligned").exists() and (out / "segmenter/segmenter.pt").is_file()


def test_where_nothing_is_found_nothing_is_adapted(adapted, data, tmp_path, capsys, monkeypatch):
    def finds_nothing(stage1, references, segmenter):
        masks = site_masks(stage1, references, segmenter)
        masks.labels[:] = 0
        return masks

    monkeypatch.setattr("alignflow.alignment.site.site_masks", finds_nothing)
    out = tmp_path / "out"
    assert main(arguments(data, out, "--model_dir", adapted[0] / "models")) == 0
    assert "finds no structure in any of the 6 images" in capsys.readouterr().out
    assert "no structure" in read(out / "gap.json")["reason"]
    verdict = read(out / "verdict.json")
    assert verdict["answer"] == "nothing_found" and verdict["handed_over"] == "source"
    assert not (out / "aligned/model.pt").exists() and not (out / "report").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "models/checkpoints/image_checkpoint_1.pt",
        "aligned/checkpoints",
        "distilled/student_2.pt",
        "segmenters/source-0/segmenter.json",
    ],
)
def test_a_killed_adaptation_goes_on(adapted, data, environment, bundle, tmp_path, moment):
    out = tmp_path / "out"
    line = [sys.executable, "-m", "alignflow", *arguments(data, out, "--test", data / "test")]
    process = subprocess.Popen(line, cwd=bundle, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 900
    while not (out / moment).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(arguments(data, out, "--test", data / "test")) == 0
    for name in ("models/model.pt", "aligned/model.pt", "distilled/student_1.pt"):
        assert (out / name).read_bytes() == (adapted[0] / name).read_bytes()
    ours, theirs = read(out / "verdict.json"), read(adapted[0] / "verdict.json")
    assert ours["site"] == theirs["site"] and ours["text"] == theirs["text"]
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    experiment = client.get_experiment_by_name(f"alignflow-{out.name}")
    runs = client.search_runs([experiment.experiment_id])
    assert "RUNNING" not in {run.info.status for run in runs}


def test_the_bundle_way(adapted, data, bundle, run_config):
    out = adapted[0]
    before = results(out)
    names = {"source": "source", "references": "references", "test": "test"}
    folders = {key: str(data / name) for key, name in names.items()}
    quick = read(bundle / "configs/adapt_quick.json")
    overrides = {k: v for k, v in quick.items() if k != "_desc_"}
    made = {"output_dir": str(out), "device": "cpu", "mlflow": False}
    run_config("adapt", "train", "adapt", folders | overrides | made)
    assert results(out) == before
