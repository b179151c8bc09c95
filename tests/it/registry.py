#!/usr/bin/env python3
"""A registry on loopback that misbehaves on request: registry.py ARCHIVE PORT well|fail3|stall

Serves the image of an OCI archive under any repository, tag `1` only. `fail3` answers the first three blob requests
with 500; `stall` sends half of a blob and then nothing, until the file STOP-STALLING appears beside the archive.
"""
import http.server, json, os, sys, tarfile, time

archive, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
tar = tarfile.open(archive)
blobs = {m.name.split("/")[-1]: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile() and m.name.startswith("blobs/")}
manifest = json.load(tar.extractfile("index.json"))["manifests"][0]
left = 3 if mode == "fail3" else 0


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, code, body=b"", kind="application/json", digest=None, head=False):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_GET(self, head=False):
        global left
        parts = self.path.split("?")[0].split("/")
        what, last = parts[-2] if len(parts) > 2 else "", parts[-1]
        if what == "manifests" and last in ("1", manifest["digest"]):
            return self.reply(200, blobs[manifest["digest"][7:]], manifest["mediaType"], manifest["digest"], head)
        if what == "manifests":
            return self.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', head=head)
        if what == "blobs" and last[7:] in blobs:
            if left > 0:
                left -= 1
                return self.reply(500, b'{"errors":[{"code":"UNKNOWN","message":"out of order"}]}', head=head)
            body = blobs[last[7:]]
            if mode == "stall" and len(body) > 100_000 and not os.path.exists(os.path.join(os.path.dirname(archive), "STOP-STALLING")):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(600)
                return None
            return self.reply(200, body, "application/octet-stream", last, head)
        return self.reply(200 if self.path in ("/v2/", "/v2") else 404, b"{}", head=head)

    def log_message(self, *a):
        sys.stderr.write("%s %s\n" % (self.path, a))


http.server.ThreadingHTTPServer(("127.0.0.1", port), Registry).serve_forever()
