"""fakeredis on loopback, in which the Argilla server queues its webhooks: `python -m redis_double PORT`, in
the server's own environment.

Its own request handler reads without waiting, and now and then closes a connection in the middle of a
transaction; the server then answers 500 to whoever edits a dataset.
"""

import sys

from fakeredis import TcpFakeServer
from fakeredis._clients._tcp_server import TCPFakeRequestHandler
from redis.exceptions import RedisError


class Handler(TCPFakeRequestHandler):
    """Waits for bytes, hands them on as they come, and answers what they complete."""

    def setup(self) -> None:
        super().setup()
        self.connection.setblocking(True)

    def handle(self) -> None:
        while data := self.connection.recv(65536):
            self.current_client.get_socket().sendall(data)
            while self.current_client.can_read():
                try:
                    answer = self.current_client.read_response()
                except RedisError as error:
                    answer = error
                self.writer.dump(answer)


if __name__ == "__main__":
    server = TcpFakeServer(("127.0.0.1", int(sys.argv[1])), server_type="redis")
    server.RequestHandlerClass = Handler
    server.serve_forever()
