"""What the server states of itself: models, health, metrics, and its pages."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .describe import PROBLEMS
from .requests import find_service
from .schemas import ModelDocument, ModelList, State

#: The pages hold their scripts and styles, and may reach this server alone.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self' blob:; "
    "media-src blob:; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter()


@router.get("/v1/models", summary="The bundle that the server runs", responses={401: PROBLEMS["bounded"][401]})
async def list_models(request: Request) -> ModelList:
    """The codec, its vocabularies, its options and the server's bounds.

    curl http://127.0.0.1:8000/v1/models
    """
    service = find_service(request)
    codec = service.require_codec()
    config, manifest, spec = codec.config, codec.bundle.manifest, codec.model.spec
    model = ModelDocument(
        id=codec.bundle.name,
        owned_by=manifest.weights,
        codec=config.codec,
        rate=config.tps,
        sample_rate=codec.sample_rate,
        vocabularies=list(manifest.vocabularies),
        codebooks=config.codebook_sizes,
        bitrate=config.bitrate,
        encode_options=sorted(spec.encode_options),
        decode_options=sorted(spec.decode_options - {"noise"}),
        backend=codec.backend.name,
        device=codec.backend.device,
        max_seconds=service.limits.seconds,
        max_positions=service.limits.positions,
    )
    return ModelList(data=[model])


@router.get("/healthz", summary="Whether the process answers")
async def report_health() -> State:
    """It answers while the server starts and while it ends. Restart a server that does not answer."""
    return State(status="ok")


@router.get("/readyz", summary="Whether the server takes requests", responses={503: {"model": State}})
async def report_readiness(request: Request) -> JSONResponse:
    """200 after the codec has been loaded and warmed up; 503 before, and while the server ends."""
    state = find_service(request).state
    return JSONResponse({"status": state}, 200 if state == "ok" else 503)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def report_metrics(request: Request) -> Response:
    """Requests, latencies by stage, batch sizes, queue, refusals, seconds of sound, real-time factors."""
    return Response(find_service(request).metrics.to_text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def show_page() -> HTMLResponse:
    return answer_page("index.html")


@router.get("/docs", include_in_schema=False)
async def show_documentation() -> HTMLResponse:
    return answer_page("docs.html")


def answer_page(name: str) -> HTMLResponse:
    text = files("sc_runtime.serving").joinpath("page").joinpath(name).read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"content-security-policy": PAGE_POLICY, "referrer-policy": "no-referrer"})
