"""Files read by several threads, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from alignflow.distributed import rank

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(
    items: Sequence[Item],
    function: Callable[[Item], Result],
    num_workers: int,
    name: str,
    progress: bool = True,
) -> list[Result]:
    """What `function` returns for each item, in their order.

    Args:
        items: of files.
        function: may not raise.
        num_workers: threads.
        name: shown before the progress bar.
        progress: show it, on the first process only.
    """
    hidden = not progress or rank() > 0
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        results = pool.map(function, items)
        return list(tqdm(results, total=len(items), desc=name, unit="file", disable=hidden))
