"""Nodes that learn nothing: each knows one temperature, and all find the mean by asking one another.

    python examples/ask_around.py

A program needs no task, no model and no torch. The same program runs in real processes: see `engine` below.
"""

from covey import Content, Node, Program, State, param, run

ROUNDS = 20


class Known(State):
    mean: float = 0.0


class Estimate(Content):
    mean: float


class AskAround(Program):
    """Push-pull averaging: in every round a node asks another one, and both take the mean of what they know."""

    spread: float = param("The standard deviation of the temperatures.", default=5.0, ge=0)

    async def run(self, node: Node) -> None:
        known = node.keep(Known)
        known.mean = 15 + self.spread * node.random("temperature").standard_normal()
        async for t in node.rounds():
            # All nodes draw the same pairs, so each node knows the sender to expect.
            order = node.public_random("pairs", t).permutation(node.nodes).tolist()
            place = order.index(node.id) ^ 1
            if place < node.nodes:
                node.send(order[place], Estimate(mean=known.mean), round=t)
                for estimate in node.usable(await node.receive(round=t, senders=[order[place]]), Estimate):
                    known.mean = (known.mean + estimate.mean) / 2
            node.log(mean=known.mean)


experiment = {
    "rounds": ROUNDS,
    "program": {"kind": AskAround},
    "network": {"nodes": 50, "latency": "20ms"},
    # "engine": "emulation" runs it in real processes, once the class is in a module of its own.
}

if __name__ == "__main__":
    done = run(experiment)
    print(done.figures.groupby("round")["mean"].agg(["mean", "std"]).round(3).iloc[:: ROUNDS // 4])
    done.plot("mean", out="ask-around.png")
