"""Subscribes to (mahp, test) v0, fetches its groups 0 to 2 and 17 objects of the track `made`; prints SHA-256 of each payload.

With a namespace, track and group behind the URL: fetches 17 repair symbols of the first block of that object only.
"""

import asyncio
import hashlib
import sys
from urllib.parse import urlsplit

from aiomoqt.client import MOQTClient
from aiomoqt.track import SubscribedTrack

LIVE_OBJECTS = 5
FIRST_SYMBOL = 1 << 22
FIRST_MADE = (1 << 24) + FIRST_SYMBOL


def say(kind, group, message):
    digest = hashlib.sha256(bytes(message.payload)).hexdigest()
    print(kind, group, message.object_id, digest, flush=True)


async def fetch(session, kind, track, start, end, namespace="mahp/test"):
    session.on_fetch_object = lambda message, *_: say(kind, message.group_id, message)
    ok = await session.fetch(
        namespace=namespace, track_name=track,
        start_group=start[0], start_object=start[1], end_group=end[0], end_object=end[1],
        wait_response=True)
    await session.await_fetch_done(ok.request_id, timeout=10)


def client(url):
    return MOQTClient(url.hostname, url.port, path=url.path, use_quic=True, verify_tls=False, supported_drafts=18)


async def symbols(url, namespace, track, group):
    async with asyncio.timeout(30), client(url).connect() as session:
        await session.client_session_init()
        await fetch(session, "symbol", track, (group, FIRST_SYMBOL), (group, FIRST_SYMBOL + 17), namespace)


async def main(url):
    enough = asyncio.Event()
    live = []

    def on_object(message, _size, _time, group_id=None, subgroup_id=None):
        say("live", group_id, message)
        live.append(group_id)
        if len(live) >= LIVE_OBJECTS:
            enough.set()

    async with asyncio.timeout(30), client(url).connect() as session:
        await session.client_session_init()
        track = SubscribedTrack(session, namespace="mahp/test", trackname="v0", on_object=on_object)
        await track.subscribe()
        await enough.wait()
        await fetch(session, "fetched", "v0", (0, 0), (2, 0))
        await fetch(session, "made", "made", (7, FIRST_MADE), (7, FIRST_MADE + 17))


address, *wanted = sys.argv[1:]
if wanted:
    asyncio.run(symbols(urlsplit(address), wanted[0], wanted[1], int(wanted[2])))
else:
    asyncio.run(main(urlsplit(address)))
