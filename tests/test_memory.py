import multiprocessing.synchronize
import resource

import pytest
import torch

from alignflow.config import user_message
from alignflow.memory import out_of_memory

CONFIG = {"batch_size": 16, "image_size": [64, 64], "precision": "fp32", "num_workers": 2}


def raised(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing raised")


def chained(cause):
    error = RuntimeError("Failed to evaluate an expression")
    error.__cause__ = cause
    return error


def test_what_to_lower_comes_with_what_it_is_and_in_order():
    line = str(out_of_memory(MemoryError(), CONFIG))
    assert line.startswith('out of memory: lower "batch_size" (now 16), then "image_size" (now [64')
    assert '"num_workers" to 0' in line and '"precision" to "bf16"' in line
    assert line.endswith("MemoryError") and "\n" not in line
    line = str(
        out_of_memory(MemoryError(), {"micro_batch": 8, "batch_size": 8, "gradient": "full"})
    )
    assert line.index("micro_batch") < line.index("batch_size") and '"surrogate"' in line
    assert "bf16" not in line and "num_workers" not in line
    assert "end other programs" in str(out_of_memory(MemoryError("x"), {"source": "a"}))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_each_way_of_saying_it(error):
    for one in (error, chained(error)):
        assert str(error).splitlines()[0] in str(out_of_memory(one, CONFIG))


SHARED = "out of shared memory: set num_workers to 0, or start the container with a larger --shm-"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n"
            "RuntimeError: unable to allocate shared memory(shm) for file </torch_7_8_0>: "
            "No space left on device (28)"
        ),
        RuntimeError("unable to write to file </torch_7_8_0>: No space left on device (28)"),
        RuntimeError(
            "unable to mmap 64 bytes from file </torch_7_8_0>: Cannot allocate memory (12)"
        ),
        RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible"),
        OSError(28, "No space left on device", "/dev/shm/pym-12-x"),
    ],
)
def test_shared_memory_is_no_disk(error, tmp_path):
    for one in (error, chained(error)):
        assert str(user_message(one, CONFIG, str(tmp_path))).startswith(SHARED)


def test_semaphores_take_shared_memory(monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize._multiprocessing, "SemLock", full)
    error = raised(multiprocessing.get_context("fork").Queue)
    assert str(user_message(error, CONFIG, str(tmp_path))).startswith(SHARED)
    assert "the disk is full" in str(user_message(raised(full), CONFIG, str(tmp_path)))


def test_other_errors_are_none_of_memory():
    for error in (ValueError("batch_size"), RuntimeError("shape mismatch"), OSError(28, "full")):
        assert out_of_memory(error, CONFIG) is None


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_process_with_too_little_memory(in_child, library):
    def work():
        import numpy as np

        error = raised(lambda: torch.zeros(2**33) if library == "torch" else np.zeros(2**32))
        return isinstance(error, MemoryError), str(out_of_memory(error, CONFIG))

    is_python_error, line = in_child(work, (resource.RLIMIT_AS, 2**34))
    assert is_python_error == (library == "numpy")
    assert 'out of memory: lower "batch_size"' in line


@pytest.mark.gpu
def test_a_gpu_with_too_little_memory():
    error = raised(lambda: torch.zeros(2**45, device="cuda"))
    assert 'lower "batch_size"' in str(out_of_memory(error, CONFIG))
