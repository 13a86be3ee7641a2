"""The report of a run on the page: the file as it lies in the archive, in a frame that may run nothing."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from tlskit.explore.widgets import Message, guarded

__all__ = ["ReportView"]


class ReportView(anywidget.AnyWidget):
    """A page of HTML that stands alone, such as ``compare/report.html``.

    Parameters
    ----------
    message
        Where errors are told.

    Attributes
    ----------
    turn : int
        Counts up when another page, or the same one made anew, is to be shown.
    """

    _esm = Path(__file__).with_name("report_view.js")
    turn = traitlets.Int(0).tag(sync=True)

    def __init__(self, message: Message):
        super().__init__()
        self.message, self.path = message, None
        self.on_msg(self._on_message)

    def show(self, path: Path) -> None:
        """Show a page."""
        self.path = path
        self.turn += 1

    @guarded
    def _on_message(self, _, content: dict, buffers) -> None:
        if content.get("kind") == "read" and self.path is not None:
            self.send({"kind": "report"}, buffers=[self.path.read_bytes()])
