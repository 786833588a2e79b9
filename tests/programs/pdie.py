"""A web service under load with known shares: `alpha` works three times as long as `beta`.

Usage: pdie.py [WORKERS]: with workers it is a pre-forking server, whose parent only waits. It asks
itself, so that each request runs through the whole server. `/work` tells how much was done.
"""
import os
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

done = 0


def burn(rounds):
    total = 0
    for number in range(rounds):
        total += number * number
    return total


def alpha():
    return burn(3000)


def beta():
    return burn(1000)


def work():
    global done
    for _ in range(200):
        alpha()
        beta()
        done += 1


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/serve":
            work()
        body = str(done).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def sleeper():
    while True:
        time.sleep(1000)


def load(port):
    while True:
        urllib.request.urlopen("http://127.0.0.1:%d/serve" % port).read()


def serve(server):
    threading.Thread(target=sleeper, name="sleeper", daemon=True).start()
    server.serve_forever()


def main():
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(name, None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = server.server_address[1]
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    children = []
    for _ in range(workers):
        child = os.fork()
        if child == 0:
            serve(server)
        children.append(child)
    # The load is a process of its own: it must not be in the picture. It has no listening socket.
    child = os.fork()
    if child == 0:
        server.socket.close()
        load(port)
    children.append(child)

    def end(*_):
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    print("ready", port, flush=True)
    if workers:
        threading.Thread(target=sleeper, daemon=True).start()
        signal.pause()
    serve(server)


main()
