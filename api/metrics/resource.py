"""GET /metrics: one answer for the whole server, whichever api process is asked, in Prometheus' text format.

A broker that has just started does not know what all api processes have counted: a smaller sum would look to Prometheus
like counters that began anew, so that answer is a 503.
"""

from collections.abc import Iterable

from falcon.asgi import Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.generation.broker_client import BrokerClient
from api.http.side_thread import in_side_thread
from api.metrics.counters import Counters
from api.metrics.stack_families import stack_families
from shared.errors import BrokerLost
from shared.protocol import StatusReport

ASK_WITHIN = 2.0  # seconds


class Metrics:
    def __init__(self, broker: BrokerClient, settling: float) -> None:
        """``settling``: seconds of a broker's life in which it hears from every api process."""
        self._broker = broker
        self._settling = settling

    async def on_get(self, req: Request, resp: Response) -> None:
        report = await self._broker.status(ASK_WITHIN, figures=True)
        if report.uptime < self._settling:
            raise BrokerLost("The broker has just started and does not know all counts yet.", retry_after=1)
        resp.content_type = CONTENT_TYPE_PLAIN_0_0_4
        resp.data = await in_side_thread(exposition, self._broker.counters, report)


def exposition(counters: Counters, report: StatusReport) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered([*counters.families(report.figures), *stack_families(report)]))
    return generate_latest(registry)


class _Gathered(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
