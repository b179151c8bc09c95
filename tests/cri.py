"""The smallest client of containerd's CRI plugin: what bench.py needs to run one pod there. HTTP/2 and protobuf by hand, so that
nothing has to be fetched; one call a connection. Knows no error but that the answer was none."""
import socket, struct


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, value):
    """A field of a message: bytes, text or a list of such, or a number."""
    if isinstance(value, list):
        return b"".join(field(number, v) for v in value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(**fields):
    """message(f1=..., f3=...): the number is the field's."""
    return b"".join(field(int(k[1:]), v) for k, v in fields.items())


def text_of(answer, number):
    """The first text field of that number, of a message of length-delimited fields."""
    i = 0
    while i < len(answer):
        key, size = answer[i], answer[i + 1]
        assert key & 7 == 2 and size < 128, answer
        if key >> 3 == number:
            return answer[i + 2 : i + 2 + size].decode()
        i += 2 + size
    return ""


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call(address, method, request):
    """One unary call of runtime.v1.RuntimeService; the answer's bytes."""
    def header(name, value):
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    head = b"".join(header(*h) for h in [(":method", "POST"), (":scheme", "http"), (":path", f"/runtime.v1.RuntimeService/{method}"),
                                        (":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")])
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(address)
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, head)
                  + frame(0, 1, 1, b"\x00" + struct.pack(">I", len(request)) + request))
        stream, body, trailers = s.makefile("rb"), b"", b""
        while True:
            top = stream.read(9)
            if len(top) < 9:
                break
            payload = stream.read(int.from_bytes(top[:3], "big"))
            kind, flags = top[3], top[4]
            if kind == 0:
                body += payload
            elif kind == 1:
                trailers = payload
            elif kind in (4, 6) and not flags & 1:
                s.sendall(frame(kind, 1, 0, payload if kind == 6 else b""))
            if kind in (3, 7) or kind in (0, 1) and flags & 1:
                break
    if len(body) < 5:
        raise RuntimeError(f"CRI {method} failed; its headers were {trailers!r}")
    return body[5:]


def run(address, image, command, log_dir, cgroup):
    """A hostNetwork pod of one container; the sandbox's id. Its log is LOG_DIR/c.log."""
    host = message(f1=2, f3=2)  # NamespaceOption: network and ipc of the node
    sandbox = message(f1=message(f1="flood", f2="flood-uid", f3="default"), f3=log_dir, f8=message(f1=cgroup, f2=message(f1=host)))
    pod = text_of(call(address, "RunPodSandbox", message(f1=sandbox)), 1)
    config = message(f1=message(f1="c"), f2=message(f1=image), f3=command, f11="c.log", f15=message(f2=message(f3=host)))
    container = text_of(call(address, "CreateContainer", message(f1=pod, f2=config, f3=sandbox)), 1)
    call(address, "StartContainer", message(f1=container))
    return pod


def remove(address, pod):
    call(address, "StopPodSandbox", message(f1=pod))
    call(address, "RemovePodSandbox", message(f1=pod))
