"""A host sends models to a peer that stops reading after two seconds: what waits, is dropped, and takes memory."""

import asyncio
import csv
from collections import Counter
from pathlib import Path

import torch

from covey import wire
from covey.engines.emulation.address import Address
from covey.engines.emulation.connection import Connection, Parts, enveloped, readdressed
from covey.engines.emulation.handshake import LIMITS, admit, welcome
from covey.engines.emulation.host import open_connection
from covey.engines.emulation.peers import Peers
from covey.engines.emulation.pulse import memory_bytes
from covey.view.look import new_axes, new_figure

HERE = Path(__file__).parent
TOKEN = b"a secret of this study"
MOST = 64 << 20
STOPS, ENDS, EVERY = 2.0, 8.0, 0.005
"""Seconds: when the peer stops reading, when the study ends, and how often a model is sent."""


async def main() -> None:
    """Send, look, draw."""
    loop = asyncio.get_running_loop()
    refused: Counter[str] = Counter()
    heard = 0

    def hear(frame: wire.Frame) -> None:
        nonlocal heard
        heard += 1

    async def meet(connection: Connection) -> None:
        caller, nonce = await admit(connection, TOKEN)
        welcome(connection, TOKEN, caller, nonce)
        connection.listen(hear, wire.DEFAULT)
        loop.call_later(STOPS, connection.pause_reading)

    tasks = []

    def stranger() -> Connection:
        connection = Connection(LIMITS, lambda reason: None)
        tasks.append(loop.create_task(meet(connection)))
        return connection

    listening = Address("127.0.0.1", 0).listen()
    listening.setblocking(False)
    await loop.create_server(stranger, sock=listening)
    peers = Peers(
        0,
        [0, 1],
        call=lambda host: open_connection(host, Address.of(listening), None, lambda reason: None),
        token=TOKEN,
        run="study",
        limits=wire.DEFAULT,
        most=MOST,
        deliver=lambda frame: None,
        refused=lambda reason: refused.update([reason]),
    )
    began, before, rows, sent = loop.time(), memory_bytes(), [], 0
    while (now := loop.time() - began) < ENDS:
        model = torch.full((89_834,), float(sent))
        encoded = enveloped(wire.encode_parts({"model": model}, sender=0, receiver=1, round=sent))

        def frame(sequence: int, encoded: Parts = encoded) -> Parts:
            return readdressed(encoded, 1, sequence)

        peers.send(1, sum(map(len, encoded)), frame)
        sent += 1
        if sent % 20 == 0:
            memory = (memory_bytes() - before) / 1e6
            rows.append([round(now, 3), sent, heard, refused["queue-full"], peers.backlog / 1e6, round(memory, 1)])
        await asyncio.sleep(EVERY)
    with open(HERE / "flood.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", "sent", "heard", "dropped", "waiting_mb", "memory_mb"])
        writer.writerows(rows)
    draw(rows)


def draw(rows: list[list[float]]) -> None:
    """The figure."""
    times, sent, _, dropped, waiting, memory = zip(*rows, strict=True)
    figure = new_figure((7.0, 4.2))
    axes = new_axes(figure)
    axes.plot(times, [count * 89_834 * 4 / 1e6 for count in sent], label="asked to be sent", color="#999999")
    axes.plot(times, [count * 89_834 * 4 / 1e6 for count in dropped], label="dropped, and counted as queue-full")
    axes.plot(times, memory, label="memory of the process above its start")
    axes.plot(times, waiting, label="waiting for the peer")
    axes.axhline(MOST / 1e6, color="#444444", linewidth=0.8, linestyle=":", label="the limit, `buffer`")
    axes.axvline(STOPS, color="#bbbbbb", linewidth=0.8)
    axes.set_xlabel("seconds; the peer stops reading at 2")
    axes.set_ylabel("MB")
    axes.legend(frameon=False)
    figure.savefig(HERE / "flood.png", dpi=150)


if __name__ == "__main__":
    asyncio.run(main())
