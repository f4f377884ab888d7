"""The command line: the only place of the package that prints or exits.

Not the work itself: each command calls one library function. Heavy imports happen inside the
commands, so that ``sightline --help`` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node import __version__
from dicom_node import cli_texts as texts
from dicom_node.errors import SightlineError

if TYPE_CHECKING:
    from rich.console import Console

    from core_model.reader import Reader
    from core_model.reading import Reading, StudyEncoding
    from dicom_node.series import Progress
    from dicom_node.sources import CtInput

BAD_INPUT = 2  # as argparse itself exits
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments: those of the process by default.

    Returns
    -------
    The exit status.
    """
    given = _parser().parse_args(arguments)
    # Both may quote values of the files, and so a patient's name.
    warnings.filterwarnings("ignore", module="pydicom|highdicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        return command(given)
    except SightlineError as error:
        print(f"sightline: {error.message}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("sightline: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="sightline", description=texts.ABOUT, epilog=texts.EXAMPLES, formatter_class=style
    )
    parser.add_argument("--version", action="version", version=f"sightline {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, short: str, text: str, examples: str, command: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=short, description=text, epilog=examples, formatter_class=style)
        sub.set_defaults(command=command)
        return sub

    demo = add("demo", "see all of it work, on a made-up patient", texts.DEMO, "", _demo)
    demo.add_argument("--out", type=Path, metavar="DIR", help="keep everything here (default: new folder)")
    demo.add_argument("--seed", type=int, default=7, metavar="N", help="of the phantom (default: 7)")
    demo.add_argument("--slices", type=int, metavar="N", help="images (default: one every 2 mm)")
    demo.add_argument("--matrix", type=int, metavar="N", help="rows and columns (default: 2 mm pixels)")
    serve = add("serve", "run the node", texts.SERVE, texts.SERVE_EXAMPLES, _serve)
    check = add("check", "is everything ready to serve?", texts.CHECK, "", _check)
    serve.add_argument(
        "--only",
        action="append",
        choices=("receiver", "reader", "service", "monitor"),
        metavar="ROLE",
        help="run only this part: receiver, reader, service or monitor; may be given more than once",
    )
    status = add("status", "which studies came, and how far they are", texts.STATUS, "", _status)
    status.add_argument("--limit", type=int, default=20, metavar="N", help="how many studies (default: 20)")
    status.add_argument("--json", action="store_true", help="print JSON")
    tag = add("tag", "what stands for a UID, AE title or Patient ID in the log", texts.TAG, "", _tag)
    tag.add_argument("value", help="as it is in the images; without the quotes that a shell may need")
    retry = add("retry", "send now what was not delivered", texts.RETRY, texts.RETRY_EXAMPLES, _retry)
    retry.add_argument("--destination", metavar="NAME", help="only there (default: everywhere)")
    retry.add_argument("studies", nargs="*", metavar="STUDY", help="Study Instance UID (default: all)")
    promote = add(
        "promote", "read later studies with another model", texts.PROMOTE, texts.PROMOTE_EXAMPLES, _promote
    )
    what = promote.add_mutually_exclusive_group(required=True)
    what.add_argument("checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="folder of the new one")
    what.add_argument("--list", action="store_true", help="which the node has, and which it uses")
    what.add_argument("--back", action="store_true", help="use the one before again")
    for sub in (serve, check, status, retry, tag, promote):
        sub.add_argument("--config", type=Path, metavar="FILE", help="TOML; without it a safe default")
    read = add("read", "read one CT from disk", texts.READ, texts.READ_EXAMPLES, _read)
    read.add_argument("path", type=Path, metavar="PATH", help=texts.PATH)
    read.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the results")
    read.add_argument("--nifti", action="store_true", help="also write the masks as NIfTI")
    read.add_argument("--overwrite", action="store_true", help="replace earlier results in DIR")
    query = add("query", "find what a text describes", texts.QUERY, texts.QUERY_EXAMPLES, _query)
    query.add_argument("path", type=Path, metavar="PATH", help=f"encoding.safetensors, or {texts.PATH}")
    query.add_argument("text", help="what to look for, in English")
    query.add_argument("--json", action="store_true", help="print JSON")
    for sub in (read, query, demo):
        sub.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="model (default: the shipped one)")
        sub.add_argument("--device", metavar="D", help="cpu, cuda:0, ... (default: CUDA if there is one)")
    return parser


def _read(given: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from dicom_node.config import load_config  # noqa: PLC0415
    from dicom_node.progress import progress_bar  # noqa: PLC0415
    from dicom_node.reading_files import check_output, output_folder, write_reading  # noqa: PLC0415
    from dicom_node.reading_tables import reading_tables  # noqa: PLC0415

    check_output(given.out, overwrite=given.overwrite)
    with progress_bar() as report:
        source, _, reading = _read_path(given, report)
        with output_folder(given.out, overwrite=given.overwrite) as folder:
            report("results", 0.0)
            files = write_reading(
                folder, reading, source, settings_digest=load_config(None).settings_digest, nifti=given.nifti
            )
        report("results", 1.0)
    console = Console()
    _line(console, f"read {source.title}")
    for line in source.not_read:
        _line(console, f"not read: {line}")
    for table in reading_tables(reading):
        console.print(table)
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in reading.seconds.items())
    _line(console, f"{reading.model.name} {reading.model.version} on {reading.device}; seconds: {seconds}")
    _line(console, f"results in {given.out}: {' '.join(file.name for file in files)}")
    return 0


def _line(console: Console, text: str) -> None:
    """Text from outside as it is: no markup, no colours, no line breaks of ours."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _query(given: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from dicom_node.progress import progress_bar  # noqa: PLC0415
    from dicom_node.reading_tables import localization_document, localization_table  # noqa: PLC0415

    if not given.text.strip():
        raise SightlineError("the text is empty; say what to look for")
    if given.path.name.endswith(".safetensors"):
        encoding = _load_encoding(given.path)
        reader = _load_reader(given)
    else:
        with progress_bar() as report:
            _, reader, reading = _read_path(given, report)
        encoding = reading.encoding
    if encoding.model.digest != reader.identity.digest:
        raise SightlineError(
            f"{given.path}: was made by model {encoding.model.name} {encoding.model.version} (digest "
            f"{encoding.model.digest[:12]}), not by {reader.identity.digest[:12]}; name its folder with "
            "--checkpoint, or read the CT again"
        )
    found = reader.localize(encoding, given.text)
    if given.json:
        print(json.dumps(localization_document(found), ensure_ascii=False))
    else:
        Console().print(localization_table(found, len(encoding.slices)))
    return 0


def _read_path(given: argparse.Namespace, report: Progress) -> tuple[CtInput, Reader, Reading]:
    """Open a path and have it read; loading counts as a stage of the reading."""
    from core_model.memory import keep_memory  # noqa: PLC0415
    from dicom_node.sources import open_ct  # noqa: PLC0415

    keep_memory()
    clock = time.perf_counter()
    source = open_ct(given.path, progress=report)
    loading = time.perf_counter() - clock
    reader = _load_reader(given)
    try:
        reading = reader.read(
            source.volume,
            slices=source.slices,
            series_instance_uid=source.series_instance_uid,
            progress=lambda _, share: report("reading", share),
        )
    except ValueError as error:
        if not str(error).startswith("volume "):  # the reader names what it objects to
            raise
        raise SightlineError(f"{given.path}: {error}") from error
    return source, reader, dataclasses.replace(reading, seconds={"load": loading, **reading.seconds})


def _load_reader(given: argparse.Namespace) -> Reader:
    from core_model.reader import Reader  # noqa: PLC0415

    try:
        return Reader.load(given.checkpoint, given.device)
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise SightlineError(f"checkpoint or device: {first_line}") from error


def _load_encoding(path: Path) -> StudyEncoding:
    from core_model.encoding_file import load_encoding  # noqa: PLC0415

    if not path.is_file():
        raise SightlineError(f"{path}: no such file; check the path")
    try:
        return load_encoding(path)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise SightlineError(f"{path}: not a readable encoding ({first_line}); read the CT again") from error


def _serve(given: argparse.Namespace) -> int:
    from dicom_node.config import load_config  # noqa: PLC0415

    config = load_config(given.config)
    from dicom_node.processes import ROLES  # noqa: PLC0415
    from dicom_node.serve import run  # noqa: PLC0415

    run(config, roles=[role for role in ROLES if not given.only or role in given.only])
    return 0


def _check(given: argparse.Namespace) -> int:
    from dicom_node.config import load_config  # noqa: PLC0415

    config = load_config(given.config)
    from dicom_node.check import run_checks  # noqa: PLC0415

    results = run_checks(config)
    for result in results:
        print(f"{'ok  ' if result.ok else 'FAIL'} {result.name}: {result.message}")
    return 0 if all(result.ok for result in results) else 1


def _status(given: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from dicom_node.archive import Archive  # noqa: PLC0415
    from dicom_node.config import load_config  # noqa: PLC0415
    from dicom_node.delivery_status import destinations, undelivered  # noqa: PLC0415
    from dicom_node.delivery_tables import delivery_tables  # noqa: PLC0415
    from dicom_node.model_store import read_pointer  # noqa: PLC0415
    from dicom_node.model_tables import model_document, model_sentence, refusal_sentence  # noqa: PLC0415
    from dicom_node.promotion import in_use  # noqa: PLC0415
    from dicom_node.reading_tables import status_table  # noqa: PLC0415
    from dicom_node.status import newest_studies  # noqa: PLC0415

    if given.limit < 1:
        raise SightlineError(f"--limit {given.limit}: must be 1 or more")
    config = load_config(given.config)
    archive = Archive.open(config)
    studies = newest_studies(archive, given.limit)
    peers, results = destinations(archive, config), undelivered(archive, given.limit)
    archive.index.close()
    model, refused = in_use(config), read_pointer(config).refused
    if given.json:
        document = {
            "model": model_document(model, refused),
            "studies": [dataclasses.asdict(line) for line in studies],
            "destinations": [dataclasses.asdict(line) for line in peers],
            "undelivered": [dataclasses.asdict(line) for line in results],
        }
        print(json.dumps(document))
        return 0
    console, now = Console(), time.time()
    _line(console, model_sentence(model, now))
    for one in refused:
        _line(console, refusal_sentence(one, now))
    if studies:
        console.print(status_table(studies, now))
    else:
        print("no study has come yet")
    for table in delivery_tables(peers, results, now):
        console.print(table)
    return 0


def _promote(given: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from dicom_node import promotion  # noqa: PLC0415
    from dicom_node.config import load_config  # noqa: PLC0415
    from dicom_node.model_tables import model_sentence, models_table  # noqa: PLC0415

    config, now = load_config(given.config), time.time()
    if given.list:
        Console().print(models_table(promotion.all_models(config), now))
        return 0
    if given.back:
        promotion.go_back(config)
    else:
        promotion.promote(config, given.checkpoint)
    _line(Console(), model_sentence(promotion.in_use(config), now))
    return 0


def _retry(given: argparse.Namespace) -> int:
    from dicom_node.archive import Archive  # noqa: PLC0415
    from dicom_node.config import load_config  # noqa: PLC0415
    from dicom_node.delivery_status import retry  # noqa: PLC0415

    config = load_config(given.config)
    archive = Archive.open(config)
    due = retry(archive, config, studies=given.studies, destination=given.destination)
    archive.index.close()
    for name, count in due.items():
        print(f"{name}: {count} results are due now")
    if not due:
        print("no destination is configured")
    return 0


def _tag(given: argparse.Namespace) -> int:
    from dicom_node.config import load_config  # noqa: PLC0415
    from dicom_node.log_lines import archive_key, keyed_digest  # noqa: PLC0415

    print(keyed_digest(archive_key(load_config(given.config).archive), given.value.strip()))
    return 0


def _demo(given: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from dicom_node.demo import PHANTOM, run_demo  # noqa: PLC0415
    from dicom_node.demo_pacs import DemoError  # noqa: PLC0415
    from dicom_node.demo_table import demo_tables  # noqa: PLC0415
    from dicom_node.progress import progress_bar  # noqa: PLC0415

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    size = [
        f"--{name}={value}"
        for name, value in (("slices", given.slices), ("matrix", given.matrix))
        if value is not None
    ]
    try:
        with progress_bar() as report:
            outcome = run_demo(
                given.out,
                seed=given.seed,
                phantom=(*PHANTOM, *size),
                checkpoint=given.checkpoint,
                device=given.device,
                progress=report,
            )
    except DemoError as error:
        print(f"sightline: {error.message}", file=sys.stderr)
        return 1
    console = Console()
    for table in demo_tables(outcome):
        console.print(table)
    for problem in outcome.problems:
        print(f"sightline: {problem}", file=sys.stderr)
    _line(console, f"everything is in {outcome.folder}")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
