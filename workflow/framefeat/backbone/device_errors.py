"""What torch's errors tell of a device: too little memory, or that it is lost. Standard library only."""

# What torch says where memory is short. Not all of it is an OutOfMemoryError: cuDNN, cuBLAS and the allocator of pinned
# memory raise RuntimeError, and cuDNN finds "no engine" where none has room for its workspace.
_NO_MEMORY = (
    "out of memory", "can't allocate memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine",
    "OS call failed",
)  # fmt: skip
_DEVICE_FAILED = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS_", "CUBLAS_STATUS_")


class DeviceLost(Exception):
    """The device cannot be used any more by this process. ``blame``: by the work that this is raised from."""

    def __init__(self, reason: str, blame: bool = True) -> None:
        super().__init__(reason)
        self.blame = blame


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_lost(error: BaseException) -> bool:
    """Whether the device failed. Most such errors leave the process's context unusable for good, and none can be told
    from those that do not; a new process is sure."""
    if isinstance(error, DeviceLost):
        return True
    failed = isinstance(error, RuntimeError) and any(words in str(error) for words in _DEVICE_FAILED)
    return failed and not is_out_of_memory(error)
