"""What all explorers are made of: a box with a value and the line that reproduces it, messages, downloads.

Texts of a manifest or a file (ids, class names, reasons) reach the browser as text, never as HTML.
"""

from __future__ import annotations

import functools
import html
import logging
from collections.abc import Callable
from pathlib import Path

import traitlets

from tlskit.errors import TlskitError

try:
    import anywidget
    import ipywidgets
except ImportError as error:
    raise ImportError("The explorers need anywidget and ipywidgets: pip install 'tlskit[app]'.") from error

__all__ = ["Download", "Explorer", "Message", "form_field", "guarded", "heading_2", "note", "png_of", "resend"]

log = logging.getLogger(__name__)


def note(text: str, kind: str = "") -> str:
    """A sentence as HTML; `kind` is empty, ``good``, ``bad``, ``strong`` or ``muted``."""
    if not text:
        return ""
    return f'<div role="status" class="tlskit-note tlskit-{kind or "plain"}">{html.escape(text)}</div>'


def form_field() -> dict:
    """Layout and style of a field of a form, for any widget: fields below one another begin and end at one place."""
    return {"layout": ipywidgets.Layout(width="620px", max_width="100%"), "style": {"description_width": "150px"}}


def heading_2(text: str) -> ipywidgets.HTML:
    """A heading below the page's title."""
    return ipywidgets.HTML(f'<h2 class="tlskit-h2">{html.escape(text)}</h2>')


class Message(ipywidgets.HTML):
    """One sentence for the reader."""

    def say(self, text: str = "", kind: str = "") -> None:
        """Show a sentence instead of the last one."""
        self.value = note(text, kind)

    def fail(self, error: Exception) -> None:
        """Show an error as a sentence; what was not foreseen goes to the log with its traceback."""
        if isinstance(error, TlskitError):
            self.say(str(error), "bad")
        elif isinstance(error, OSError):
            self.say(f"The file could not be read or written: {error.strerror or error}.", "bad")
        else:
            log.error("An explorer failed", exc_info=error)
            self.say(f"Something went wrong that was not foreseen ({type(error).__name__}: {error}).", "bad")


def guarded(method: Callable) -> Callable:
    """For handlers of a class with `message`: errors become its sentence instead of a traceback."""

    @functools.wraps(method)
    def handler(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # the last stop before the reader
            self.message.fail(error)
            return None

    return handler


def resend(widget: ipywidgets.Widget) -> None:
    """Say again what a widget and those in it show: what is said before a browser listens is lost.

    Only of widgets that nobody can set in the browser, so that no hand is pushed aside.
    """
    if isinstance(widget, ipywidgets.HTML | ipywidgets.Button | ipywidgets.FloatProgress):
        widget.send_state()
    for child in getattr(widget, "children", ()):
        resend(child)


class Explorer(ipywidgets.VBox):
    """Base of the explorers.

    Attributes
    ----------
    value : dict
        The present choice; the next cell may use it, and ``observe(..., "value")`` follows it.
    code : str
        The line of Python, and where there is one of a preset, that make the present view without sliders.
    """

    value = traitlets.Dict()

    def __init__(self, **options):
        self.message = Message()
        self._code = ipywidgets.HTML()
        title = ipywidgets.HTML('<div class="tlskit-note tlskit-muted">This view as a line of code:</div>')
        self._code_box = ipywidgets.VBox([title, self._code])
        self.code = ""
        super().__init__(**options)

    def show_code(self, code: str) -> None:
        """Show the reproducing lines."""
        self.code = code
        self._code.value = f'<pre class="tlskit-code">{html.escape(code)}</pre>'

    def fold_code(self) -> None:
        """Put the lines behind a title that opens them, for readers who do not code."""
        self._code_box.children = [
            ipywidgets.Accordion([self._code], titles=("This view as a line of code",), selected_index=None)
        ]


def png_of(figure, *, dpi: int = 100) -> bytes:
    """A figure as PNG, for an image widget; the figure is closed."""
    import io

    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()


class Download(anywidget.AnyWidget):
    """A button that saves a file from the kernel in the browser. Its content is made when it is pressed.

    Parameters
    ----------
    label
        On the button.
    make
        Called without arguments; returns the file's name, its media type, and its bytes.
    message
        Where an error is told.
    """

    _esm = Path(__file__).with_name("download.js")
    label = traitlets.Unicode("").tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)

    def __init__(self, label: str, make: Callable[[], tuple[str, str, bytes]], message: Message, **traits):
        super().__init__(label=label, **traits)
        self.make = make
        self.message = message
        self.on_msg(self._on_message)

    @guarded
    def _on_message(self, _, content: dict, buffers) -> None:
        if content.get("kind") == "make":
            name, media_type, data = self.make()
            self.send({"kind": "file", "name": name, "type": media_type}, buffers=[data])
