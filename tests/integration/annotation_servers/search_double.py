"""Stands in for Elasticsearch where argilla-server writes: indexes, documents and response updates are taken
and kept in memory. Listing records, which is all that this project asks of the server, reads its database
alone; a search is answered with 501, so that a test which comes to depend on one fails loudly.

Runs inside argilla-server's own environment: ``python -m uvicorn search_double:app``.
"""

import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

HEADERS = {"X-Elastic-Product": "Elasticsearch"}  # the client refuses servers without it
MEDIA_TYPE = "application/vnd.elasticsearch+json;compatible-with=8"

indexes: dict[str, dict[str, Any]] = {}


def answer(body: Any, status: int = 200) -> Response:
    return JSONResponse(body, status, headers=HEADERS, media_type=MEDIA_TYPE)


def error(status: int, kind: str, reason: str) -> Response:
    return answer({"error": {"type": kind, "reason": reason, "root_cause": []}, "status": status}, status)


async def root(request: Request) -> Response:
    return answer({"name": "double", "version": {"number": "8.7.0"}, "tagline": "double"})


async def index(request: Request) -> Response:
    name = request.path_params["index"]
    if request.method == "HEAD":
        return Response(status_code=200 if name in indexes else 404, headers=HEADERS)
    if request.method == "PUT":
        if name in indexes:
            return error(400, "resource_already_exists_exception", f"index [{name}] already exists")
        indexes[name] = {}
    elif indexes.pop(name, None) is None and request.query_params.get("ignore_unavailable") != "true":
        return error(404, "index_not_found_exception", f"no such index [{name}]")
    return answer({"acknowledged": True, "index": name})


async def mapping(request: Request) -> Response:
    return answer({"acknowledged": True})


async def bulk(request: Request) -> Response:
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
    items = []
    at = 0
    while at < len(lines):
        ((operation, target),) = lines[at].items()
        documents = indexes[target.get("_index") or request.path_params["index"]]
        if operation == "delete":
            found = documents.pop(str(target["_id"]), None) is not None
            at += 1
        else:
            documents[str(target["_id"])] = lines[at + 1]
            found = True
            at += 2
        items.append({operation: {"_id": str(target["_id"]), "status": 200 if found else 404}})
    return answer({"took": 0, "errors": False, "items": items})


async def update(request: Request) -> Response:
    documents = indexes[request.path_params["index"]]
    identity = request.path_params["id"]
    if identity not in documents:
        return error(404, "document_missing_exception", f"[{identity}]: document missing")
    documents[identity].update((await request.json()).get("doc", {}))
    return answer({"_id": identity, "result": "updated"})


async def search(request: Request) -> Response:
    return error(501, "unsupported", "the double does not search")


async def refresh(request: Request) -> Response:
    return answer({"_shards": {"total": 1, "successful": 1, "failed": 0}})


app = Starlette(
    routes=[
        Route("/", root, methods=["GET", "HEAD"]),
        Route("/_bulk", bulk, methods=["POST", "PUT"]),
        Route("/{index}/_bulk", bulk, methods=["POST", "PUT"]),
        Route("/{index}/_mapping", mapping, methods=["PUT"]),
        Route("/{index}/_update/{id}", update, methods=["POST"]),
        Route("/{index}/_search", search, methods=["GET", "POST"]),
        Route("/{index}/_refresh", refresh, methods=["GET", "POST"]),
        Route("/{index}", index, methods=["PUT", "DELETE", "HEAD"]),
    ]
)
