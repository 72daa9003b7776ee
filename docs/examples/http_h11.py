"""HTTP/1.1 by hand, with h11: answer the peers that speak."""

import h11
import trio

import trio_duplex

TIMEOUT = 30  # seconds that a peer has for a request


async def serve_http(connection: trio_duplex.Connection) -> None:
    """We are the TLS server: the peer sends requests, as any HTTPS client does."""
    http = h11.Connection(h11.SERVER)
    body = b""
    while http.our_state is not h11.MUST_CLOSE:
        with trio.fail_after(TIMEOUT):
            event = http.next_event()
            while event is h11.NEED_DATA:
                http.receive_data(bytes(await connection.receive_some()))
                event = http.next_event()
        match event:
            case h11.Request(target=target):
                body = f"hello, {connection.peer}: you asked for {target.decode()}\n".encode()
            case h11.EndOfMessage():
                head = h11.Response(status_code=200, headers=[("content-length", str(len(body)))])
                answer = [head, h11.Data(data=body), h11.EndOfMessage()]
                await connection.send_all(b"".join(http.send(each) or b"" for each in answer))
                if http.our_state is h11.DONE:
                    http.start_next_cycle()
            case h11.ConnectionClosed():
                return
            case _:
                pass  # the request's body, in pieces
