"""A headless Chromium driven through its debugging pipe, for the tests of the page."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

# The page's rows: class and probability of the five likeliest.
ROWS = (
    "[...document.querySelectorAll('#results li')]"
    ".map((row) => [row.dataset.class, Number(row.dataset.probability)])"
)


def chromium():
    """Path of the browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class QuietHandler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm",
    }

    def log_message(self, *args):
        pass


class Server:
    """Serves a folder on a local port, a free one if none is given."""

    def __init__(self, folder, port=0):
        handler = partial(QuietHandler, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.port = self.server.server_port
        self.address = f"http://localhost:{self.port}/"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()


class Browser:
    """One page; `command` speaks the DevTools protocol, `run` evaluates JavaScript."""

    def __enter__(self):
        self.profile = tempfile.mkdtemp()
        to_browser, self.out = os.pipe()
        self.into, from_browser = os.pipe()
        # The protocol's pipes are file descriptors 3 and 4.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            [
                *("/bin/bash", "-c", script, "browser", chromium()),
                *("--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
                *(
                    "--use-fake-device-for-media-stream",
                    "--use-fake-ui-for-media-stream",
                ),
                *(f"--user-data-dir={self.profile}", "--remote-debugging-pipe"),
                "about:blank",
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.last, self.rest, self.session, self.events = 0, b"", None, []
        targets = self.command("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.command("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")
        return self

    def __exit__(self, *args):
        self.process.terminate()
        self.process.wait()
        os.close(self.out)
        os.close(self.into)
        shutil.rmtree(self.profile, ignore_errors=True)

    def command(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        while b"\0" not in self.rest:
            content = os.read(self.into, 1 << 16)
            if not content:
                raise RuntimeError("the browser has ended")
            self.rest += content
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def run(self, expression):
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.command(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition):
        """Waits in the page until a JavaScript condition holds, a minute at most."""
        self.run(
            "new Promise((resolve, reject) => {"
            "  const end = Date.now() + 60000;"
            "  (function look() {"
            f"    if ({condition}) resolve(true);"
            "    else if (Date.now() > end) reject(new Error("
            "      document.body.innerText));"
            "    else setTimeout(look, 30);"
            "  })();"
            "})"
        )

    def barriers(self, axe):
        """The rules of axe-core that the page breaks, with the elements, as shown."""
        self.run(axe + "; null")
        found = self.run(
            "axe.run().then((found) => ({"
            " bad: found.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]),"
            " passed: found.passes.length }))"
        )
        assert found["passed"] > 10
        return found["bad"]

    def open(self, address):
        self.command("Page.navigate", url=address)

    def resize(self, width, height, mobile=False, dark=False):
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def drop(self, paths, selector):
        """Drops a file, or several, on an element, as a person does."""
        files = [str(p) for p in (paths if isinstance(paths, list) else [paths])]
        box = self.run(
            f"(() => {{ const b = document.querySelector({selector!r})"
            ".getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        data = {"items": [], "files": files, "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command(
                "Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data
            )

    def screenshot(self, path):
        shot = self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def errors(self):
        """What the page complained about."""
        found = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(event["params"]["exceptionDetails"]["text"])
            if event.get("method") == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry["level"] == "error":
                    found.append(f"{entry['text']} {entry.get('url', '')}")
        return found

    def requests(self):
        """Addresses of all that the page fetched."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
