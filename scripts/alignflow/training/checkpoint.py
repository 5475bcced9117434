"""Checkpoints that make a killed run end with the weights of an uninterrupted one."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

from alignflow.errors import InputError

logger = logging.getLogger(__name__)


class ExactResume:
    """Handler: loads the newest checkpoint at the start, saves one every `interval` epochs.

    Files are written under a temporary name and renamed (MONAI's CheckpointSaver writes in place,
    so that a kill during the save leaves half a file); the newest two are kept. Of several
    processes the first one saves, and all load.

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
            DiskSaver(str(self.directory), create_dir=True, require_empty=False),
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
        """Take up the newest checkpoint, if there is one.

        Raises:
            InputError: if it cannot be read, or is another run's.
        """
        found = checkpoints(self.directory, self.prefix)
        idist.barrier()  # else the first process might save before another one has looked
        if not found:
            return
        path, last_epoch = found[-1], engine.state.max_epochs
        state = read(path)
        # Identity first: with another network, its message is clearer than a shape mismatch.
        self.identity.load_state_dict(state["identity"])
        Checkpoint.load_objects(objects, state)
        # Else files of a killed process would never be removed.
        saver.load_state_dict({"_saved": [(epoch_of(file), file.name) for file in found[-2:]]})
        engine.state.max_epochs = last_epoch
        logger.info("resumed %s at epoch %d of %d", path.name, engine.state.epoch, last_epoch)


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


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU.

    Raises:
        InputError: for a file that is cut off or no checkpoint of ours.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state["identity"]
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise InputError(
            f"checkpoint '{path}': cannot be read ({type(error).__name__}); delete it, "
            "the run then goes on from the one before"
        ) from error
    return state
