"""The part of the side panel that runs in Jupyter Server: it reads journals, and runs no graph.

Nothing here imports Jupyter until Jupyter Server loads the extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

_KEPT = "notebook_agents"
"""The name of what the extension keeps in the web application's settings."""


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "notebook_agents.server"}]


def _load_jupyter_server_extension(app: ServerApp) -> None:
    """Add the routes of `openapi.json` below `<base_url>notebook-agents/api`."""
    from notebook_agents.server.handlers import routes
    from notebook_agents.server.service import Service

    web: Any = app.web_app
    settings = web.settings
    service = settings[_KEPT] = Service(settings["server_root_dir"])
    service.begin()
    web.add_handlers(".*$", routes(settings["base_url"]))
