"""A MobileNetV3-Large state dict with live activations, for machines that cannot fetch the trained one."""

from pathlib import Path


def make_weights(target: Path) -> None:
    from tests.models import live_mobilenet

    live_mobilenet(target)
