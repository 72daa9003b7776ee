from greeter import greet

from trio_duplex.testing import ServerFactory, SilentPeer, SpeakingPeer


async def test_greets_whoever_dials(
    duplex_server: ServerFactory,
    speaking_peer: type[SpeakingPeer],
    silent_peer: type[SilentPeer],
) -> None:
    async with duplex_server(greet, window=0.2) as server:
        for peer in (speaking_peer(say=b""), silent_peer(say=b"")):
            report = await peer.run(server)
            assert report.heard == b"hello\n"
