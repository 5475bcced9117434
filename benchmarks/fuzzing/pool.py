"""Readings in processes of their own: limited in time and memory, and replaced when they die."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import resource
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import psutil

from fuzzing.corpus import Seed
from fuzzing.independent import READERS
from fuzzing.judge import Verdict, examine
from fuzzing.mutate import mutate

FRESH = 1000  # files that one process reads before a new one takes its place


class Worker:
    """The parent's end of one process that reads file after file."""

    def __init__(self, seeds: Sequence[Seed], folder: Path, seed: int, memory: int) -> None:
        context = multiprocessing.get_context("fork")  # the libraries are imported once
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self.connection, seeds, folder, seed, memory), daemon=True
        )
        self.process.start()
        theirs.close()
        self.read = 0

    def examine(self, number: int, limit: float) -> Verdict:
        """One file, whatever happens to the process."""
        self.connection.send(number)
        self.read += 1
        stage, start = "here", self._seconds()
        try:
            while self._answers(start + limit):
                message = self.connection.recv()
                if isinstance(message, Verdict):
                    return message
                stage = "others"
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return self._ended("crash", stage, name)
        return self._ended("hang", stage, f"more than {limit:g} s")

    def _answers(self, end: float) -> bool:
        """Wait for a message until the process has used `end` seconds of a processor."""
        for _ in range(60):
            if self.connection.poll(max(1.0, end - self._seconds())):
                return True
            if self._seconds() >= end:
                break
        return False

    def _seconds(self) -> float:
        """Processor time, so that other work on the machine makes no hang."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def _ended(self, outcome: str, stage: str, detail: str) -> Verdict:
        if stage == "others":
            return Verdict("not compared", f"the independent reader: {outcome}, {detail}")
        return Verdict(outcome, detail)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(
    ours: Connection,
    parents: Connection,
    seeds: Sequence[Seed],
    folder: Path,
    seed: int,
    memory: int,
) -> None:
    parents.close()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        try:
            number = ours.recv()
        except EOFError:
            return
        chosen, path, _ = make(seeds, folder, seed, number)
        verdict = examine(chosen, path, before=lambda: ours.send("read here"))
        ours.send(verdict)


def make(seeds: Sequence[Seed], folder: Path, seed: int, number: int) -> tuple[Seed, Path, str]:
    """Damaged file `number` of a run, in a folder of its own; the first ones are whole.

    Returns:
        What it was made from, the path to read, and what was done to it.
    """
    random = Random(f"{seed}:{number}")
    chosen = seed_of(seeds, seed, number)
    data, what = chosen.path.read_bytes(), "whole"
    if number >= len(seeds):
        data, what = mutate(data, chosen.kind, random)
    place = place_of(folder, number)
    place.mkdir(parents=True)
    if chosen.folder is None or chosen.kind == "RTSTRUCT":
        stem, suffix = re.fullmatch(r"(.+?)((?:\.nii)?\.\w+)", chosen.path.name).groups()
        path = place / f"{stem}_{number}{suffix}"
        path.write_bytes(data)
        return chosen, path, what
    for other in chosen.folder.iterdir():
        if other != chosen.path:
            (place / other.name).symlink_to(other)
    (place / chosen.path.name).write_bytes(data)
    return chosen, place, what


def seed_of(seeds: Sequence[Seed], seed: int, number: int) -> Seed:
    """Kinds are as likely as each other, DICOM files five times as likely."""
    if number < len(seeds):
        return seeds[number]
    random = Random(f"seed {seed}:{number}")
    kinds = sorted({seed.kind for seed in seeds})
    kind = random.choices(kinds, [5 if kind == "DICOM" else 1 for kind in kinds])[0]
    return random.choice([seed for seed in seeds if seed.kind == kind])


def place_of(folder: Path, number: int) -> Path:
    """The folder of one damaged file."""
    return folder / f"mutant_{number:06d}"


def examine_all(
    seeds: Sequence[Seed],
    numbers: Sequence[int],
    folder: Path,
    seed: int,
    limit: float,
    memory: int,
    keep: Sequence[str],
) -> Iterator[tuple[int, Seed, Verdict]]:
    """Verdicts in the order of `numbers`; files with an outcome in `keep` stay in `folder`.

    A process that died or hung is replaced; a file that it died of is read once more by a fresh
    one, since damage to the heap may come from a file before.
    """
    for (
        chosen
    ) in seeds:  # what is imported at the first use of a reader; not ITK, which has threads
        for reader in READERS.get(chosen.kind, []) if chosen.kind == "DICOM" else []:
            with suppress(Exception):
                reader(chosen.path)
    gc.freeze()
    worker = Worker(seeds, folder, seed, memory)
    try:
        for number in numbers:
            if worker.read >= FRESH:
                worker.stop()
                worker = Worker(seeds, folder, seed, memory)
            verdict = worker.examine(number, limit)
            if verdict.outcome in ("crash", "hang") or "independent reader" in verdict.detail:
                worker.stop()
                worker = Worker(seeds, folder, seed, memory)
            if verdict.outcome in ("crash", "hang"):
                shutil.rmtree(place_of(folder, number), ignore_errors=True)
                again = worker.examine(number, limit)
                if again.outcome != verdict.outcome:
                    verdict.detail += "; not when read again alone"
                worker.stop()
                worker = Worker(seeds, folder, seed, memory)
            if verdict.outcome not in keep:
                shutil.rmtree(place_of(folder, number), ignore_errors=True)
            yield number, seed_of(seeds, seed, number), verdict
    finally:
        worker.stop()
