"""ZenML's server application, closed to everything but a browser on this machine.

The local server asks for no password, so whatever reaches it may do anything. Listening on loopback keeps
other machines out, but not other websites that the same browser has open, and ZenML's pages fetch avatars,
logos and news from elsewhere. This is no authentication: people who share a server need ZenML's own.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from zenml.zen_server.zen_server_api import app as zenml_app

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# ZenML's own policy without the places outside. Inline scripts and eval are what its front end is built with.
# Set here because ZenML drops the quotes when it merges a configured policy with its default.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; frame-src 'self' blob:; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'"
)


class LoopbackOnly:
    """ASGI middleware: refuses foreign hosts and origins, and lets pages load nothing from outside.

    A stranger's name that resolves to 127.0.0.1 (DNS rebinding) comes with its own ``Host``; a form or script
    of another site comes with its own ``Origin``, also where no CORS permission is asked for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if urlsplit(f"//{host}").hostname not in LOOPBACK:
            refusal = "This server answers only to its loopback address."
        elif headers.get("origin", f"http://{host}") != f"http://{host}":
            refusal = "Requests from other sites are refused."
        else:
            await self._app(scope, receive, _with_content_policy(send))
            return
        await PlainTextResponse(refusal, status_code=403)(scope, receive, send)


def _with_content_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["content-security-policy"] = CONTENT_POLICY
        await send(message)

    return sending


app = LoopbackOnly(zenml_app)
