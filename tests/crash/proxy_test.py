"""The proxy itself: what it does to two ends of a connection."""
import socket
import threading
import time
import unittest

from proxy import Proxy


class ProxyTest(unittest.TestCase):
    def setUp(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.proxy = Proxy(listener.getsockname()[1])
        self.addCleanup(self.proxy.close)
        self.client = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=10)
        self.addCleanup(self.client.close)
        self.server, _ = listener.accept()
        self.server.settimeout(10)
        self.addCleanup(self.server.close)

    def receive(self, sock, size):
        data = b""
        while len(data) < size:
            piece = sock.recv(size - len(data))
            if not piece:
                break
            data += piece
        return data

    def test_ForwardsBothWays_InOrder(self):
        data = bytes(i % 251 for i in range(3_000_000))
        sender = threading.Thread(target=self.client.sendall, args=(data,))
        sender.start()
        self.assertEqual(self.receive(self.server, len(data)), data)
        sender.join()
        self.server.sendall(b"answer")
        self.assertEqual(self.receive(self.client, 6), b"answer")

    def test_Silence_HoldsOneWayBack_AndTheOtherGoesOn(self):
        self.proxy.silence("up")
        self.client.sendall(b"question")
        self.server.sendall(b"down")
        self.assertEqual(self.receive(self.client, 4), b"down")
        self.server.setblocking(False)
        self.assertRaises(BlockingIOError, self.server.recv, 1)
        self.server.settimeout(10)
        self.proxy.silence()
        self.assertEqual(self.receive(self.server, 8), b"question")

    def test_Cut_ResetsBothEnds_AndNewConnectionsWork(self):
        self.proxy.cut()
        for sock in (self.client, self.server):
            self.assertRaises(ConnectionResetError, sock.recv, 1)

    def test_HalfClose_EndsOneWay_AndTheOtherGoesOn(self):
        self.proxy.half_close("up")
        self.assertEqual(self.server.recv(1), b"")
        self.server.sendall(b"still here")
        self.assertEqual(self.receive(self.client, 10), b"still here")

    def test_EndOfAStream_IsPassedOn(self):
        self.client.sendall(b"last")
        self.client.shutdown(socket.SHUT_WR)
        self.assertEqual(self.receive(self.server, 5), b"last")
        self.server.sendall(b"bye")
        self.server.close()
        self.assertEqual(self.receive(self.client, 4), b"bye")

    def test_DelayAndBandwidth_TakeAtLeastTheirTime(self):
        self.proxy.delay(0.2)
        began = time.monotonic()
        self.client.sendall(b"x")
        self.receive(self.server, 1)
        self.assertGreaterEqual(time.monotonic() - began, 0.2)
        self.proxy.delay(0)
        self.proxy.bandwidth(100_000)
        began = time.monotonic()
        self.client.sendall(bytes(30_000))
        self.assertEqual(len(self.receive(self.server, 30_000)), 30_000)
        self.assertGreaterEqual(time.monotonic() - began, 0.2)

    def test_NobodyListens_TheConnectionIsReset(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        proxy = Proxy(port)
        self.addCleanup(proxy.close)
        with self.assertRaises(OSError):  # Of any of the calls: the reset may be there before the first one returns.
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
                client.sendall(b"x")
                if client.recv(1) == b"":
                    raise OSError("closed")


if __name__ == "__main__":
    unittest.main()
