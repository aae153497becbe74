"""Serves the part of the Hugging Face hub's HTTP API that uploading and downloading a model needs, from memory."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

TOKEN, ACCOUNT = "hf_stand_in", "someone"


class Hub:
    """The state of a stand-in for the hub.

    Attributes:
      repositories: {name: {file: content}}.
      private: names of private repositories.
      commits: summary of each commit.
      objects: large files by the SHA-256 of their content.
      address: address of the server.
    """

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.address = ""


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Runs a hub on a free port of this machine."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            if self._is_signed():
                self._answer({"name": ACCOUNT, "type": "user"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            if self._exists(match[1]):
                files = self.hub.repositories[match[1]]
                siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
                private = match[1] in self.hub.private
                self._answer({"id": match[1], "sha": _sha(files), "siblings": siblings, "private": private})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            if self._exists(match[1]):
                files = self.hub.repositories[match[1]]
                self._answer([
                    {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
                    for name, content in files.items()
                ])  # fmt: skip
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path):
            if self._exists(match[1], match[2]):
                files = self.hub.repositories[match[1]]
                headers = {"ETag": f'"{_blob(files[match[2]])}"', "X-Repo-Commit": _sha(files)}
                self._answer(files[match[2]], headers=headers)
        else:
            self._answer({"error": f"no {path} here"}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        body, path = self.rfile.read(int(self.headers["Content-Length"])), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif not self._is_signed():
            return
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": file["path"], "shouldIgnore": False, "uploadMode": "lfs" if _is_large(file) else "regular"}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.hub.address}/objects/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": f"no {path} here"}, 404)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != digest:
            self._answer({"error": "the content is another"}, 400)
            return
        self.hub.objects[digest] = content
        self._answer({})

    def _create(self, request):
        account, name = request.get("organization") or ACCOUNT, f"{request.get('organization') or ACCOUNT}/"
        name += request["name"]
        if account != ACCOUNT:
            self._answer({"error": f"You don't have the rights to create a model under {account!r}"}, 403)
        elif name in self.hub.repositories:
            self._answer({"url": f"{self.hub.address}/{name}", "error": "You already created this model repo"}, 409)
        else:
            self.hub.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            if request.get("visibility") == "private" or request.get("private"):
                self.hub.private.add(name)
            self._answer({"url": f"{self.hub.address}/{name}"})

    def _commit(self, name, lines):
        files = dict(self.hub.repositories[name])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        self.hub.repositories[name] = files
        self._answer({"commitUrl": f"{self.hub.address}/{name}/commit/{_sha(files)}", "commitOid": _sha(files)})

    def _is_signed(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer({"error": "Invalid username or password."}, 401)
        return False

    def _exists(self, name, file=None):
        if name not in self.hub.repositories:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return False
        if file is not None and file not in self.hub.repositories[name]:
            self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return False
        return True

    def _answer(self, content, code=200, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        del arguments  # tests read what the commands print


def _is_large(file):
    return file["path"].endswith(".safetensors")


def _blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha(files):
    digest = hashlib.sha1()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + content)
    return digest.hexdigest()
