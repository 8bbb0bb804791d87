"""A TCP proxy that makes a bad network of a good one: latency, little bandwidth, cut connections, one-way silence.

One thread and one selector serve all connections. Settings hold for every connection, old and new, and may be changed at any
time from another thread. TCP loses nothing inside a connection, so neither does the proxy: what is not forwarded in a silence is
held back, and goes on when it ends, unless the connection is cut before.
"""
import collections
import os
import selectors
import socket
import struct
import threading
import time

CHUNK = 64 << 10
HELD_BYTES_MAX = 1 << 20  # Then the sender feels it.


class _Way:
    """One direction of a connection: what was read on one side and is to be written on the other."""

    def __init__(self, source, target, name):
        self.source, self.target, self.name = source, target, name
        self.held = collections.deque()  # (due, bytes)
        self.held_bytes = 0
        self.ended = False  # The source has closed its side.
        self.closed = False  # We have closed the target's.
        self.allowance_at = 0.0


class Proxy:
    """Forwards 127.0.0.1:port to 127.0.0.1:target. `up` is towards the target, `down` is back."""

    def __init__(self, target):
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._silent = set()
        self._delay = 0.0
        self._bytes_per_second = None
        self._orders = []
        self._ways = []
        self._wake_read, self._wake_write = os.pipe()
        self._running = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    # ---- from any thread

    def silence(self, *ways):
        """Nothing is forwarded these ways ("up", "down"); no argument ends the silence."""
        with self._lock:
            self._silent = set(ways)
        self._wake()

    def delay(self, seconds):
        with self._lock:
            self._delay = seconds
        self._wake()

    def bandwidth(self, bytes_per_second):
        """Of each connection and way; None is unlimited."""
        with self._lock:
            self._bytes_per_second = bytes_per_second
        self._wake()

    def cut(self):
        """Resets all connections."""
        self._order("cut")

    def half_close(self, way):
        """Ends one way of all connections: the receiver reads the end of the stream, the sender may go on."""
        self._order(way)

    def heal(self):
        with self._lock:
            self._silent, self._delay, self._bytes_per_second = set(), 0.0, None
        self._wake()

    def close(self):
        self._running = False
        self._wake()
        self._thread.join()
        self._listener.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _order(self, order):
        with self._lock:
            self._orders.append(order)
        self._wake()

    def _wake(self):
        os.write(self._wake_write, b".")

    # ---- the proxy's thread

    def _serve(self):
        while self._running:
            now = time.monotonic()
            with self._lock:
                silent, rate, orders, self._orders = self._silent, self._bytes_per_second, self._orders, []
            for order in orders:
                self._obey(order)
            selector = selectors.DefaultSelector()
            selector.register(self._wake_read, selectors.EVENT_READ, None)
            selector.register(self._listener, selectors.EVENT_READ, None)
            interests, wait = {}, 5.0
            for way in self._ways:
                if way.closed:
                    continue
                quiet = way.name in silent
                if not way.ended and not quiet and way.held_bytes < HELD_BYTES_MAX:
                    interests.setdefault(way.source, [0, None, None])
                    interests[way.source][0] |= selectors.EVENT_READ
                    interests[way.source][1] = way
                if not quiet and way.held:
                    due = max(way.held[0][0], way.allowance_at)
                    if due <= now:
                        interests.setdefault(way.target, [0, None, None])
                        interests[way.target][0] |= selectors.EVENT_WRITE
                        interests[way.target][2] = way
                    else:
                        wait = min(wait, due - now)
            for sock, (events, reader, writer) in interests.items():
                selector.register(sock, events, (reader, writer))
            for key, events in selector.select(wait):
                if key.fileobj == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    reader, writer = key.data
                    if events & selectors.EVENT_READ and reader is not None:
                        self._read(reader, self._delay)
                    if events & selectors.EVENT_WRITE and writer is not None and not writer.closed:
                        self._write(writer, rate)
            selector.close()
        for way in list(self._ways):
            self._drop(way)

    def _accept(self):
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:  # Nobody listens there now: refused, as it would be without us.
            _reset(client)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ways += [_Way(client, server, "up"), _Way(server, client, "down")]

    def _read(self, way, delay):
        if way.closed:
            return
        try:
            data = way.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            return self._drop(way)
        if data:
            way.held.append((time.monotonic() + delay, data))
            way.held_bytes += len(data)
        else:
            way.ended = True
            self._finish(way)

    def _write(self, way, rate):
        due, data = way.held[0]
        piece = data if rate is None else data[:max(1, rate // 20)]
        try:
            sent = way.target.send(piece)
        except BlockingIOError:
            return
        except OSError:
            return self._drop(way)
        way.held_bytes -= sent
        if sent == len(data):
            way.held.popleft()
        else:
            way.held[0] = (due, data[sent:])
        if rate is not None:
            way.allowance_at = time.monotonic() + sent / rate
        self._finish(way)

    def _finish(self, way):
        """Passes the end of the stream on, once everything before it is."""
        if not way.ended or way.held or way.closed:
            return
        way.closed = True
        try:
            way.target.shutdown(socket.SHUT_WR)
        except OSError:
            return self._drop(way)
        other = next((w for w in self._ways if w.source is way.target), None)
        if other is None or other.closed:
            self._drop(way)

    def _drop(self, way):
        """Resets the connection that the way belongs to."""
        for sock in (way.source, way.target):
            _reset(sock)
        for other in self._ways:
            if other.source in (way.source, way.target):
                other.closed = True
        self._ways = [w for w in self._ways if w.source not in (way.source, way.target)]

    def _obey(self, order):
        for way in list(self._ways):
            if order == "cut":
                self._drop(way)
            elif way.name == order and not way.closed:
                way.held.clear()
                way.held_bytes, way.ended = 0, True
                self._finish(way)


def _reset(sock):
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    except OSError:
        pass
