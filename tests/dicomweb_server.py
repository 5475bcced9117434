"""A small DICOMweb server on loopback whose answers break as a test wants them to."""

import io
import json
import re
import ssl
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydicom

PATTERN = r"(?:/studies(?:/([^/?]+))?)?(?:/series(?:/([^/?]+))?)?(?:/instances(?:/([^/?]+))?)?"


class Server(ThreadingHTTPServer):
    """Holds instances in memory.

    Attributes:
        asked: paths of the requests, in their order.
        faults: by path, what becomes of the next answers to it: "cut" in the middle of the body,
            "slow" by `delay` seconds, or a status; None for an answer as it should be.
        closed: from so many requests on every answer is cut.
        reads: what of a query is heeded, "limit", "offset", both or neither.
        largest: so many matches are given at most.
        asks, takes: the scheme that it asks for, and the Authorization that it lets in, or None.
        page: an answer to everything, instead of what is asked for.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.instances = {}
        self.asked = []
        self.faults = defaultdict(list)
        self.closed = None
        self.delay = 2
        self.reads = ("limit", "offset")
        self.largest = 10**6
        self.asks = self.takes = self.page = None
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def speak_tls(self, certificate, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self):
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://127.0.0.1:{self.server_port}/dicom-web"

    def handle_error(self, request, client_address):
        """Say nothing: that a client goes away is what is tested."""

    def add(self, paths):
        for path in paths:
            self.keep(path.read_bytes())

    def keep(self, content):
        dataset = pydicom.dcmread(io.BytesIO(content))
        self.instances[str(dataset.SOPInstanceUID)] = content
        return dataset

    def path_of(self, uid):
        """Of the request for one instance."""
        dataset = pydicom.dcmread(io.BytesIO(self.instances[uid]))
        parent = f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        return f"{parent}/instances/{uid}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        path = self.path.removeprefix("/dicom-web").split("?")[0]
        if server.takes is not None and self.headers.get("Authorization") != server.takes:
            self.answer(path, "text/plain", b"who are you?", 401)
            return
        if server.page is not None:
            self.answer(path, "text/html", server.page)
            return
        study, series, instance = re.fullmatch(PATTERN, path).groups()
        found = [pydicom.dcmread(io.BytesIO(c)) for c in self.server.instances.values()]
        found = [d for d in found if study in (None, d.StudyInstanceUID)]
        found = [d for d in found if series in (None, d.SeriesInstanceUID)]
        if instance is None:
            last = re.sub(r"/[\d.]+", "", path).rsplit("/", 1)[1]
            asked = dict(re.findall(r"(limit|offset)=(\d+)", self.path))
            asked = {name: int(asked[name]) for name in server.reads if name in asked}
            first = asked.get("offset", 0)
            count = min(asked.get("limit", server.largest), server.largest)
            matches = headers(found, last)[first : first + count]
            self.answer(path, "application/dicom+json", json.dumps(matches).encode())
        elif instance in self.server.instances:
            body = self.server.instances[instance]
            part = b"--limit\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--limit--"
            kind = 'multipart/related; type="application/dicom"; boundary=limit'
            self.answer(path, kind, part)
        else:
            self.answer(path, "text/plain", b"not here", 404)

    def do_POST(self):
        path = self.path.removeprefix("/dicom-web")
        body = self.body()
        boundary = re.search(r"boundary=\"?([^\";]+)", self.headers["Content-Type"])[1].encode()
        part = body.split(b"--" + boundary)[1].split(b"\r\n\r\n", 1)[1][:-2]
        if self.next_fault(path, look=True) is None:
            self.server.keep(part)
        self.answer(path, "application/dicom+json", b"{}")

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def next_fault(self, path, look=False):
        server = self.server
        if server.closed is not None and len(server.asked) >= server.closed:
            return "cut"
        waiting = server.faults[path]
        return (waiting[0] if look else waiting.pop(0)) if waiting else None

    def answer(self, path, kind, body, status=200):
        fault = self.next_fault(path)
        self.server.asked.append(path)
        if fault == "slow":
            time.sleep(self.server.delay)
        if isinstance(fault, int):
            status, body = fault, b"later"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 401 and self.server.asks is not None:
            self.send_header("WWW-Authenticate", self.server.asks)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault in ("cut", "slow"):
            self.close_connection = True


def headers(datasets, last):
    """What a search for studies, series or instances finds."""
    names = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    names = names[: 1 + ["studies", "series", "instances"].index(last)]
    found = {}
    for dataset in datasets:
        header = pydicom.Dataset()
        for name in names:
            setattr(header, name, dataset[name].value)
        found[tuple(str(header[name].value) for name in names)] = header.to_json_dict()
    return list(found.values())
