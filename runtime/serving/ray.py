"""Replicas on Ray Serve. Needs the extra `ray`.

    python -m sc_runtime.serving.ray --max-replicas 4 --threads 8
    serve run sc_runtime.serving.ray:build bundle=tps50-v32768 max_replicas=4 threads=8 limits=seconds=120,requests=16

Every replica is a process with a codec of its own. Ray sends a request to the replica that has the fewest, and starts
and ends replicas by the number of requests that run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import click
import typer
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.errors import CodecError, SettingsError, one_line
from sc_runtime.ray_cluster import connect, turn_off_usage_reports

from .app import create_app
from .requests import validate
from .settings import ServeSettings, parse_limit
from .validation import explain_validation

#: Ray 2.60 ends a proxy that has not started within 5 s, and starts it again. On two busy cores it never got ready. The
#: processes of a cluster that is started here get this variable.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
#: The proxies of such a cluster answer with problem documents, for a replica that died too.
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "sc_runtime.serving.ray_proxy.make_middlewares")

from ray import serve
from ray.serve import Application

HEALTH_SECONDS = 10.0  #: between two checks of a replica


class RayArguments(BaseModel):
    """Arguments of `serve run sc_runtime.serving.ray:build`."""

    model_config = ConfigDict(extra="forbid")
    bundle: str | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int = Field(1, ge=1, description="Processor threads of a replica, which Ray reserves.")
    gpus: float = Field(0, ge=0, description="GPUs of a replica, which Ray reserves.")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(4, ge=0.1, description="Of a replica; above it Ray starts another.")
    limits: dict[str, float | int] = Field(
        default_factory=dict,
        description="Of each replica, by the names of `Limits`. `serve run` takes NAME=VALUE,NAME=VALUE.",
    )

    def make_settings(self) -> ServeSettings:
        """Raises SettingsError. The API key comes from $SC_RUNTIME_API_KEY, so that it stands in no command."""
        if self.min_replicas > self.max_replicas:
            given = f"{self.min_replicas} replicas at least and {self.max_replicas} at most"
            raise SettingsError(given, "no more at least than at most", "raise max_replicas")
        same = self.model_dump(include={"bundle", "backend", "threads", "precision", "limits"})
        return ServeSettings.from_mapping({**same, "api_key": os.environ.get("SC_RUNTIME_API_KEY")})


def read_arguments(values: Mapping[str, Any]) -> RayArguments:
    """`values`, which may be texts, as arguments. Raises SettingsError."""
    changed = dict(values)
    if isinstance(limits := values.get("limits"), str):
        changed["limits"] = dict(map(parse_limit, limits.split(",")))
    try:
        return validate(RayArguments, changed)
    except RequestValidationError as error:
        problem = explain_validation(error, "build")
        remedy = f"the arguments are {', '.join(RayArguments.model_fields)}"
        raise SettingsError(problem.given, problem.expected, remedy) from None


def build(arguments: RayArguments | Mapping[str, Any]) -> Application:
    """The Ray Serve application. A replica takes requests when its codec is loaded and warm.

    arguments: Ray 2.60 does not resolve the annotations of this module, so `serve run` passes a dict of texts.

    Raises ClickException, which `serve run` prints in one line; SettingsError for `RayArguments`.
    """
    turn_off_usage_reports()  # `serve run` starts Ray after this
    if isinstance(arguments, RayArguments):
        settings = arguments.make_settings()
    else:
        try:
            arguments = read_arguments(arguments)
            settings = arguments.make_settings()
        except SettingsError as error:
            raise click.ClickException(str(error)) from error

    def build_replica() -> FastAPI:
        return create_app(settings, wait_until_loaded=True)

    declare: Any = serve.deployment(
        name="codec",
        ray_actor_options={"num_cpus": arguments.threads, "num_gpus": arguments.gpus},
        max_ongoing_requests=settings.limits.requests,
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": arguments.target_ongoing_requests,
        },
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=settings.limits.drain_seconds,
    )
    application: Application = declare(serve.ingress(build_replica)(Replica)).bind()
    return application


class Replica:
    """One process with a codec. Ray starts another in its place if it does not answer."""

    def check_health(self) -> None:
        """Raises RuntimeError if the thread that runs the networks has ended."""
        service: Any = self.app.state.service  # type: ignore[attr-defined]
        if not service.worker.thread.is_alive():
            raise RuntimeError("the worker's thread has ended")


def main(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    bundle: Annotated[str | None, typer.Option(help="The bundle to use.")] = None,
    backend: Annotated[str, typer.Option(help="What runs the networks.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of a replica.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of a replica.")] = 0,
    min_replicas: Annotated[int, typer.Option(min=1, help="Replicas that always run.")] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, help="Replicas that run at most.")] = 1,
    target_ongoing_requests: Annotated[
        float, typer.Option(min=0.1, help="Requests of a replica; above it another starts.")
    ] = 4,
    limit: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A bound of each replica.")] = None,
) -> None:
    """Serve the codec by replicas on Ray Serve, until Ctrl-C or SIGTERM.

    It joins the cluster that $RAY_ADDRESS names, or starts one on this machine.
    """
    try:
        arguments = RayArguments(
            bundle=bundle,
            backend=backend,
            threads=threads,
            gpus=gpus,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            target_ongoing_requests=target_ongoing_requests,
            limits=dict(map(parse_limit, limit or [])),
        )
        arguments.make_settings()
        if not os.environ.get("RAY_ADDRESS"):
            locate_bundle(bundle)  # raises now for a bundle that no replica would find
        connect()
    except CodecError as error:
        typer.echo(one_line(str(error)), err=True)
        raise typer.Exit(1) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Ray's own handler ends with an abort
    try:
        with suppress(TimeoutError):  # Ray 2.60 waits 60 s for its proxy, which goes on starting
            serve.start(http_options={"host": host, "port": port})
        serve.run(build(arguments), blocking=True)
    except KeyboardInterrupt:  # before the replicas were ready
        serve.shutdown()


if __name__ == "__main__":
    typer.run(main)
