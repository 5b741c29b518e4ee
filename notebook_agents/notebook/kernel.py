"""The kernel of a notebook that runs without a browser: how it starts, and how it died."""

from __future__ import annotations

import platform
import signal
from typing import TYPE_CHECKING, Any

from notebook_agents.notebook.cells import need
from notebook_agents.notebook.errors import NotebookFileError

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

STARTUP_SECONDS = 60


def manager_of(kernel_name: str | None) -> AsyncKernelManager:
    """Return a manager for a kernel of this Python, or for the installed one that was named.

    Raises:
        NotebookFileError: No kernel of that name is installed.
        MissingPartError: nbclient or ipykernel is not installed.
    """
    need("nbclient")
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
    from jupyter_client.manager import AsyncKernelManager

    if kernel_name is not None:
        manager = AsyncKernelManager(kernel_name=kernel_name)
        try:
            manager.kernel_spec  # noqa: B018 - looks it up
        except NoSuchKernel:
            known = ", ".join(sorted(KernelSpecManager().find_kernel_specs())) or "none"
            raise NotebookFileError(
                f"there is no kernel {kernel_name!r}; installed are: {known}"
            ) from None
        return manager
    # debugpy complains about frozen modules; ipykernel's own kernel spec turns them off too.
    arguments = ["-Xfrozen_modules=off"] if platform.python_implementation() == "CPython" else []
    described = need("ipykernel.kernelspec").get_kernel_dict(python_arguments=arguments)

    class ThisPython(KernelSpecManager):
        """Knows one kernel, which need not be installed: the Python that runs this."""

        def get_kernel_spec(self, _name: str) -> KernelSpec:
            return KernelSpec(**described)

    # A local user who may watch the loopback interface would read code and outputs.
    manager = AsyncKernelManager(kernel_spec_manager=ThisPython())
    if manager.has_trait("transport_encryption"):
        manager.set_trait("transport_encryption", "auto")
    return manager


async def ask(client: NotebookClient, expression: str) -> Any:
    """Return what a Python expression is in the kernel, as far as that is a literal.

    Raises:
        RuntimeError: It raised there; the message says what.
        DeadKernelError: The kernel died.
    """
    from ast import literal_eval

    assert client.kc is not None
    message = client.kc.execute("", silent=True, user_expressions={"it": expression})
    reply = await client.async_wait_for_reply(message) or {}
    told = reply.get("content", {}).get("user_expressions", {}).get("it", {})
    if told.get("status") != "ok":
        raise RuntimeError(f"{told.get('ename', 'no answer')}: {told.get('evalue', '')}")
    try:
        return literal_eval(told["data"]["text/plain"])
    except (KeyError, ValueError, SyntaxError) as error:
        raise RuntimeError("no answer that could be read") from error


async def pid_of(client: NotebookClient) -> int | None:
    """Ask the kernel for its process id: what was launched may be a launcher."""
    try:
        return int(await ask(client, "__import__('os').getpid()"))
    except RuntimeError as error:
        from nbclient.exceptions import DeadKernelError

        if isinstance(error, DeadKernelError):
            raise
        return None  # not a Python kernel


def death(process: Any) -> tuple[int | None, str]:
    """Return the signal that killed the kernel, if one did, and how to say what ended it."""
    code = None if process is None else process.poll()
    if code is None:
        return None, "for a reason that is not known"
    if code >= 0:
        return None, f"with exit status {code}"
    return -code, f"by signal {-code} ({signal.Signals(-code).name})"
