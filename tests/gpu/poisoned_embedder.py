"""An embedder in which a request can spoil the device's context for good. Run as a script."""

from collections.abc import Callable
from pathlib import Path

from framefeat.extract import server
from framefeat.records import Embedded, EmbedRequest


class Poisoned(server.TorchBackend):
    """``poison``: a file; as long as it is there the work fails as a kernel with a wrong index does."""

    def embed(
        self, message: EmbedRequest, tell: Callable[[Embedded], None], beat: Callable[[], None]
    ) -> None:
        poison = Path(message["weights"]).with_name("poison")
        if poison.exists():
            import torch

            if poison.read_text() == "once":
                poison.unlink()
            with self._turn():
                values, place = torch.zeros(1, device="cuda"), torch.tensor([7], device="cuda")
                values[place].sum().item()
        super().embed(message, tell, beat)


if __name__ == "__main__":
    server.main(Poisoned("cuda"))
