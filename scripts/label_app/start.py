"""Start the annotation server: make label, or this script in .venv-label.

Images come from a folder, or from a DICOMweb server (its URL). What is learnt goes into --work;
masks go into the folder's labels/, or to the DICOMweb server. To listen to the network, set the
environment variable ALIGNFLOW_LABEL_TOKEN; arguments that are not listed here are MONAI Label's
(monailabel start_server --help), such as --ssl_keyfile and --ssl_certfile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent
sys.path[:0] = [str(APP.parent), str(APP)]

from alignflow.errors import InputError  # noqa: E402
from alignflow.label.access import NO_VIEWER, require_token  # noqa: E402
from alignflow.label.synthesize import load_image_sampler  # noqa: E402
from alignflow.label.work import Work, parts_of  # noqa: E402
from alignflow.stage1 import Stage1  # noqa: E402

TOKEN = "ALIGNFLOW_LABEL_TOKEN"


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """Our own, and those for MONAI Label."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--studies", required=True, help="folder of images, or URL of a DICOMweb server")
    add("--models", type=Path, required=True, help="bundle, or folder of adapt")
    add("--work", type=Path, required=True, help="folder for what is learnt here")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, default=8000, help="default 8000")
    add("--device", default="", help="default: a GPU if there is one")
    return parser.parse_known_args()


def require_studies(studies: str) -> None:
    """Refuse a folder that is not there; MONAI Label would create it.

    Raises:
        InputError: neither a URL nor a folder.
    """
    if "://" not in studies and not Path(studies).is_dir():
        raise InputError(f"STUDIES '{studies}': no such folder; correct it, or give a URL")


def settings(args: argparse.Namespace, stage1: Stage1) -> dict[str, str]:
    """Settings of MONAI Label, for those that the environment does not have."""
    kind = stage1.source.modality
    return {
        # The strategy scores when scores are out of date; MONAI Label would after every request.
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(args.work / "dicom"),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "60",
        # Photographs come under several modalities.
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps(
            {} if kind == "RGB8" else {"Modality": kind}
        ),
    }


def main() -> int:
    """Check what was asked for, then serve until interrupted."""
    args, rest = arguments()
    try:
        require_token(args.host, os.environ.get(TOKEN) or None)
        require_studies(args.studies)
        args.models, segmenter = parts_of(args.models.resolve())
        args.work = args.work.resolve()
        work = Work(args.work, args.models, segmenter)
        work.require_same_bundle()
        stage1 = Stage1.load(str(args.models))
        # what cannot be loaded is said now, and not at the first request
        work.segmenter("cpu")
        load_image_sampler(work.bundle(), stage1, "cpu")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if "://" not in args.studies:
        print(f"STUDIES is a folder: {NO_VIEWER}")
    args.work.mkdir(parents=True, exist_ok=True)
    for name, value in settings(args, stage1).items():
        os.environ.setdefault(name, value)
    # Processes that MONAI Label starts find both packages by it, and its tools by PATH.
    paths = [str(APP.parent), str(APP), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    from monailabel.main import Main  # reads the environment when imported

    served = Main()
    line = ["start_server", "--app", str(APP), "--studies", args.studies]
    line += ["--host", args.host, "--port", str(args.port), "--uvicorn_app", "server:app"]
    for key in ("models", "work", "device"):
        line += ["--conf", key, str(getattr(args, key))]
    line += ["--conf", "segmenter", str(segmenter or "")]
    served.action_start_server(served.args_parser().parse_args([*line, *rest]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
