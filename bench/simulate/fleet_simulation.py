"""A scenario -> its counts, by the run that its machines ask for."""

from __future__ import annotations

from bench.simulate.fleet_run import Counts, FleetRun
from bench.simulate.scenario import Scenario
from bench.simulate.shared_fleet import SharedFleetRun


def simulate(scenario: Scenario) -> Counts:
    """Run a scenario to its end. The same scenario gives the same counts."""
    run = FleetRun(scenario) if scenario.host is None else SharedFleetRun(scenario, scenario.host)
    return run.run()
