"""The command `alignflow`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OK, FAILED, USAGE, PROBLEMS, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """exit codes:
  0    done (adapt: with any verdict; check: nothing stops training)
  1    a stage failed; reason and log are named, and the same command resumes from there
  2    wrong usage: an argument, a folder or a key that does not exist
  3    the data has problems that stop training or alignment; all of them are listed
  130  interrupted; the same command resumes from there"""

ADAPT = """Adapt a segmenter to a site, from a source with masks and a few images of the site.

Runs prepare, train (unless a bundle is given), align, infer, segment, distill, evaluate and report,
each the bundle workflow of that name. Stages that are finished with the same inputs and settings
are skipped, and a stopped stage resumes: just give the same command again.
Ends with a verdict: did the segmenter get better at the site, by how much, and how sure is that?
Without labelled images of the site (--test) this cannot be known, and the verdict says so."""

ADAPT_EXAMPLES = """examples:
  alignflow adapt --source DATA --references SITE --out RESULT
  alignflow adapt --source DATA --references SITE --test LABELLED --out RESULT
  alignflow adapt --source DATA --references SITE --model_dir models --out RESULT
  alignflow adapt ... --set train.image_epochs=100 --set train.group_column=patient
  alignflow adapt ... --config settings.yaml      # train: {image_epochs: 100}
  alignflow adapt ... --quick                     # a minute or two; shows that everything runs

"""

CHECK = """Inspect a data set before anything runs.

Shows counts, formats, sizes, spacing, intensities, masks, unreadable or constant images, exact and
near copies, leaks between training and validation, the disk space that `alignflow adapt` needs and,
with --references, how much these differ from the source (is alignment worth it?)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, see `EXIT_CODES`."""
    args = parser().parse_args(argv)
    from alignflow.errors import STOPPED, causes, find_input_error, print_all_letters

    print_all_letters()
    try:
        # Importing torch and MONAI takes seconds, so help and usage come first.
        code: int = args.command(args)
        return code
    except BaseException as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
            print(STOPPED, file=sys.stderr)
            return INTERRUPTED
        from alignflow.adaptation.readiness import NotReady
        from alignflow.adaptation.workflow import StageFailed

        for cause in causes(error):
            if isinstance(cause, NotReady):
                return _say(cause, PROBLEMS)
            if isinstance(cause, StageFailed):
                return _say(cause, FAILED)
        found = find_input_error(error)
        if found is None:
            raise
        return _say(found, USAGE)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="alignflow",
        description="Synthetic image-mask pairs for another site, and a segmenter from them.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    adapt = commands.add_parser(
        "adapt",
        help="from a source and references to a segmenter for the site",
        description=ADAPT,
        epilog=ADAPT_EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    adapt.set_defaults(command=run_adapt)
    add = adapt.add_argument
    add("--source", required=True, metavar="DIR", help="labelled images: images/ with masks/, ...")
    add(
        "--references",
        required=True,
        metavar="DIR",
        help="images of the site, with masks or without",
    )
    add("--out", required=True, metavar="DIR", help="output folder")
    add("--test", metavar="DIR", help="labelled images of the site that are not references")
    add("--model_dir", metavar="DIR", help="a trained bundle, to skip training")
    add("--device", help="cpu, cuda, cuda:1, ... (default: the first GPU, else the CPU)")
    add("--seeds", type=int, metavar="N", help="trainings of each segmenter, with --test")
    add("--tracking_uri", metavar="URI", help="MLflow store (default: a SQLite file in --out)")
    add("--experiment", metavar="NAME", help="MLflow experiment (default: from the name of --out)")
    add("--no_mlflow", action="store_true", help="track nothing")
    _add_settings(adapt)
    check = commands.add_parser(
        "check",
        help="inspect a data set before anything runs",
        description=CHECK,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.set_defaults(command=run_check)
    add = check.add_argument
    add("directory", metavar="DIR", help="labelled images: images/ with masks/, or dataset.json")
    add("--references", metavar="DIR", help="images of the site")
    add("--test", metavar="DIR", help="labelled images of the site")
    add("--model_dir", metavar="DIR", help="read images as this trained bundle does")
    add("--out", default=".", metavar="DIR", help="folder whose disk is checked (default: .)")
    add("--json", action="store_true", help="print JSON instead of text")
    _add_settings(check)
    return top


def _add_settings(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--config",
        metavar="FILE",
        help="JSON or YAML that overrides configs/adapt.json, such as {train: {image_epochs: 100}}",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="override a key, VALUE as JSON or text; may be repeated",
    )
    add("--quick", action="store_true", help="very short run, to see that everything works")
    add("--bundle_root", metavar="DIR", help="folder of the bundle (default: found automatically)")


def run_adapt(args: argparse.Namespace) -> int:
    """`alignflow adapt`."""
    from monai.bundle import ConfigWorkflow

    from alignflow.config import require_plain

    logging.getLogger("monai.bundle.workflows").setLevel(
        logging.ERROR
    )  # warns about a missing logging file
    overrides = settings(args)
    given = {
        "source": args.source,
        "references": args.references,
        "test": args.test,
        "model_dir": args.model_dir,
        "output_dir": str(Path(args.out).resolve()),
        "device": args.device,
        "seeds": args.seeds,
        "tracking_uri": args.tracking_uri,
        "experiment": args.experiment,
        "mlflow": False if args.no_mlflow else None,
    }
    overrides |= {key: value for key, value in given.items() if value is not None}
    for path in filter(None, (args.source, args.references, args.test, args.model_dir, args.out)):
        require_plain(str(Path(path).resolve()), "folder")
    root = bundle_root(args.bundle_root)
    workflow = ConfigWorkflow(
        config_file=str(root / "configs/adapt.json"),
        logging_file=False,
        run_id="adapt",
        bundle_root=str(root),
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return OK


def run_check(args: argparse.Namespace) -> int:
    """`alignflow check`."""
    from alignflow.adaptation.jobs import overlaid
    from alignflow.adaptation.readiness import inspect
    from alignflow.config import require_plain
    from alignflow.errors import InputError
    from alignflow.inspection.text import lines
    from alignflow.stage1 import Stage1

    configs = bundle_root(args.bundle_root) / "configs"
    content = json.loads((configs / "adapt.json").read_text(encoding="utf-8")) | settings(args)
    for path in filter(None, (args.directory, args.references, args.test)):
        if not Path(path).is_dir():
            raise InputError(f"'{path}' is not a folder; fix the path")
        require_plain(str(Path(path).resolve()), "folder")
    result = inspect(
        source=Path(args.directory),
        references=args.references and Path(args.references),
        test=args.test and Path(args.test),
        train=overlaid(configs / "train.json", content["train"]),
        bundle=None if args.model_dir is None else Stage1.load(args.model_dir),
        output=Path(args.out).resolve(),
        sections=content,
        configs=configs,
    )
    print(json.dumps(result, indent=1) if args.json else "\n".join(lines(result)))
    return PROBLEMS if result["problems"] else OK


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Overrides of `adapt.json` from --quick, --config and --set, in this order; merged.

    Raises:
        InputError: a file cannot be read, or a section does not exist.
    """
    from monai.bundle import ConfigParser

    from alignflow.errors import InputError

    configs = bundle_root(args.bundle_root) / "configs"
    base = json.loads((configs / "adapt.json").read_text(encoding="utf-8"))
    layers: list[dict[str, Any]] = []
    if args.quick:
        layers.append(json.loads((configs / "adapt_quick.json").read_text(encoding="utf-8")))
    if args.config:
        if not Path(args.config).is_file():
            raise InputError(f"--config '{args.config}': no such file; fix the path")
        try:
            layers.append(ConfigParser.load_config_file(args.config))
        except Exception as error:
            raise InputError(
                f"--config '{args.config}': cannot be read ({type(error).__name__}); "
                "give JSON or YAML"
            ) from error
    layers += [_one(text) for text in args.set]
    result: dict[str, Any] = {}
    for number, layer in enumerate(layers):
        quick = args.quick and number == 0
        for key, value in layer.items():
            if key == "_desc_":
                continue
            if key not in base:
                known = ", ".join(k for k, v in base.items() if isinstance(v, dict))
                raise InputError(f"'{key}': not a key of adapt.json; sections are {known}")
            if isinstance(base[key], dict) and not isinstance(value, dict):
                raise InputError(f"'{key}': is a section; give {{key: value}}")
            before = result.get(key, base[key])
            # --quick replaces the defaults of a section, --config and --set are merged into it
            result[key] = before | value if isinstance(value, dict) and not quick else value
    return result


def bundle_root(given: str | None) -> Path:
    """The folder with the bundle's configs.

    Raises:
        InputError: it is not found.
    """
    from alignflow.errors import InputError

    package = Path(__file__).resolve().parent
    places = (
        [Path(given)]
        if given
        # a bundle to work in, the checkout of an editable install, a packed zip, the wheel's own
        else [
            Path("."),
            Path("bundle"),
            package.parents[1] / "bundle",
            package.parent,
            package / "bundle",
        ]
    )
    for place in places:
        if (place / "configs/adapt.json").is_file():
            return place.resolve()
    raise InputError(
        f"no configs/adapt.json in {', '.join(str(p) for p in places)}; "
        "give --bundle_root, the folder bundle/ of AlignFlow"
    )


def _one(text: str) -> dict[str, Any]:
    """STAGE.KEY=VALUE or KEY=VALUE as nested dictionaries."""
    from alignflow.errors import InputError

    key, sign, value = text.partition("=")
    if not sign:
        raise InputError(f"--set '{text}': give STAGE.KEY=VALUE, such as train.image_epochs=100")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    stage, dot, name = key.partition(".")
    return {stage: {name.replace(".", "::"): parsed}} if dot else {stage: parsed}


def _say(error: BaseException, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
