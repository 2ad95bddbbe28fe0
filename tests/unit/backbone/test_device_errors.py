from framefeat.backbone.device_errors import DeviceLost, is_lost, is_out_of_memory
from framefeat.errors import UserError

MEMORY = [
    MemoryError("no"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),  # of pinned memory
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError(
        "CUDA error: OS call failed or operation not supported on this OS"
    ),  # of pinned memory, registered
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."
    ),
]
LOST = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: unknown error"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("cuDNN error: no more is said"),
    RuntimeError("[cudnn_frontend] Error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cublasLt: CUBLAS_STATUS_INTERNAL_ERROR"),
    DeviceLost("0"),
]


def test_lack_of_memory_and_loss_of_the_device_are_told_apart() -> None:
    import torch

    memory = [*MEMORY, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")]
    lost = [*LOST, torch.AcceleratorError("CUDA error: misaligned address")]
    others = [ValueError("out of memory"), RuntimeError("shapes do not match"), UserError("CUDA error")]
    assert [(is_out_of_memory(error), is_lost(error)) for error in memory] == [(True, False)] * len(memory)
    assert [(is_out_of_memory(error), is_lost(error)) for error in lost] == [(False, True)] * len(lost)
    assert not any(is_out_of_memory(error) or is_lost(error) for error in others)
