"""A small server of git-lfs's batch API with basic transfers, beside the Git hubs of `http_hub`.

API: docs/api/batch.md and basic-transfers.md in https://github.com/git-lfs/git-lfs. Objects stand where git-lfs keeps them in
a bare repository, `lfs/objects/<2 hex>/<2 hex>/<64 hex>`, so that a hub is the same whether it is reached by path or over HTTP.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from benchmarks.http_hub import PIECE, GitHandler

_ROUTE = re.compile(
    r"/(?P<hub>[^/]+)/info/lfs/(?P<what>objects/batch|locks/verify|objects/(?P<oid>[0-9a-f]{64}))\Z"
)


class LfsHandler(GitHandler):
    """Answers git-lfs as well as Git."""

    def do_GET(self) -> None:
        route = _ROUTE.match(self.path)
        if route is None:
            super().do_GET()
        elif route["oid"]:
            self._download(self._place(route["hub"], route["oid"]))
        else:
            self._say(404, {"message": "no such thing"})

    def do_POST(self) -> None:
        route = _ROUTE.match(self.path)
        if route is None:
            super().do_POST()
            return
        request = json.loads(b"".join(self.body()))
        if route["what"] == "locks/verify":
            self._say(200, {"ours": [], "theirs": []})
        else:
            self._batch(route["hub"], request)

    def do_PUT(self) -> None:
        route = _ROUTE.match(self.path)
        assert route is not None and route["oid"]
        place = self._place(route["hub"], route["oid"])
        place.parent.mkdir(parents=True, exist_ok=True)
        building, sha = place.with_name(f"{place.name}.{os.urandom(4).hex()}"), hashlib.sha256()
        with building.open("wb") as file:
            for piece in self.body():
                sha.update(piece)
                file.write(piece)
        right = sha.hexdigest() == route["oid"]
        if right:
            building.replace(place)
        else:
            building.unlink()
        self._say(200 if right else 422, {} if right else {"message": "these bytes have another digest"})

    def _batch(self, hub: str, request: dict[str, Any]) -> None:
        upload = request["operation"] == "upload"
        answers = []
        for asked in request["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
            here = self._place(hub, asked["oid"]).exists()
            if here != upload:
                href = f"{self.server.url}/{hub}/info/lfs/objects/{asked['oid']}"
                answer["actions"] = {request["operation"]: {"href": href}}
            elif not upload:
                answer["error"] = {"code": 404, "message": "no such object"}
            answers.append(answer)
        self._say(200, {"transfer": "basic", "objects": answers})

    def _download(self, place: Path) -> None:
        with place.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(size))
            self.end_headers()
            if self.server.rate is None:
                self.connection.sendfile(file)
                self.server.count(sent=size)
            else:
                shutil.copyfileobj(file, self.wfile, PIECE)

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _place(self, hub: str, oid: str) -> Path:
        return self.server.root / hub / "lfs/objects" / oid[:2] / oid[2:4] / oid
