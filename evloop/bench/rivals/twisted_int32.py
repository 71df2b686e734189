"""An echo server of frames: Twisted's own Int32StringReceiver on its default reactor, epoll on Linux."""
# mypy: ignore-errors

from twisted.internet import protocol, reactor
from twisted.protocols.basic import Int32StringReceiver


class Echo(Int32StringReceiver):
    MAX_LENGTH = 1 << 20

    def connectionMade(self):
        self.transport.setTcpNoDelay(True)  # Twisted leaves Nagle on

    def stringReceived(self, string):
        self.sendString(string)


if __name__ == "__main__":
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), backlog=1024, interface="127.0.0.1")
    print(f"LISTENING tcp 127.0.0.1:{port.getHost().port}", flush=True)
    reactor.run()
