"""What each client of a key used, for the metrics page. Labels are the names that the operator gave keys, no others."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.clients.client import Clients, Reason


class ClientFamilies(Collector):
    """Counts of every client that the server has had a key of since its start."""

    def __init__(self, model_name: str, clients: Clients) -> None:
        self._model_name = model_name
        self._clients = clients

    def collect(self) -> Iterator[Metric]:
        """The families at the moment of the scrape."""
        labels = ["model_name", "client"]
        requests = CounterMetricFamily(
            "powertrain_client_requests", "Requests that ended, but those refused by a limit.", labels=labels
        )
        tokens = CounterMetricFamily(
            "powertrain_client_tokens", "Tokens of prompts and of answers.", labels=[*labels, "kind"]
        )
        refused = CounterMetricFamily(
            "powertrain_client_refused", "Requests beyond the client's limits.", labels=[*labels, "reason"]
        )
        running = GaugeMetricFamily("powertrain_client_requests_running", "Requests now.", labels=labels)
        for client in self._clients:
            of_client = [self._model_name, client.name]
            requests.add_metric(of_client, client.num_requests)
            tokens.add_metric([*of_client, "prompt"], client.num_prompt_tokens)
            tokens.add_metric([*of_client, "completion"], client.num_generated_tokens)
            for reason in Reason:
                refused.add_metric([*of_client, reason.value], client.refused[reason])
            running.add_metric(of_client, client.num_running)
        yield from (requests, tokens, refused, running)
