"""A page on this machine alone, which classifies the photograph that is dropped on it."""

import base64
import json
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import DictConfig
from PIL import Image

from mpoxcv.command_line import require_given
from mpoxcv.commands.explain import overlaid
from mpoxcv.errors import UserError, check_number
from mpoxcv.evaluation.groups import HEADLINE
from mpoxcv.evaluation.summary import summarise
from mpoxcv.pictures.images import decode, encode_jpeg
from mpoxcv.pictures.pixels import resize
from mpoxcv.report.tables import NAMES, interval
from mpoxcv.terminal import say
from mpoxcv.use.predictor import NOT_FOR, Prediction, Predictor
from mpoxcv.use.saliency import explain_by_all
from mpoxcv.use.stored_run import load_runs

# of a photograph's file
MOST_BYTES = 40 * 2**20
# seconds for a request to arrive
PATIENCE = 60
# of the page: nothing from elsewhere
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"


def serve(cfg: DictConfig) -> None:
    """Serve the page as ``conf/serve.yaml`` says, until Ctrl-C.

    Raises:
        UserError: an option is wrong, there is no run, or the port is taken.
    """
    require_given(cfg, "serve", run="DIR")
    check_number("port", cfg.port, 0)
    predictor = Predictor(load_runs(str(cfg.run), cfg.trust, None, cfg.model.weights))
    try:
        server = make_server(predictor, measured(str(cfg.run)), cfg.level, cfg.port)
    except (OSError, OverflowError) as error:
        raise UserError(f"port={cfg.port} cannot be had ({error}): give another.") from None
    say(
        f"Open http://127.0.0.1:{server.server_port}/ in a browser on this machine; Ctrl-C ends it."
    )
    say(f"Nothing is stored or sent. {NOT_FOR}")
    sys.stdout.flush()
    with server:
        server.serve_forever()


def measured(folder: str) -> list[dict[str, Any]]:
    """Return what the runs below a folder reached on held-out pictures, a dict a group of runs."""
    try:
        groups = summarise([folder]).groups
    # nothing is finished there
    except UserError:
        return []
    return [
        {
            "name": group.content["data"],
            "pictures": group.content["pictures"], "patients": group.content["patients"],
            "metrics": {
                NAMES[name]: interval(group.content["pooled"][name]) for name in HEADLINE[:2]
            },
            "classes": {
                name: row | {rate: interval(row[rate]) for rate in ("recall", "specificity")}
                for name, row in group.content["per_class"].items()
            },
        }
        for group in groups
    ]  # fmt: skip


def make_server(
    predictor: Predictor, results: list[dict[str, Any]], level: float, port: int
) -> ThreadingHTTPServer:
    """Return a server on 127.0.0.1, which has not begun; ``results`` are as of :func:`measured`."""
    environment = Environment(
        loader=PackageLoader("mpoxcv.use", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )  # fmt: skip
    template = environment.get_template("page.html.j2")
    page = template.render(
        classes=predictor.classes, sources=predictor.sources, results=results, level=level, not_for=NOT_FOR,
        networks=len(predictor.runs), most=MOST_BYTES // 2**20,
    ).encode()  # fmt: skip
    # one picture at a time: the networks take all cores
    turn = threading.Lock()
    answers: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
        "/classify": lambda pixels: classified(predictor, pixels, level),
        "/explain": lambda pixels: explained(predictor, pixels),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def do_GET(self) -> None:
            if self.path == "/" and self.is_ours():
                self.answer(HTTPStatus.OK, page, "text/html; charset=utf-8")
            else:
                self.answer(HTTPStatus.NOT_FOUND, b"{}")

        def do_POST(self) -> None:
            answer, length = answers.get(self.path), self.headers.get("Content-Length", "")
            if not answer or not self.is_ours():
                return self.answer(HTTPStatus.NOT_FOUND, b"{}")
            if not length.isdecimal() or int(length) > MOST_BYTES:
                self.close_connection = True
                return self.fail(f"The file is larger than {MOST_BYTES // 2**20} MB.")
            try:
                data = self.rfile.read(int(length))
                with turn:
                    said = answer(decode(data))
            except UserError as error:
                return self.fail(f"The file {error}.")
            return self.answer(HTTPStatus.OK, json.dumps(said).encode())

        def is_ours(self) -> bool:
            """Refuse other names of this machine, by which a page from elsewhere may reach it."""
            host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
            names = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}  # type: ignore[attr-defined]
            return host in names and origin in (None, f"http://{host}")

        def fail(self, sentence: str) -> None:
            self.answer(HTTPStatus.BAD_REQUEST, json.dumps({"error": sentence}).encode())

        def answer(
            self, status: HTTPStatus, content: bytes, kind: str = "application/json"
        ) -> None:
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind), ("Content-Length", str(len(content))), ("Cache-Control", "no-store"),
                ("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff"),
            ):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """Keep no record of who asks what."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def classified(predictor: Predictor, pixels: np.ndarray, level: float) -> dict[str, Any]:
    """Return what the page shows of a picture, uint8 (height, width, 3)."""
    [prediction] = predictor.predict([pixels], level)
    if not isinstance(prediction, Prediction):
        raise UserError(prediction)
    return {
        "label": prediction.label, "unlike": prediction.distance > 1,
        "probabilities": dict(zip(prediction.classes, prediction.probabilities.tolist(), strict=True)),
        "set": prediction.prediction_set, "warnings": prediction.warnings,
    }  # fmt: skip


def explained(predictor: Predictor, pixels: np.ndarray) -> dict[str, Any]:
    """Return where the networks looked, as a JPEG in base64, with the checks of the map."""
    [prediction] = predictor.predict([pixels])
    if not isinstance(prediction, Prediction):
        raise UserError(prediction)
    label = predictor.classes.index(prediction.label)
    found = explain_by_all(predictor.runs, pixels, label)
    overlay = Image.fromarray(overlaid(resize(pixels, predictor.runs[0].form), found.map))
    numbers = {name: float(getattr(found, name)) for name in ("likeness", "fall", "fall_elsewhere")}
    return {"picture": base64.b64encode(encode_jpeg(overlay, 90)).decode(), **numbers}
