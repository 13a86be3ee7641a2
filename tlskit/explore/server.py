"""The server of the page: Voila, on this machine only and with a token."""

from __future__ import annotations

import os
from pathlib import Path

from tlskit.errors import RunError
from tlskit.files import project_root
from tlskit.study import project

__all__ = ["OUTPUTS", "serve"]

#: Environment variable by which `serve` tells the page where the runs lie.
OUTPUTS = "TLSKIT_OUTPUTS"

#: Seconds after which a kernel without a page is ended.
ABANDONED_S = 20 * 60

#: Bytes of a message between browser and kernel: some million corners.
LONGEST_MESSAGE = 256 << 20


def serve(*, port: int = 8866, open_browser: bool = True, outputs_dir: str | Path | None = None) -> None:
    """Show the page in a browser, until Ctrl+C. It is served to this machine only, and asks for a token.

    Parameters
    ----------
    port
        On this machine.
    open_browser
        Whether to open one.
    outputs_dir
        Folder of the runs to look at, where it is not the project's own.

    Raises
    ------
    RunError
        If Voila is not installed, or the project's notebook or the folder is missing.
    """
    if outputs_dir is not None:
        folder = Path(outputs_dir).expanduser().absolute()
        if not folder.is_dir():
            raise RunError(f"There is no folder {outputs_dir} with runs to look at.")
        os.environ[OUTPUTS] = str(folder)  # for the notebook, which Voila runs in a process of its own
    try:
        from voila.app import Voila
    except ImportError as error:
        raise RunError("The page needs Voila, anywidget and ipywidgets: pip install 'tlskit[app]'.") from error
    from traitlets.config import Config

    notebook = project_root() / "notebooks" / "app.ipynb"
    if not notebook.is_file() and outputs_dir is not None:
        notebook = project.packaged("notebooks") / "app.ipynb"
    if not notebook.is_file():
        raise RunError(f"notebooks/app.ipynb is not in {project_root().name}: run this in the project's folder.")

    def before_launch(request, notebook, cwd) -> None:
        # The page may end its kernel when it is left only with this cookie, which is set when it is looked up.
        request.xsrf_token  # noqa: B018
        notebook.metadata["title"] = "tlskit"

    # A page has a kernel of its own: nobody else is to be told what it has said itself, thousands of outlines, say.
    os.environ["JUPYTER_WIDGETS_ECHO"] = "0"
    templates = str(Path(__file__).with_name("page"))
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [templates, os.environ.get("JUPYTER_PATH")]))
    config = Config()
    config.Voila.ip = "127.0.0.1"
    config.Voila.port = port
    config.Voila.open_browser = open_browser
    config.Voila.auto_token = True
    # Nothing on the page may come from, or go to, anywhere else, whatever a library would like to load.
    own = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
    sockets = "ws://127.0.0.1:* ws://localhost:*"
    config.Voila.tornado_settings = {
        "headers": {"Content-Security-Policy": f"default-src {own}; connect-src 'self' {sockets} data: blob:"},
        # A slide's outlines are one message: one that is too long would end the connection, and be lost with it.
        "websocket_max_message_size": LONGEST_MESSAGE,
    }
    config.ZMQChannelsWebsocketConnection.limit_rate = False  # nor is any left out because there are many
    config.VoilaConfiguration.template = "tlskit"
    config.VoilaConfiguration.file_allowlist = []
    config.VoilaConfiguration.show_tracebacks = False
    config.VoilaConfiguration.prelaunch_hook = before_launch
    # A kernel ends with its page; that of a browser that crashed, when nobody has been connected to it for a while. A
    # page that is open keeps its kernel, however long nobody touches it.
    config.MappingKernelManager.cull_idle_timeout = ABANDONED_S
    config.MappingKernelManager.cull_interval = 60
    config.MappingKernelManager.cull_connected = False
    Voila.launch_instance(argv=[str(notebook)], config=config)
