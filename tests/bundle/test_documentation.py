"""Every command of the README and of bundle/docs is run, by bash, as it stands there.

Capital words (DIR, REFERENCES, ...) are tiny data sets, `python` is warm_python.py with settings
of a few steps added, optional arguments (`[--test_dir TEST]`) are given. Commands that install
(pip), build (make) or start servers are not run but looked up: the target, extra or store is there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "bundle/docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTIONAL = re.compile(r"\[((?:--|[A-Z]+=).*?)(?<!')\](?=\s|$)")
NEEDS_A_SERVER = "--dicomweb_url"  # test_dicom.py has one
RUN, LOOKED_UP = "run", "looked up"

# what stands in for python, torchrun, pip, make and mlflow: first on the PATH
SHIM = """#!{python}
import sys
sys.path.insert(0, {here!r})
from documented import command
raise SystemExit(command({name!r}, sys.argv[1:]))
"""


def blocks(document):
    """The bash blocks of a document."""
    return BLOCK.findall(document.read_text())


def place_of(block):
    """Where its commands are given: bundle/, but for those that go there, or build."""
    if block.startswith("unzip"):
        return "build"
    return "." if re.search(r"^cd bundle|^git |\bmake ", block, re.MULTILINE) else "bundle"


@pytest.fixture(scope="session")
def warm(tmp_path_factory, environment):
    """The socket of a server of warm_python.py."""
    path = tmp_path_factory.mktemp("warm") / "socket"
    arguments = [sys.executable, str(ROOT / "tests/warm_python.py"), "--serve", str(path)]
    server = subprocess.Popen(arguments, env=environment)
    deadline = time.monotonic() + 120
    while not path.exists():
        assert server.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield path
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def shims(tmp_path_factory):
    """A folder of commands that stand before the real ones."""
    folder = tmp_path_factory.mktemp("shims")
    for name in ("python", "torchrun", "alignflow", "pip", "make", "mlflow", "git"):
        content = SHIM.format(python=sys.executable, here=str(Path(__file__).parent), name=name)
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    return folder


def write_colour_pairs(folder, masks="masks", number=6, darker=0, seed=0):
    """RGB images, 64 x 48, of a bright disc, with masks unless `masks` is None."""
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[:48, :64]
    for k in range(number):
        disc = np.hypot(x - 24, y - 30 - k) < 8 + 2 * k
        pixels = rng.integers(60, 90, (48, 64, 3)) + 100 * disc[..., None] - darker
        for name, content in (("images", pixels), (masks, 255 * disc)):
            if name is not None:
                (folder / name).mkdir(parents=True, exist_ok=True)
                content = np.asarray(content, np.uint8)
                Image.fromarray(content).save(folder / name / f"{k:03d}.png")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """What a reader of the documents brings: the capital words, and their folders."""
    root = tmp_path_factory.mktemp("inputs")
    write_colour_pairs(root / "DIR")
    write_colour_pairs(root / "REFERENCES", masks=None, number=3, darker=30, seed=1)
    write_colour_pairs(root / "TEST", darker=30, seed=2)
    shutil.copytree(root / "DIR/masks", root / "MASKS")
    (root / "EXPORT").mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), root / "EXPORT")
    return {
        **{word: root / word for word in ("DIR", "REFERENCES", "TEST", "MASKS", "EXPORT")},
        "UNSEEN": root / "TEST",
    }


@pytest.fixture(scope="session")
def bash(warm, shims, inputs, environment, tmp_path_factory):
    """`bash(block, folder)`: run it in a checkout's copy; (exit status, output, commands)."""

    def call(block, checkout):
        for word, path in inputs.items():
            block = re.sub(rf"\b{word}\b", str(path), block)
        block = OPTIONAL.sub(lambda m: "" if NEEDS_A_SERVER in m[1] else m[1], block)
        log = tmp_path_factory.mktemp("log") / "commands.jsonl"
        log.touch()
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=checkout / place_of(block),
            env=environment
            | {
                "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}",
                "ALIGNFLOW_WARM": str(warm),
                "ALIGNFLOW_COMMANDS": str(log),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        commands = [json.loads(line) for line in log.read_text().splitlines()]
        return result.returncode, result.stdout, commands

    return call


@pytest.fixture(scope="session")
def checkout(bash, inputs, tmp_path_factory):
    """A copy of the checkout in which the workflows have been run once."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "bundle", root / "bundle", ignore=shutil.ignore_patterns("models"))
    shutil.copytree(ROOT / "bundle/models/nuclei", root / "bundle/models/nuclei")
    for name in ("pyproject.toml", "Makefile", "environment.yml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "scripts/label_app", root / "scripts/label_app")
    block = """
        run="python -m monai.bundle run"
        $run training --config_file configs/train.json --dataset_dir DIR --mlflow True
        $run infer --config_file configs/inference.json
        $run align --config_file configs/align.json --reference_dir REFERENCES
        $run infer --config_file configs/inference.json --model_dir aligned \
          --output_dir aligned_pairs
        $run distill --config_file configs/distill.json --model_dir aligned
        segment="$run segment --config_file configs/segment.json --dataset_dir DIR --test_dir TEST"
        $segment --output_dir without_pairs
        $segment --pairs_dir aligned_pairs --output_dir with_pairs
        $run evaluate --config_file configs/evaluate.json --pairs_dir aligned_pairs \
          --unaligned_dir output --reference_dir REFERENCES --target_dir TEST
        $run audit --config_file configs/audit.json --pairs_dir output --dataset_dir DIR
        cd ..
        python -m alignflow.packing pack --bundle bundle --model_dir bundle/aligned \
          --output build/alignflow_v0.1.0.zip
        cp build/alignflow_v0.1.0.zip bundle
    """
    status, output, _ = bash(block, root)
    assert status == 0, output[-3000:]
    kid = {"value": 0.5, "low": 0.4, "high": 0.6}
    for name in ("quality", "speed"):
        content = {"arms": {"student": {"evaluations": 1, "kid": kid}}}
        (root / f"bundle/{name}.json").write_text(json.dumps(content))
    return root


SLOW = {ROOT / "bundle/docs/README.md": pytest.mark.slow}


@pytest.mark.integration
@pytest.mark.parametrize(
    "document",
    [pytest.param(d, id=n, marks=SLOW.get(d, ())) for d, n in zip(DOCUMENTS, NAMES, strict=True)],
)
def test_commands_of(document, bash, checkout, tmp_path, record_property):
    found = blocks(document)
    if not found:
        pytest.skip("no commands")
    root = tmp_path / "checkout"
    shutil.copytree(checkout, root)
    counts = {RUN: 0, LOOKED_UP: 0}
    for block in found:
        status, output, commands = bash(block, root)
        print(f"{block}{[c['seconds'] for c in commands]}")
        assert status == 0, f"{block}\n{output[-3000:]}"
        assert commands, f"no command of this block was seen:\n{block}"
        for command in commands:
            counts[command["how"]] += 1
    record_property("commands", counts)
    print(f"{document.name}: {counts[RUN]} commands run, {counts[LOOKED_UP]} looked up")


def test_a_wrong_command_is_found(bash, checkout, tmp_path):
    root = tmp_path / "checkout"
    shutil.copytree(checkout, root)
    for wrong in (
        "python -m monai.bundle run infer --config_file configs/inference.json --num_pear 3",
        "python -m monai.bundle run infer --config_file configs/inferences.json",
        "make nonsense",
        'pip install -e "..[nonsense]"',
        "mlflow ui --backend-store-uri sqlite:///nowhere/mlflow.db",
    ):
        assert bash(wrong, root)[0] != 0, wrong


def test_extras_of_the_project_are_those_looked_up():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"encoder", "eval", "export", "dicom"} <= set(project["optional-dependencies"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_of(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    for link in links:
        if not link.startswith(("https://", "#")):
            assert (document.parent / link.split("#")[0]).exists(), link
