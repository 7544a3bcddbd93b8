"""As much of ttrpc and protocol buffers as it takes to call a shim: containerd's own client is a Go library.
A message is a list of fields, each a number and a value: a number, text, bytes, or a message of its own."""

import socket
import struct
import threading

HEADER = struct.Struct(">IIBB")
REQUEST, RESPONSE = 1, 2


def varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def encode(fields):
    encoded = b""
    for number, value in fields:
        if isinstance(value, int):
            encoded += varint(number << 3) + varint(value)
            continue
        if isinstance(value, list):
            value = encode(value)
        if isinstance(value, str):
            value = value.encode()
        encoded += varint(number << 3 | 2) + varint(len(value)) + value
    return encoded


def decode(encoded):
    """The last value of each field."""
    found, place = {}, 0

    def number():
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = encoded[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(encoded):
        tag = number()
        if tag & 7 == 0:
            found[tag >> 3] = number()
        elif tag & 7 == 2:
            length = number()
            found[tag >> 3] = encoded[place:place + length]
            place += length
        else:
            raise ValueError(f"a field of kind {tag & 7} is not read here")
    return found


def receive(connection, length):
    received = b""
    while len(received) < length:
        piece = connection.recv(length - len(received))
        if not piece:
            raise EOFError
        received += piece
    return received


def receive_frame(connection):
    length, stream, kind, _ = HEADER.unpack(receive(connection, HEADER.size))
    return stream, kind, receive(connection, length)


class Client:
    """A connection to a shim."""

    def __init__(self, path, namespace, deadline):
        self.metadata = [(1, "containerd-namespace-ttrpc"), (2, namespace)]
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(deadline)
        self.connection.connect(path)
        self.stream = -1

    def call(self, service, method, fields):
        self.stream += 2
        request = [(1, service), (2, method), (3, encode(fields)), (5, self.metadata)]
        payload = encode(request)
        self.connection.sendall(HEADER.pack(len(payload), self.stream, REQUEST, 0) + payload)
        stream, kind, payload = receive_frame(self.connection)
        if (stream, kind) != (self.stream, RESPONSE):
            raise ValueError(f"{method}: a frame of kind {kind} for call {stream}")
        answer = decode(payload)
        status = decode(answer.get(1, b""))
        if status.get(1, 0) != 0:
            raise ValueError(f"{method}: {status.get(2, b'').decode()}")
        return decode(answer.get(2, b""))

    def close(self):
        self.connection.close()


class EventServer:
    """Takes every event, for the time of a `with` block."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        try:
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()
        except OSError:
            return

    def serve(self, connection):
        try:
            while True:
                stream, _, _ = receive_frame(connection)
                connection.sendall(HEADER.pack(0, stream, RESPONSE, 0))
        except (EOFError, OSError):
            connection.close()
