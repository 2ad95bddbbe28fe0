"""An embedder in which a request can spoil the device's context for good. Run as a script."""

import sys
from collections.abc import Callable
from pathlib import Path

from framefeat.backbone.device_errors import DeviceLost
from framefeat.extract import devices, server
from framefeat.records import Embedded, EmbedRequest


class Poisoned(server.TorchBackend):
    """``poison``: a file; as long as it is there the work fails as a kernel with a wrong index does."""

    def embed(
        self, message: EmbedRequest, tell: Callable[[Embedded], None], beat: Callable[[], None]
    ) -> None:
        poison = Path(message["weights"]).with_name("poison")
        if poison.exists():
            import torch

            self.load(message, beat)
            if poison.read_text() == "once":
                poison.unlink()
            with self._turn():
                if self.torch_device == devices.CPU:  # it stands in: a wrong index is harmless there
                    raise DeviceLost(f"{self._name}: CUDA error: device-side assert triggered")
                values, place = torch.zeros(1, device="cuda"), torch.tensor([7], device="cuda")
                values[place].sum().item()
        super().embed(message, tell, beat)


if __name__ == "__main__":
    server.main(Poisoned(devices.torch_device(sys.argv[2])))
