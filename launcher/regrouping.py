"""Going on with fewer hosts: the plan for those that are healthy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from launcher import resizing
from mux.event import Event, HostDropped, Resized
from mux.plan import Cluster, Host, Plan
from mux.recipe import Problem, Refusal
from mux.run import RunDirectory

Replan = Callable[[Cluster], Plan]  # raises Refusal where the recipe does not fit


class TooFewHosts(Refusal):
    """For now: more may come back."""


@dataclass(frozen=True)
class Regrouped:
    plan: Plan
    events: tuple[Event, ...]  # what has changed; none: all is as it was


def regroup(run: RunDirectory | None, plan: Plan, problems: dict[str, tuple[str, ...]], replan: Replan) -> Regrouped:
    """The plan without the hosts that have problems; spare ones may take their place. `run`: whose checkpoints it must
    be able to go on from, if there are any. Raises TooFewHosts, or Refusal if it fits no others."""
    lost = [host for host in plan.cluster.hosts if problems.get(host.name)]
    if not lost:
        return Regrouped(plan, ())
    everyone = plan.cluster.everyone
    healthy = [host for host in everyone if not problems.get(host.name)]
    least = plan.recipe["cluster"]["min_hosts"] or len(everyone)
    if len(healthy) < least:
        raise TooFewHosts(Problem(f"{len(healthy)} of {len(everyone)} hosts are well, {least} are needed: "
                                  + "; ".join(f"{host.name}: {problems[host.name][0]}" for host in everyone
                                              if host not in healthy), "cluster.min_hosts"))
    made = largest(plan.cluster, healthy, replan)
    if run is not None and (reasons := resizing.refusals(run, made)):
        raise Refusal([Problem(f"cannot go on on {made.stage(stage).devices} devices: {reason}", f"stages.{stage}")
                       for stage, reason in reasons.items()])
    return Regrouped(made, tuple(_told(plan, made, lost, healthy, problems)))


def largest(cluster: Cluster, healthy: Sequence[Host], replan: Replan) -> Plan:
    """The plan on the most whole hosts, in the hostfile's order, on which the recipe fits. Raises the Refusal of
    all of them if it fits on none."""
    first: Refusal | None = None
    for count in range(len(healthy), 0, -1):
        taken = tuple(healthy[:count])
        spare = tuple(host for host in cluster.everyone if host not in taken)
        try:
            return replan(cluster.model_copy(update={"hosts": taken, "spare": spare}))
        except Refusal as refusal:
            first = first or refusal
    raise first or Refusal(Problem("no host is left"))


def _told(plan: Plan, made: Plan, lost: Sequence[Host], healthy: Sequence[Host],
          problems: dict[str, tuple[str, ...]]) -> Iterator[Event]:
    for host in lost:
        yield HostDropped(name=host.name, reason="; ".join(problems[host.name]))
    taken = [host.name for host in made.cluster.hosts]
    yield Resized(hosts=taken, idle=[host.name for host in healthy if host.name not in taken],
                  devices=made.cluster.devices, before=plan.cluster.devices)
