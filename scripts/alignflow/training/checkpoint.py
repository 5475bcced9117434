"""Checkpoints that make a killed run end with the weights of an uninterrupted one."""

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
    """Handler: loads the newest whole checkpoint at the start, saves one every `interval` epochs.

    Files are written under a temporary name and renamed (MONAI's CheckpointSaver writes in place,
    so that a kill during the save leaves half a file); the newest two are kept, so that one is left
    where the disk has damaged the other. Of several processes the first one saves, and all load.

    Args:
        directory: where checkpoints live, created.
        prefix: beginning of their names, one for each flow.
        objects: name -> object with state_dict and load_state_dict; the trainer is added.
        interval: epochs between two saves.
        identity: JSON-able facts (data, network, batch size, seed, ...) that must be equal for a
            checkpoint to be taken up.
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
        # Saving comes behind what all other handlers do at an epoch's end: what a kill leaves out
        # must be done again.
        engine.add_event_handler(Events.STARTED, self.save_last, saver)

    def save_last(self, engine: Engine, saver: Checkpoint) -> None:
        """Register saving, when all other handlers are registered."""
        if not engine.has_event_handler(saver):
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), saver)
            engine.add_event_handler(Events.COMPLETED, saver)

    def load(self, engine: Engine, objects: dict[str, Any], saver: Checkpoint) -> None:
        """Take up the newest whole checkpoint, if there is one.

        Raises:
            InputError: if there are some and none can be read, or it is another run's.
        """
        found = checkpoints(self.directory, self.prefix)
        state = newest_whole(found)
        idist.barrier()  # else the first process might save before another one has read
        if state is None:
            return
        path, last_epoch = found[-1], engine.state.max_epochs
        # Identity first: with another network, its message is clearer than a shape mismatch.
        self.identity.load_state_dict(state["identity"])
        Checkpoint.load_objects(objects, state)
        # Else files of a killed process would never be removed.
        saver.load_state_dict({"_saved": [(epoch_of(file), file.name) for file in found[-2:]]})
        engine.state.max_epochs = last_epoch
        logger.info("resumed %s at epoch %d of %d", path.name, engine.state.epoch, last_epoch)


class WholeFiles(BaseSaveHandler):
    """Where ignite's `Checkpoint` puts its files, and removes them; of the first process alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @idist.one_rank_only()
    def __call__(self, checkpoint: Mapping[str, Any], filename: str, metadata: Any = None) -> None:
        """Write one."""
        save_tensors(checkpoint, self.directory / filename)

    @idist.one_rank_only()
    def remove(self, filename: str) -> None:
        """Remove one that is no longer kept."""
        (self.directory / filename).unlink(missing_ok=True)


class Identity:
    """What a run is trained on and with; loading another one's state is refused."""

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
    """Content of the last of some checkpoints that can be read, on the CPU; None without any.

    Damaged ones behind it are taken out of the list. Their files stay until they are written anew.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    damaged = []
    while found:
        try:
            state: dict[str, Any] = load_tensors(found[-1])
            if not isinstance(state, dict) or "identity" not in state:
                raise InputError(f"'{found[-1]}': damaged (no checkpoint)")
        except InputError as error:
            damaged.append(str(error))
            found.pop()
            continue
        for line in damaged:
            logger.warning("checkpoint %s; going on from '%s'", line, found[-1].name)
        return state
    if damaged:
        raise InputError(
            f"no checkpoint can be read: {', '.join(damaged)}; put back a copy, or delete them "
            "to begin anew"
        )
    return None
