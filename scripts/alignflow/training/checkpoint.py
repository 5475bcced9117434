"""Checkpoints from which a killed run resumes and ends with exactly the same weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from ignite.handlers.checkpoint import BaseSaveHandler

from alignflow.errors import InputError
from alignflow.files import load_tensors, save_tensors

logger = logging.getLogger(__name__)


class ExactResume:
    """Handler: loads the newest valid checkpoint, and saves one every `interval` epochs.

    Files are written under a temporary name and renamed (MONAI's CheckpointSaver writes in place,
    so a kill during the save leaves an incomplete file). The newest two are kept in case one is
    damaged. The first of several processes saves, and all load.

    Args:
        directory: folder of the checkpoints; created.
        prefix: beginning of their names, different for each flow.
        objects: name -> object with state_dict and load_state_dict; the trainer is added.
        interval: epochs between two saves.
        identity: JSON-compatible facts (data, network, batch size, seed, ...) that must be equal
            for a checkpoint to be loaded.
    """

    def __init__(
        self,
        directory: str,
        prefix: str,
        objects: dict[str, Any],
        interval: int,
        identity: dict[str, Any],
    ) -> None:
        self.directory = Path(directory)
        self.prefix = prefix
        self.objects = objects
        self.interval = interval
        self.identity = Identity(identity, self.directory)

    def attach(self, engine: Engine) -> None:
        """Register loading and saving."""
        objects = {"identity": self.identity, **self.objects, "trainer": engine}
        saver = Checkpoint(
            objects,
            WholeFiles(self.directory),
            filename_prefix=self.prefix,
            n_saved=2,
            global_step_transform=lambda _, __: engine.state.epoch,
        )
        engine.add_event_handler(Events.STARTED, self.load, objects, saver)
        # Save after all other handlers of an epoch's end: a resumed run does not repeat them.
        engine.add_event_handler(Events.STARTED, self.save_last, saver)

    def save_last(self, engine: Engine, saver: Checkpoint) -> None:
        """Register saving after all other handlers."""
        if not engine.has_event_handler(saver):
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), saver)
            engine.add_event_handler(Events.COMPLETED, saver)

    def load(self, engine: Engine, objects: dict[str, Any], saver: Checkpoint) -> None:
        """Load the newest valid checkpoint, if there is one.

        Raises:
            InputError: none of the checkpoints can be read, or they are another run's.
        """
        found = checkpoints(self.directory, self.prefix)
        state = newest_whole(found)
        idist.barrier()  # otherwise the first process might save before another has read
        if state is None:
            return
        path, last_epoch = found[-1], engine.state.max_epochs
        # Check the identity first: its message is clearer than a shape mismatch.
        self.identity.load_state_dict(state["identity"])
        Checkpoint.load_objects(objects, state)
        # Otherwise files of a killed process would never be removed.
        saver.load_state_dict({"_saved": [(epoch_of(file), file.name) for file in found[-2:]]})
        engine.state.max_epochs = last_epoch
        logger.info("resumed %s at epoch %d of %d", path.name, engine.state.epoch, last_epoch)


class WholeFiles(BaseSaveHandler):
    """Saves and removes the files of ignite's `Checkpoint`, in the first process only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @idist.one_rank_only()
    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Any = None) -> None:
        """Write a checkpoint."""
        save_tensors(checkpoint, self.directory / filename)

    @idist.one_rank_only()
    def remove(self, filename: str) -> None:
        """Remove an old checkpoint."""
        (self.directory / filename).unlink(missing_ok=True)


class Identity:
    """Facts that a run depends on; loading the state of a run with other facts is refused."""

    def __init__(self, facts: dict[str, Any], directory: Path) -> None:
        self.facts = facts
        self.directory = directory

    def state_dict(self) -> dict[str, Any]:
        """The facts."""
        return self.facts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare.

        Raises:
            InputError: naming the facts that differ.
        """
        other = [k for k in self.facts | state if self.facts.get(k) != state.get(k)]
        if other:
            raise InputError(
                f"checkpoints in '{self.directory}' come from a run with other {', '.join(other)}; "
                'delete that folder or set another "output_dir"'
            )


def checkpoints(directory: Path, prefix: str) -> list[Path]:
    """The checkpoints of `prefix`, the oldest first."""
    return sorted(directory.glob(f"{prefix}_checkpoint_*.pt"), key=epoch_of)


def epoch_of(path: Path) -> int:
    """The number at the end of a checkpoint's name."""
    return int(path.stem.rsplit("_", 1)[1])


def newest_whole(found: list[Path]) -> dict[str, Any] | None:
    """Content of the last readable checkpoint, on the CPU; None if there are no checkpoints.

    Damaged checkpoints after it are removed from the list; their files stay until overwritten.

    Raises:
        InputError: there are checkpoints, but none can be read.
    """
    damaged = []
    while found:
        try:
            state: dict[str, Any] = load_tensors(found[-1])
            if not isinstance(state, dict) or "identity" not in state:
                raise InputError(f"'{found[-1]}': damaged (not a checkpoint)")
        except InputError as error:
            damaged.append(str(error))
            found.pop()
            continue
        for line in damaged:
            logger.warning("checkpoint %s; resuming from '%s'", line, found[-1].name)
        return state
    if damaged:
        raise InputError(
            f"no checkpoint can be read: {', '.join(damaged)}; restore a copy, or delete them to "
            "start over"
        )
    return None
