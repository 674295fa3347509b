"""What `powertrain bench simulate` does: flags to scenarios, each simulated, their tables or JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import rich_click as click
from runtime.did_you_mean import did_you_mean
from runtime.errors import PowertrainError

from bench.errors import BenchError
from bench.in_process.engine_report import load_engine_report
from bench.in_process.engine_speed import parse_counts
from bench.report.results import load_report
from bench.report.tables import Table, report_console
from bench.simulate.against import MeasuredLoad, agreement, measured_load
from bench.simulate.builtin_times import BUILTIN
from bench.simulate.conversations import ConversationKind, Spread
from bench.simulate.fleet_simulation import simulate
from bench.simulate.policy import PolicyName
from bench.simulate.replica import EngineRules
from bench.simulate.scenario import HostRules, Loss, Scenario
from bench.simulate.step_times import StepTimes, step_times
from bench.simulate.summary import Outcome, SimulationReport, loss_table, outcome, outcome_table

EXIT_APART = 3
_MOST_REPLICAS = 100_000


class SimulateFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command as given; one field per option."""

    replicas: str
    policy: str
    slots: int
    max_model_len: int
    prefill_chunk_tokens: int
    hop_ms: float
    price_per_hour: float
    lose_at: float | None
    restart_after: float
    cores_per_host: int | None
    replicas_per_host: int
    cpu_ms_per_request: float
    cpu_ms_per_token: float
    cpu_idle_share: float
    front_ms_per_request: float
    front_ms_per_token: float
    users: int
    turns: float
    question_tokens: float
    answer_tokens: float
    think_s: float
    opening_tokens: int
    seconds: float
    warmup_share: float
    seed: int
    against: Path | None
    output_format: str | None


def run_simulate(files: Sequence[Path], flags: SimulateFlags) -> None:
    """Simulate and print. Ends the process with ``EXIT_APART`` when a measurement is too far from its simulation."""
    try:
        times = step_times([load_engine_report(file) for file in files]) if files else BUILTIN
        load = None if flags.against is None else measured_load(load_report(flags.against))
        report = _report(times, flags, load)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    tables, agrees = [outcome_table(report)], True
    if flags.lose_at is not None:
        tables.append(loss_table(report.outcomes))
    if load is not None:
        table, agrees = agreement(load, report.outcomes[0])
        tables.append(table)
    _print(report, tables, flags.output_format)
    if not agrees:
        sys.exit(EXIT_APART)


def _report(times: StepTimes, flags: SimulateFlags, load: MeasuredLoad | None) -> SimulationReport:
    counts = parse_counts(flags.replicas, "--replicas")
    policies = [_policy(word) for word in flags.policy.split(",")]
    if max(counts) > _MOST_REPLICAS:
        raise BenchError(f"--replicas {max(counts)} is above {_MOST_REPLICAS}")
    if flags.lose_at is not None and flags.lose_at >= flags.seconds:
        raise BenchError(f"--lose-at {flags.lose_at:g} is not before the end at {flags.seconds:g} s")
    if load is not None and (len(counts) > 1 or flags.lose_at is not None):
        raise BenchError("--against compares one fleet; give one number of --replicas and no --lose-at")
    if load is not None:
        policies = policies[:1]
    outcomes = [_outcome(times, flags, load, count, policy) for count in counts for policy in policies]
    settings = {
        name: value for name, value in msgspec.structs.asdict(flags).items() if isinstance(value, (int, float, str))
    }
    return SimulationReport(step_times=times.name, settings=settings, outcomes=outcomes)


def _outcome(
    times: StepTimes, flags: SimulateFlags, load: MeasuredLoad | None, replicas: int, policy: PolicyName
) -> Outcome:
    kind = ConversationKind(
        question=Spread(flags.question_tokens, 1.0),
        answer=Spread(flags.answer_tokens, 0.8),
        turns=flags.turns,
        think_s=flags.think_s,
        opening_tokens=flags.opening_tokens,
    )
    scenario = Scenario(
        times=times,
        kind=kind if load is None else load.kind,
        policy=policy,
        replicas=replicas,
        users=flags.users * replicas if load is None else load.users,
        seconds=flags.seconds if load is None else math.inf,
        warmup_s=flags.seconds * flags.warmup_share if load is None else 0.0,
        requests=None if load is None else load.requests,
        rules=EngineRules(slots=flags.slots, prefill_chunk_tokens=flags.prefill_chunk_tokens),
        max_model_len=flags.max_model_len,
        hop_s=flags.hop_ms / 1e3,
        host=_host_rules(times, flags),
        loss=None if flags.lose_at is None else Loss(at_s=flags.lose_at, restart_s=flags.restart_after),
        seed=flags.seed,
    )
    return outcome(scenario, simulate(scenario), flags.price_per_hour)


def _host_rules(times: StepTimes, flags: SimulateFlags) -> HostRules | None:
    """What is shared: cores, the front, or nothing."""
    cores, front = flags.cores_per_host, (flags.front_ms_per_request, flags.front_ms_per_token)
    if cores is None:
        given = {
            "--replicas-per-host": flags.replicas_per_host > 1,
            "--cpu-ms-per-request": flags.cpu_ms_per_request,
            "--cpu-ms-per-token": flags.cpu_ms_per_token,
            "--cpu-idle-share": flags.cpu_idle_share,
        }
        if named := [name for name, value in given.items() if value]:
            raise BenchError(f"{named[0]} shares the cores of a host; say with --cores-per-host how many it has")
        if not any(front):
            return None
    elif flags.cpu_idle_share >= cores:
        raise BenchError(f"--cpu-idle-share {flags.cpu_idle_share:g} leaves nothing of --cores-per-host {cores}")
    return HostRules(
        cores=math.inf if cores is None else cores,
        replicas=flags.replicas_per_host,
        threads=times.threads,
        request_s=flags.cpu_ms_per_request / 1e3,
        token_s=flags.cpu_ms_per_token / 1e3,
        idle_cores=flags.cpu_idle_share,
        front_request_s=front[0] / 1e3,
        front_token_s=front[1] / 1e3,
    )


def _policy(word: str) -> PolicyName:
    names = [policy.value for policy in PolicyName]
    if word not in names:
        raise BenchError(f"--policy {word!r} is none of {', '.join(names)}.{did_you_mean(word, names)}")
    return PolicyName(word)


def _print(report: SimulationReport, tables: list[Table], output_format: str | None) -> None:
    if output_format == "json":
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    elif output_format == "markdown":
        sys.stdout.write("\n".join(table.markdown() for table in tables))
    else:
        for table in tables:
            report_console().print(table.rich())
