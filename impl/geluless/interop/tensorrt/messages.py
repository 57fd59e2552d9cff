"""What TensorRT logs: kept, because the build log has the layers and the errors have the reasons, and never printed."""

from __future__ import annotations

from typing import Any

SHOWN = 5  # in one error


def recorder(trt: Any) -> Any:
    """A logger that keeps everything as (severity, text) in `messages`."""

    class Recorder(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.messages.append((severity.name, text))

    return Recorder()


def reasons(logger: Any) -> str:
    """Its last errors on one line."""
    errors = [" ".join(text.split()) for severity, text in logger.messages if severity in ("ERROR", "INTERNAL_ERROR")]
    return "; ".join(errors[-SHOWN:]) or "it logged no reason"
