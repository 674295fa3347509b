"""A server's own metrics: what is read of a page, and the series that samples become."""

from __future__ import annotations

import pytest

from bench.metrics.server_metrics import Sample, sample_from_page, series_from_samples

OURS = """# HELP num_requests_running Choices being generated.
# TYPE num_requests_running gauge
num_requests_running{model_name="m"} 3.0
num_requests_running{model_name="other"} 40.0
num_requests_waiting{model_name="m"} 2.0
gpu_cache_usage_perc{model_name="m"} 0.25
engine_steps_total{model_name="m"} 100.0
engine_run_seconds_total{model_name="m"} 2.0
nv_gpu_utilization{gpu_uuid="a",model_name="m"} 0.5
nv_gpu_utilization{gpu_uuid="b",model_name="m"} 1.0
nv_gpu_memory_used_bytes{gpu_uuid="a",model_name="m"} 3e9
nv_gpu_memory_total_bytes{gpu_uuid="a",model_name="m"} 4e9
process_open_fds 1
"""


def test_a_page_is_read_for_the_model_that_is_asked() -> None:
    sample = sample_from_page(OURS, "m")
    assert sample == {
        "num_requests_running": 3.0, "num_requests_waiting": 2.0, "gpu_cache_usage_perc": 0.25,
        "engine_steps_total": 100.0, "engine_run_seconds_total": 2.0, "nv_gpu_utilization": 0.75,
        "nv_gpu_memory_used_bytes": 3e9, "nv_gpu_memory_total_bytes": 4e9,
    }  # fmt: skip
    # Asked by a name that no series has (an alias, an adapter): the whole server's.
    assert sample_from_page(OURS, "alias")["num_requests_running"] == 43.0


def test_only_lines_that_are_read_are_parsed() -> None:
    page = 'garbage{"} x\nnum_requests_running 1\nnum_requests_waiting NaN\ngpu_cache_usage_perc 0.'
    assert sample_from_page(page, "m") == {"num_requests_running": 1.0}  # the last line was cut off
    assert sample_from_page("<html></html>\n", "m") == {}
    with pytest.raises(ValueError, match="could not convert"):
        sample_from_page("num_requests_running many\n", "m")


def series(*samples: Sample, zero_ns: int = 0) -> dict[str, list[float | None]]:
    timed = [(round(at * 1e9), sample) for at, sample in enumerate(samples)]
    return series_from_samples(timed, zero_ns, path="/metrics").values


def test_gauges_are_scaled_and_counters_become_means_between_samples() -> None:
    first = sample_from_page(OURS, "m")
    second = {**first, "engine_steps_total": 150.0, "engine_run_seconds_total": 2.5, "num_requests_running": 0.0}
    restarted = {**second, "engine_steps_total": 1.0, "engine_run_seconds_total": 0.1}
    assert series(first, second, second, restarted) == {
        "running": [3.0, 0.0, 0.0, 0.0],
        "waiting": [2.0] * 4,
        "cache_use": [25.0] * 4,
        "step_time": [None, 10.0, None, None],  # 0.5 s / 50 steps; no step; counters that began again
        "gpu_use": [75.0] * 4,
        "gpu_memory": [75.0] * 4,
    }


def test_vllm_is_read_by_its_own_names() -> None:
    label = '{engine="0",model_name="m"}'

    def page(count: int) -> str:
        lines = (
            f"vllm:num_requests_running{label} 5", f"vllm:num_requests_waiting{label} 7",
            f"vllm:kv_cache_usage_perc{label} 0.5", f"vllm:prefix_cache_queries_total{label} {100 * count}",
            f"vllm:prefix_cache_hits_total{label} {25 * count}",
            f"vllm:inter_token_latency_seconds_sum{label} {0.5 * count}",
            f"vllm:inter_token_latency_seconds_count{label} {50 * count}",
            f'vllm:inter_token_latency_seconds_bucket{{engine="0",le="0.01",model_name="m"}} {count}',
        )  # fmt: skip
        return "\n".join((*lines, ""))

    assert series(*(sample_from_page(page(count), "m") for count in (1, 2))) == {
        "running": [5.0, 5.0], "waiting": [7.0, 7.0], "cache_use": [50.0, 50.0],
        "prefix_hits": [None, 25.0], "token_gap": [None, 10.0],
    }  # fmt: skip


def test_the_warm_up_is_left_out_but_for_the_last_sample_of_it() -> None:
    samples = [(at * 1_000_000, {"num_requests_running": float(at)}) for at in (0, 10, 20, 30)]
    told = series_from_samples(samples, 15_000_000, path="/metrics", num_failed=1, problem="late")
    assert (told.at_ms, told.values) == ([-5.0, 5.0, 15.0], {"running": [10.0, 20.0, 30.0]})
    assert (told.path, told.num_failed, told.problem) == ("/metrics", 1, "late")
    assert series_from_samples([], 0, path="").at_ms == []
