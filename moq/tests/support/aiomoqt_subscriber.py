"""Subscribes to (mahp, test) v0, fetches its groups 0 to 2 and 17 objects of the track `made`; prints SHA-256 of each payload."""

import asyncio
import hashlib
import sys
from urllib.parse import urlsplit

from aiomoqt.client import MOQTClient
from aiomoqt.track import SubscribedTrack

LIVE_OBJECTS = 5
FIRST_MADE = (1 << 24) + (1 << 22)


def say(kind, group, message):
    digest = hashlib.sha256(bytes(message.payload)).hexdigest()
    print(kind, group, message.object_id, digest, flush=True)


async def fetch(session, kind, track, start, end):
    session.on_fetch_object = lambda message, *_: say(kind, message.group_id, message)
    ok = await session.fetch(
        namespace="mahp/test", track_name=track,
        start_group=start[0], start_object=start[1], end_group=end[0], end_object=end[1],
        wait_response=True)
    await session.await_fetch_done(ok.request_id, timeout=10)


async def main(url):
    enough = asyncio.Event()
    live = []

    def on_object(message, _size, _time, group_id=None, subgroup_id=None):
        say("live", group_id, message)
        live.append(group_id)
        if len(live) >= LIVE_OBJECTS:
            enough.set()

    client = MOQTClient(url.hostname, url.port, path=url.path, use_quic=True, verify_tls=False, supported_drafts=18)
    async with asyncio.timeout(30), client.connect() as session:
        await session.client_session_init()
        track = SubscribedTrack(session, namespace="mahp/test", trackname="v0", on_object=on_object)
        await track.subscribe()
        await enough.wait()
        await fetch(session, "fetched", "v0", (0, 0), (2, 0))
        await fetch(session, "made", "made", (7, FIRST_MADE), (7, FIRST_MADE + 17))


asyncio.run(main(urlsplit(sys.argv[1])))
