"""The filter behind the thinking for a derived call format; like ``CallFilter`` from outside."""

from shared.protocol import CallPiece
from workers.output.call_reader import CallReader, Read
from workers.output.tool_calls import CallFilter, Found, ToolPolicy, call_id


class DerivedCallFilter:
    """``key`` names the choice of the request: the calls' ids are made of it, so a resumed choice has the same."""

    def __init__(self, policy: ToolPolicy, key: str) -> None:
        assert policy.format.format is not None
        tools = [tool for tool in policy.tools if (tool.get("function") or {}).get("name") in policy.names]
        self._reader = CallReader(policy.format.format, tools)
        self._parallel = policy.parallel
        self._key = key
        self._calls = 0

    @property
    def called(self) -> bool:
        return self._calls > 0

    @property
    def inside(self) -> bool:
        return self._reader.inside

    @property
    def satisfied(self) -> bool:
        """No call may follow the one that came."""
        return self.called and not self._parallel

    def push(self, text: str) -> Found:
        return Found() if self.satisfied else self._found(self._reader.push(text))

    def flush(self, *, closed: bool) -> Found:
        return Found() if self.satisfied else self._found(self._reader.flush())

    def _found(self, read: Read) -> Found:
        found = Found(read.text)
        for name, arguments in read.calls:
            if self.satisfied:
                break
            id = call_id(self._key, self._calls)
            found.calls.append(CallPiece(index=self._calls, id=id, name=name, arguments=arguments))
            self._calls += 1
        return found


def call_filter(policy: ToolPolicy, key: str) -> CallFilter | DerivedCallFilter:
    return CallFilter(policy, key) if policy.format.format is None else DerivedCallFilter(policy, key)
