"""The cluster in plain Python, obvious and slow, with decisions that take time: an oracle for the compiled events.

Every task of a stage takes the same time. A place is "common", ("job", j), ("stage", s) or None (moving); a promise is one
executor of a place to a stage, or to "common".
"""

from __future__ import annotations

import math
from collections import defaultdict

COMMON = "common"


class Cluster:
    """`jobs` are (arrival_ms, stages, edges), a stage (tasks, ms); stages are numbered through all jobs."""

    def __init__(self, jobs, executors, moving_ms):
        self.jobs, self.stages = [], []
        for arrival_ms, stages, edges in jobs:
            first = len(self.stages)
            self.jobs.append(
                {"arrival_ms": arrival_ms, "done_ms": math.nan, "stages": range(first, first + len(stages))}
            )
            for number, (tasks, ms) in enumerate(stages):
                parents = [first + i for i, j in edges if j == number]
                self.stages.append(
                    {"job": len(self.jobs) - 1, "ms": ms, "left": tasks, "unfinished": tasks, "parents": parents}
                )
        self.size, self.moving_ms = executors, moving_ms
        self.place, self.home, self.busy = [COMMON] * executors, [None] * executors, [False] * executors
        self.doing = [None] * executors  # the stage that an executor works on, or moves to
        self.promised = defaultdict(list)
        self.events, self.counter, self.arrived, self.now_ms, self.active_ms = [], 0, 0, 0.0, 0.0
        self.source, self.chosen, self.listed, self.queue, self.idling = None, set(), [], [], False
        self.waited, self.paid_ms, self.done = False, 0.0, False
        self.advance()

    # What can be seen.

    def active(self):
        return [j for j in range(self.arrived) if any(self.stages[s]["unfinished"] for s in self.jobs[j]["stages"])]

    def finished(self):
        return self.arrived == len(self.jobs) and not self.active()

    def demand(self, s):
        coming = sum(self.doing[e] == s and self.place[e] is None for e in range(self.size))
        return self.stages[s]["left"] - coming - sum(targets.count(s) for targets in self.promised.values())

    def job_of(self, place):
        return None if place in (None, COMMON) else place[1] if place[0] == "job" else self.stages[place[1]]["job"]

    def supply(self, j):
        here = sum(self.job_of(self.place[e]) == j for e in range(self.size))
        coming = sum(self.place[e] is None and self.stages[self.doing[e]]["job"] == j for e in range(self.size))
        return here + coming + sum(
            target != COMMON and self.stages[target]["job"] == j
            for place, targets in self.promised.items() if self.job_of(place) != j for target in targets
        )  # fmt: skip

    def ready(self, s):
        return all(self.stages[p]["unfinished"] == 0 for p in self.stages[s]["parents"])

    def schedulable(self, own, jobs=None):
        return [
            s for j in (self.active() if jobs is None else jobs) if j == own or self.supply(j) < self.size
            for s in self.jobs[j]["stages"]
            if s not in self.chosen and self.demand(s) > 0 and all(self.demand(p) <= 0 for p in self.stages[s]["parents"])
        ]  # fmt: skip

    def committable(self):
        return 0 if self.source is None else self.place.count(self.source) - len(self.promised[self.source])

    def rest(self, j):
        saturated = j is None or not any(self.stages[s]["left"] for s in self.jobs[j]["stages"])
        return COMMON if saturated else ("job", j)

    # What executors do.

    def begin(self, e, s):
        self.stages[s]["left"] -= 1
        self.place[e], self.doing[e], self.busy[e] = ("stage", s), s, True
        self.push(e, self.stages[s]["ms"])

    def push(self, e, ms):
        self.events.append((self.now_ms + ms, self.counter, e))
        self.counter += 1

    def send(self, e, s):
        if self.stages[s]["left"] == 0:
            own = [] if self.home[e] is None else self.schedulable(self.home[e], [self.home[e]])
            others = own or self.schedulable(self.home[e])
            if not others:
                self.place[e] = self.rest(self.home[e])
                return
            s = others[-1]
        job = self.stages[s]["job"]
        if self.home[e] != job:
            self.place[e], self.home[e], self.doing[e] = None, None, s
            self.push(e, self.moving_ms)
        elif not self.ready(s):
            self.place[e] = ("job", job)
        else:
            self.begin(e, s)

    def follow(self, e, which=0):
        place = self.place[e]
        target = self.promised[place].pop(which)
        if target == COMMON:
            self.place[e] = self.rest(self.job_of(place))
        else:
            self.send(e, target)

    # Events.

    def next_ms(self):
        arrival = self.jobs[self.arrived]["arrival_ms"] if self.arrived < len(self.jobs) else math.inf
        return min([arrival, *(time for time, _, _ in self.events)])

    def pass_until(self, time_ms):
        self.active_ms += len(self.active()) * (time_ms - self.now_ms)
        self.now_ms = time_ms

    def event(self):
        """The next event; returns the place whose executors become due by it, "arrival", or None."""
        time_ms = self.next_ms()
        self.pass_until(time_ms)
        if self.arrived < len(self.jobs) and self.jobs[self.arrived]["arrival_ms"] == time_ms:
            self.arrived += 1
            return "arrival"
        event = min(self.events)
        self.events.remove(event)
        e = event[2]
        s = self.doing[e]
        j = self.stages[s]["job"]
        if not self.busy[e]:  # it has moved
            self.home[e], self.place[e] = j, ("job", j)
            self.send(e, s)
            return None
        self.stages[s]["unfinished"] -= 1
        if self.stages[s]["left"]:
            self.begin(e, s)
            return "nothing"
        self.busy[e] = False
        own = self.jobs[j]["stages"]
        complete = self.stages[s]["unfinished"] == 0
        frontier = complete and any(s in self.stages[c]["parents"] and self.ready(c) for c in own)
        if all(self.stages[c]["unfinished"] == 0 for c in own):
            self.jobs[j]["done_ms"] = self.now_ms
            self.place = [COMMON if place == ("job", j) else place for place in self.place]
        promised = bool(self.promised[self.place[e]])
        if promised:
            self.follow(e)
        elif frontier:
            self.place[e] = self.rest(j)
        return ("job", j) if frontier else None if promised else ("stage", s)

    def advance(self):
        self.listed = []
        while not self.listed and not self.done:
            if self.next_ms() == math.inf:  # everything stands still
                self.idling = True
                for place in (COMMON, *(("job", j) for j in range(len(self.jobs)))):
                    if not self.listed and place in self.place:
                        self.source, self.listed = place, self.schedulable(self.job_of(place))
                self.done = not self.listed
                return
            due = self.event()
            if due == "nothing":
                continue
            if due == "arrival":
                due = COMMON if COMMON in self.place else None
            self.source = self.source if due is None else due
            self.open()
            self.done = self.finished()
            if self.done:
                self.listed = []

    def open(self):
        """List the stages for the executors of the source; without any, they go to rest."""
        if self.committable() <= 0:
            return
        self.listed = self.schedulable(self.job_of(self.source))
        if not self.listed:
            j, source, self.source = self.job_of(self.source), self.source, None
            if j is not None:
                for e in range(self.size):
                    if self.place[e] == source and not self.busy[e]:
                        self.place[e] = self.rest(j)

    # Decisions.

    def wait(self, ms):
        if ms <= 0 or self.done:
            return
        self.waited, until_ms = True, self.now_ms + ms
        self.depart()
        while not self.finished():
            if self.next_ms() >= until_ms:
                self.pass_until(until_ms)
                return
            due = self.event()
            if due == "nothing":
                continue
            due = COMMON if due == "arrival" else due
            if due is not None and due != self.source and due not in self.queue:
                self.queue.append(due)
            self.depart()

    def depart(self):
        for e in range(self.size):
            if self.place[e] == self.source and not self.busy[e]:
                for which, s in enumerate(self.promised[self.source]):
                    stays = self.source == ("job", self.stages[s]["job"]) if s != COMMON else False
                    if not (stays and self.stages[s]["left"] and not self.ready(s)):
                        self.follow(e, which)
                        break

    def standing_in(self, place):
        over = place is not None and place[0] == "job" and not math.isnan(self.jobs[place[1]]["done_ms"])
        return COMMON if over else place

    def promise(self, target, count):
        for _ in range(count):
            self.promised[self.source].append(target)

    def decide(self, index, count):
        """Returns (stage, executors) taken, or None, and the reward."""
        taken = self._take(index, count)
        reward = self.paid_ms - self.active_ms if taken[1] else 0.0
        if taken[1]:
            self.paid_ms = self.active_ms
        return taken[0], reward

    def _take(self, index, count):
        taken, waited, self.waited = None, self.waited, False
        if waited and self.finished():
            self.done, self.listed = True, []
            return None, True
        if waited:
            self.source = self.standing_in(self.source)
            count = min(count, self.committable())
        if index < 0 and self.idling:
            index, count = 0, self.committable()
        if index >= 0:
            s = self.listed[index]
            count = min(count, self.demand(s))
            if count > 0:
                taken = (s, count)
                self.chosen.add(s)
                self.promise(s, count)
            if self.committable() > 0:
                self.listed = self.schedulable(self.job_of(self.source))
                if self.listed:
                    return taken, waited
        self.promise(COMMON, max(0, self.committable()))
        source = self.source
        for e in range(self.size):
            if self.place[e] == source and not self.busy[e] and self.promised[source]:
                self.follow(e)
        self.source, self.idling, self.chosen, self.listed = None, False, set(), []
        while self.queue and not self.listed:
            self.source = self.standing_in(self.queue.pop(0))
            self.open()
        if not self.listed:
            self.source = None
            self.advance()
        return taken, True
