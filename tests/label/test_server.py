"""The server as `make label` starts it, talked to over REST; needs .venv-label."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from alignflow.files import sha256
from alignflow.stage1 import Stage1

requests = pytest.importorskip("requests")

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("ALIGNFLOW_LABEL_PYTHON", ROOT / ".venv-label/bin/python"))
START = ROOT / "scripts/label_app/start.py"
TOKEN = "0123456789abcdef0123"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason="no .venv-label; make label builds it"),
]

UNET = {"channels": [32, 32], "attention_levels": [False, True]}
TINY = {
    "image_size": [16, 16],
    "batch_size": 4,
    "steps_per_epoch": 2,
    "image_epochs": 1,
    "mask_epochs": 1,
    "segmenter_epochs": 1,
    "segmenter_def::features": [4, 4, 8, 8, 8, 4],
    "val_interval": 1,
    "solver_steps": 2,
    "mlflow": False,
    **{f"network_def::{key}": value for key, value in UNET.items()},
    **{f"mask_network_def::{key}": value for key, value in UNET.items()},
    "mask_network_def::prediction": "velocity",  # an untrained one draws masks
}


def disc(size, centre, radius):
    grid = np.indices(size)
    return (grid[0] - centre[0]) ** 2 + (grid[1] - centre[1]) ** 2 <= radius**2


def write_pairs(root, count, brightness):
    rng = np.random.default_rng(brightness)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for k in range(count):
        mask = disc((40, 48), rng.integers(12, 28, 2), 9)
        image = rng.integers(0, 40, (40, 48, 3)) + brightness + 100 * mask[..., None]
        Image.fromarray(image.astype(np.uint8)).save(root / f"images/case{k}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / f"masks/case{k}.png")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A bundle of 16 px, trained for a few steps; five halvings need 32."""
    root = tmp_path_factory.mktemp("label_bundle")
    source = write_pairs(root / "source", 6, 60)
    arguments = TINY | {"image_size": [32, 32], "dataset_dir": str(source)}
    arguments |= {"output_dir": str(root / "models"), "device": "cpu"}
    arguments |= {"run_id": "training", "config_file": "configs/train.json"}
    (root / "args.json").write_text(json.dumps(arguments))
    run([sys.executable, "-m", "monai.bundle", "run", "--args_file", str(root / "args.json")])
    return root / "models"


def run(command):
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT / "bundle", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server, and a client of it."""

    def __init__(self, log, *arguments, headers=None, **environment):
        self.port, self.log = free_port(), log
        self.session = requests.Session()
        self.session.headers.update(headers or {})
        command = [str(PYTHON), *arguments, "--port", str(self.port)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MONAI_LABEL")}
        self.process = subprocess.Popen(
            command,
            env=clean | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.wait_until_up()

    def wait_until_up(self):
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                self.get("info/")
                return
            except requests.ConnectionError:
                time.sleep(1)
        raise AssertionError(self.log.read_text()[-3000:])

    def get(self, path, **options):
        return self.session.get(f"http://127.0.0.1:{self.port}/{path}", timeout=900, **options)

    def post(self, path, **options):
        return self.session.post(f"http://127.0.0.1:{self.port}/{path}", timeout=900, **options)

    def json(self, path, **options):
        answer = self.post(path, **options)
        assert answer.status_code == 200, answer.text + self.log.read_text()[-3000:]
        return answer.json()

    def picture(self, path, **options):
        answer = self.post(path, **options)
        assert answer.status_code == 200, answer.text + self.log.read_text()[-3000:]
        return np.asarray(Image.open(io.BytesIO(answer.content)))

    def save_mask(self, image, path):
        url = f"http://127.0.0.1:{self.port}/datastore/label?image={image}"
        files = {"label": (path.name, path.read_bytes())}
        answer = self.session.put(url, files=files, data={"params": "{}"}, timeout=60)
        assert answer.status_code == 200, answer.text

    def finish(self, kind):
        """Wait for a task in the background; its status."""
        while self.get(f"{kind}/").json()["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(1)
        return self.get(f"{kind}/").json()

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("site"), 6, 110)


@pytest.fixture(scope="module")
def server(models, site, tmp_path_factory):
    root = tmp_path_factory.mktemp("server")
    shutil.copytree(site / "images", root / "studies")
    folders = ["--studies", root / "studies", "--models", models, "--work", root / "work"]
    started = Server(root / "log", str(START), *map(str, folders), "--device", "cpu")
    started.work = root / "work"
    yield started
    started.stop()


QUICK = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4}
WITNESS = {"num_masks": 4, "num_samples": 4}


def test_everything_is_offered(server):
    info = server.get("info/").json()
    assert set(info["models"]) == {"segment", "synthesize"}
    assert set(info["trainers"]) == {"align", "segment"}
    assert set(info["strategies"]) == {"witness", "random"}
    assert set(info["scoring"]) == {"witness"}
    assert info["models"]["segment"]["labels"] == {"class1": 1}
    assert info["datastore"]["total"] == 6
    assert "needs a DICOMweb server" in server.get("ohif/").text  # of a folder it shows nothing
    assert "<html" in server.get("").text and "://" not in server.get("").text  # nothing is fetched


def test_a_mask_for_an_image(server):
    mask = server.picture("infer/segment?image=case0&output=image")
    assert mask.shape == (40, 48) and set(np.unique(mask)) <= {0, 1}
    asked = {"params": json.dumps({"result_extension": ".nrrd"})}  # as OHIF and 3D Slicer
    answer = server.post("infer/segment?image=case0&output=image", data=asked).content
    assert answer.startswith(b"NRRD") and answer.endswith(mask.tobytes())
    answer = server.json("infer/segment?image=case0&output=json")
    assert answer["label_names"] == {"class1": 1}


def test_an_image_for_a_mask_that_is_sent(server, site):
    sent = {"file": ("m.png", (site / "masks/case3.png").read_bytes())}
    image = server.picture("infer/synthesize?output=image", files=sent)
    assert image.shape == (40, 48, 3) and image.dtype == np.uint8
    again = server.picture("infer/synthesize?output=image", files=sent)
    other = server.picture(
        "infer/synthesize?output=image", files=sent, data={"params": json.dumps({"seed": 1})}
    )
    assert np.array_equal(image, again) and not np.array_equal(image, other)


def test_input_errors_come_as_one_line(server):
    answer = server.post("infer/synthesize?image=case5&output=image")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("image 'case5': no mask yet")
    for model in ("segment", "synthesize"):
        answer = server.post(f"infer/{model}?image=nowhere&output=image")
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith("image 'nowhere': not in the studies")


def test_pages_from_elsewhere_get_nothing(server):
    assert server.get("info/", headers={"Origin": "http://elsewhere.example"}).status_code == 403
    assert server.get("info/", headers={"Host": "elsewhere.example"}).status_code == 403


def test_annotate_train_align(server, site):
    assert server.json("scoring/witness?run_sync=true", json=WITNESS)["scored"] == 6
    infos = server.get("datastore/?output=all").json()["objects"]
    scores = {name: entry["image"]["info"]["witness"] for name, entry in infos.items()}
    order = sorted(scores, key=lambda name: -scores[name])
    for expected in order[:3]:
        sample = server.json("activelearning/witness", json=WITNESS)
        assert sample["id"] == expected and sample["witness"] == scores[expected]
        server.save_mask(expected, site / f"masks/{expected}.png")
    assert server.get("datastore/").json()["completed"] == 3
    assert server.json("activelearning/random")["id"] in order[3:]
    # of an image of the studies, its mask is taken
    assert server.picture(f"infer/synthesize?image={order[0]}&output=image").shape == (40, 48, 3)

    before = server.picture("infer/segment?image=case0&output=image")
    settings = QUICK | {"num_pairs": 2, "synthetic_share": 0.25, "learning_rate": 0.01}
    server.json("train/segment", json=settings)
    task = server.finish("train")
    assert task["status"] == "DONE", "\n".join(task["details"])
    record = json.loads((server.work / "segmenter/0001/segmenter.json").read_text())
    assert record["provenance"]["real"] == 3 and record["provenance"]["synthetic"] == 2
    after = server.picture("infer/segment?image=case0&output=image")
    assert not np.array_equal(before, after), "the new segmenter is in use"
    assert "dice" in server.get("info/").json()["train_stats"]["segment"]["validation"]

    align = QUICK | {"num_masks": 8, "num_samples": 4}
    bundle = server.json("train/align?run_sync=true", json=align)["bundle"]
    assert json.loads((server.work / "current.json").read_text())["aligned"] == "aligned/0001"
    references = json.loads((Path(bundle) / "align.json").read_text())["references"]
    assert references == sorted(f"{name}.png" for name in scores)

    sample = server.json("activelearning/witness", json=WITNESS)
    assert sample["id"] in order[3:], "annotated images are not proposed again"
    infos = server.get("datastore/?output=all").json()["objects"]
    of = {entry["image"]["info"]["witness_of"] for entry in infos.values()}
    assert len(of) == 1, "the aligned bundle scores all images anew"


def test_a_run_that_fails_leaves_what_is_in_use(server):
    before = (server.work / "current.json").read_text()
    server.json("train/align", json=QUICK | {"epochs": 0})
    task = server.finish("train")
    assert task["status"] == "ERROR"
    assert re.search(r'config "?epochs"?', "\n".join(task["details"]))
    assert (server.work / "current.json").read_text() == before


def test_the_network_needs_a_token(models, tmp_path):
    command = [str(PYTHON), str(START), "--studies", str(tmp_path), "--models", str(models)]
    command += ["--work", str(tmp_path / "work"), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1
    assert done.stderr.startswith("error: host '0.0.0.0': reachable from the network")


def test_with_a_token_only_its_holders_are_served(models, site, tmp_path):
    folders = ["--studies", str(site / "images"), "--models", str(models)]
    folders += ["--work", str(tmp_path / "work"), "--device", "cpu", "--host", "0.0.0.0"]
    server = Server(
        tmp_path / "log",
        str(START),
        *folders,
        headers={"Authorization": f"Bearer {TOKEN}"},
        ALIGNFLOW_LABEL_TOKEN=TOKEN,
    )
    try:
        assert server.get("info/").status_code == 200
        url = f"http://127.0.0.1:{server.port}/"
        for path in ("info/", "ohif/", "", "docs", "proxy/dicom/qido/studies", "static/x"):
            assert requests.get(url + path, timeout=60).status_code == 401
            wrong = {"Authorization": f"Bearer {TOKEN[::-1]}"}
            assert requests.get(url + path, headers=wrong, timeout=60).status_code == 401
        assert requests.get(url + "info/", auth=("me", TOKEN), timeout=60).status_code == 200
    finally:
        server.stop()


STOCK = "from monailabel.main import Main; Main().run()"
# torchvision's wheel may be built for another torch than the one beside it
OPERATORS = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.fixture
def stock_app(models, tmp_path):
    """MONAI Label's app for bundles with our bundle, whose training is made short."""
    code = "import sysconfig; print(sysconfig.get_paths()['data'])"
    prefix = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True).stdout
    app = tmp_path / "monaibundle"
    shutil.copytree(Path(prefix.strip()) / "monailabel/sample-apps/monaibundle", app)
    bundle = app / "model/alignflow"
    shutil.copytree(ROOT / "bundle/configs", bundle / "configs")
    shutil.copytree(models, bundle / "models", ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((bundle / "configs/train.json").read_text())
    for key, value in (TINY | {"image_size": [32, 32]}).items():
        part, _, name = key.rpartition("::")
        (config[part] if part else config)[name] = value
    (bundle / "configs/train.json").write_text(json.dumps(config))
    return app


def test_the_stock_app_loads_the_bundle(stock_app, site, tmp_path):
    paths = [str(ROOT / "scripts")]
    if subprocess.run([str(PYTHON), "-c", "import torchvision"], capture_output=True).returncode:
        (tmp_path / "sitecustomize.py").write_text(OPERATORS)
        paths.append(str(tmp_path))
    studies = tmp_path / "studies"
    shutil.copytree(site / "images", studies)
    line = ["start_server", "--app", str(stock_app), "--studies", str(studies)]
    line += ["--conf", "models", "alignflow", "--conf", "zoo_source", "ngc"]
    line += ["--host", "127.0.0.1"]
    server = Server(tmp_path / "log", "-c", STOCK, *line, PYTHONPATH=os.pathsep.join(paths))
    try:
        info = server.get("info/").json()
        assert set(info["models"]) == set(info["trainers"]) == {"alignflow"}
        sent = {"file": ("m.png", (site / "masks/case3.png").read_bytes())}
        answer = server.post("infer/alignflow?output=image", files=sent)
        assert answer.status_code == 200, server.log.read_text()[-3000:]
        (tmp_path / "image.nii.gz").write_bytes(answer.content)
        image = nib.load(tmp_path / "image.nii.gz").get_fdata()
        assert image.shape == (3, 48, 40) and 0 <= image.min() < image.max() <= 255
        for k in range(6):
            server.save_mask(f"case{k}", site / f"masks/case{k}.png")
        folder = stock_app / "model/alignflow/models"
        before = sha256(folder / "model.pt")
        server.json("train/alignflow?run_sync=true", json={"max_epochs": 1, "device": "cpu"})
        assert sha256(folder / "model.pt") != before
        assert Stage1.load(str(folder)).source.channels == 3, "record and weights belong together"
    finally:
        server.stop()


ORIGIN, ROW, COLUMN = [-40.0, 12.5, 7.0], [0.8, 0.6, 0.0], [-0.6, 0.8, 0.0]
SERIES = "1.2.826.0.1.3680043.8.498.2"


def ct_slice(k, pixels):
    """Slice k (rows, columns) of an oblique CT series, 1.5 x 0.75 mm, 4 mm apart."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{SERIES}.{k + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{SERIES}.77", f"{SERIES}.78"
    dataset.FrameOfReferenceUID = f"{SERIES}.79"
    dataset.PatientName = dataset.PatientID = "PHANTOM"
    for name in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        setattr(dataset, name, "")
    for name in ("AccessionNumber", "ReferringPhysicianName", "Manufacturer"):
        setattr(dataset, name, "")
    dataset.PositionReferenceIndicator, dataset.PatientPosition = "", "HFS"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, 9 - k
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelSpacing, dataset.SliceThickness = [1.5, 0.75], 4
    dataset.ImagePositionPatient = [*ORIGIN[:2], ORIGIN[2] + 4 * k]
    dataset.ImageOrientationPatient = ROW + COLUMN
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation, dataset.RescaleSlope, dataset.RescaleIntercept = 1, 1, 0
    dataset.PixelData = pixels.astype("<i2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def orthanc(tmp_path):
    """URL of a running Orthanc with a CT series of 4 slices."""
    plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    if shutil.which("Orthanc") is None or not plugin.exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    port, folder = free_port(), tmp_path / "orthanc"
    folder.mkdir()
    settings = {"StorageDirectory": str(folder), "IndexDirectory": str(folder)}
    settings |= {"HttpPort": port, "DicomServerEnabled": False, "Plugins": [str(plugin)]}
    (folder / "orthanc.json").write_text(json.dumps(settings))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], **quiet)
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            requests.get(f"{url}/system", timeout=10)
            break
        except requests.ConnectionError:
            time.sleep(0.5)
    rng = np.random.default_rng(0)
    for k in (2, 0, 3, 1):
        pixels = rng.integers(-50, 50, (40, 32)) + 150 * disc((40, 32), (18, 15), 8)
        sent = requests.post(f"{url}/instances", data=ct_slice(k, pixels), timeout=60)
        assert sent.status_code == 200
    yield url
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def ct_models(tmp_path_factory):
    """A bundle of single-channel CT."""
    root = tmp_path_factory.mktemp("ct_bundle")
    rng = np.random.default_rng(0)
    for number in range(4):
        mask = np.repeat(disc((40, 32), (18, 15), 7 + number)[..., None], 3, axis=2)
        image = rng.integers(-50, 50, mask.shape) + 150 * mask
        for folder, volume in (("images", image.astype(np.int16)), ("labels", mask)):
            (root / "source" / folder).mkdir(parents=True, exist_ok=True)
            file = root / "source" / folder / f"case{number}.nii.gz"
            nib.save(nib.Nifti1Image(volume.astype(np.int16), np.eye(4)), file)
    arguments = TINY | {"image_size": [32, 32], "modality": "CT", "device": "cpu"}
    arguments |= {"dataset_dir": str(root / "source"), "output_dir": str(root / "models")}
    arguments |= {"run_id": "training", "config_file": "configs/train.json"}
    (root / "args.json").write_text(json.dumps(arguments))
    run([sys.executable, "-m", "monai.bundle", "run", "--args_file", str(root / "args.json")])
    return root / "models"


def nifti(content, path):
    path.write_bytes(content)
    return nib.load(path)


def test_dicomweb(orthanc, ct_models, tmp_path):
    folders = ["--studies", f"{orthanc}/dicom-web", "--models", str(ct_models)]
    folders += ["--work", str(tmp_path / "work"), "--device", "cpu"]
    server = Server(tmp_path / "log", str(START), *folders)
    name = f"{SERIES}.78"
    try:
        assert server.json("activelearning/random")["id"] == name
        answer = server.post(f"infer/segment?image={name}&output=image")
        assert answer.status_code == 200, answer.text + server.log.read_text()[-3000:]
        predicted = nifti(answer.content, tmp_path / "predicted.nii.gz")
        # what SimpleITK, in MONAI Label, makes of the series
        image = nifti(server.get(f"datastore/image?image={name}").content, tmp_path / "i.nii.gz")
        assert predicted.shape == image.shape == (32, 40, 4)
        np.testing.assert_allclose(predicted.affine, image.affine, atol=1e-4)

        mask = np.zeros(image.shape, np.uint8)
        mask[5:20, 8:30, 1], mask[10:14, 8:20, 2] = 1, 1
        nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "mask.nii.gz")
        server.save_mask(name, tmp_path / "mask.nii.gz")
        assert server.json("activelearning/witness", json=WITNESS) == {}, "all are annotated"
        drawn = server.post(f"infer/synthesize?image={name}&output=image")
        drawn = nifti(drawn.content, tmp_path / "drawn.nii.gz")
        np.testing.assert_allclose(drawn.affine, image.affine, atol=1e-4)

        query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
        [stored] = requests.post(f"{orthanc}/tools/find", json=query, timeout=60).json()
        found = requests.get(f"{orthanc}/instances/{stored}/file", timeout=60).content
        segmentation = pydicom.dcmread(io.BytesIO(found))
        assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == name
        frames = segmentation.pixel_array.reshape(-1, 40, 32)
        groups = segmentation.PerFrameFunctionalGroupsSequence
        seen = np.zeros_like(mask)
        for frame, group in zip(frames, groups, strict=True):
            position = group.PlanePositionSequence[0].ImagePositionPatient
            np.testing.assert_allclose(position[:2], ORIGIN[:2], atol=1e-3)
            seen[:, :, round((position[2] - ORIGIN[2]) / 4)] = frame.T
        assert np.array_equal(seen, mask)

        settings = QUICK | {"synthetic_share": 0}
        server.json("train/segment?run_sync=true", json=settings)
        record = json.loads((tmp_path / "work/segmenter/0001/segmenter.json").read_text())
        assert record["provenance"]["real"] == 2, "slices with foreground"
    finally:
        server.stop()
