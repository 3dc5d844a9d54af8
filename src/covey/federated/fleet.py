"""FLeet (Damaskinos et al., 2020): online federated learning, with I-Prof for tasks of bounded cost and AdaSGD."""

from collections.abc import Sequence

import numpy as np

from covey.federated.adasgd import AdaSGD, similarity
from covey.federated.controller import Controller
from covey.federated.profilers import IProf, Profiles, Profiling
from covey.federated.tasks import Memory, Request, Result, Task, Tasks
from covey.learning.node import LearningNode
from covey.parts.parameters import param


class Fleet(Tasks):
    """Clients ask node 0 for tasks. It steps by every k gradients that come, weighted by AdaSGD.

    A round of the server is a step, and one of a client a task.
    """

    kind = "fleet"
    lr: float = param("The server's learning rate.", default=0.05, gt=0)
    k: int = param("The gradients of a step, which are averaged.", default=1, ge=1, lt="nodes")
    profiler: Profiling = param("The choice of the size of a mini-batch.", factory=IProf)
    controller: Controller = param("The refusal of tasks.", factory=Controller)
    weights: AdaSGD = param("The weights of gradients.", factory=AdaSGD)

    def feature_names(self) -> Sequence[str]:
        return self.profiler.features()

    async def serve(self, node: LearningNode) -> None:
        memory = node.keep(Memory)
        profiler = self.profiler.begin(memory.profile)
        async for t in node.rounds():
            results: list[Result] = []
            while len(results) < self.k:
                inbox = await node.receive(tag=("request", "result"), count=1, timeout=self.patience)
                if not inbox:
                    break
                for request in self.requests(node, inbox):
                    self.give(node, memory, profiler, request, t)
                for result in self.results(node, inbox, t):
                    costs = self.profiler.costs(result.seconds, result.joules)
                    profiler.observe(self.described(result), result.samples, *costs)
                    results.append(result)
            if results:
                self.step(node, memory, results, t)
            memory.profile = profiler.dump()
        self.stop(node)

    def give(self, node: LearningNode, memory: Memory, profiler: Profiles, request: Request, t: int) -> None:
        """Give a client the model and the size of a mini-batch, or refuse its request."""
        samples, warning = profiler.predict(self.described(request), self.profiler.objective())
        like = float(similarity(request.label_counts, memory.history(self.classes).labels))
        refusal = self.controller.refusal(memory.requests(), samples, like)
        memory.asked(self.controller.add(memory.requests(), samples, like))
        node.record("tasks", client=int(request.sender), samples=samples, refusal=refusal, warning=warning)
        if refusal:
            node.send(request.sender, Task(number=request.number), tag="task")
        else:
            memory.given[request.sender], memory.ordered[request.sender] = t, samples
            model = self.selection.take(node.model)
            task = Task(number=request.number, version=t, samples=samples, model=model)
            node.send(request.sender, task, tag="task")

    def step(self, node: LearningNode, memory: Memory, results: Sequence[Result], t: int) -> None:
        """Make a step by gradients, and remember their staleness and labels."""
        history, staleness = memory.history(self.classes), [t - result.version for result in results]
        counts = np.stack([result.label_counts for result in results])
        weights = self.weights.weights(history, staleness, counts)
        memory.saw(self.weights.add(history, staleness, counts, weights))
        node.model = self.selection.put(node.model, self.stepped(node.model, results, weights, self.lr))
        node.log(staleness=sum(staleness) / len(staleness), weight=float(weights.mean()))
