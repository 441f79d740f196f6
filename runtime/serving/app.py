"""The ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from sc_runtime import __version__

from . import audio_route, socket, status_routes, tokens_route
from .handlers import install_handlers
from .memory import return_freed_memory
from .middleware import Envelope
from .openapi import describe_interface
from .service import Service
from .settings import ServeSettings


def create_app(settings: ServeSettings, wait_until_loaded: bool = False) -> FastAPI:
    """The application for one bundle. The codec is loaded when the server starts (ASGI lifespan).

    wait_until_loaded: start when the codec is loaded, or fail. Otherwise the server starts at once, and answers 503
        until then.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        return_freed_memory()
        app.state.service = service = Service(settings)
        service.start()
        if wait_until_loaded:
            await service.loaded.wait()
            if service.failure is not None:
                raise service.failure
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="sc-runtime",
        version=__version__,
        summary="Semantic audio codecs: sound to tokens, and back.",
        lifespan=lifespan,
        docs_url=None,  # both would load their scripts from another host
        redoc_url=None,
    )
    for routes in (tokens_route, audio_route, socket, status_routes):
        app.include_router(routes.router)
    app.add_middleware(Envelope)
    if settings.origins:
        exposed = ["x-request-id", "x-sample-rate", "x-channels", "x-bit-depth", "x-samples", "x-positions"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
            expose_headers=exposed,
        )
    install_handlers(app)
    describe_interface(app)
    return app
