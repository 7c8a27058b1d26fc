"""The limits of API keys, and what each key has used: pure, and one for all api processes.

Rule 1: a key's requests are HTTP requests: the prompts of one list count as one, and are let in together.
Rule 2: the token budget is paid afterwards. Tokens are charged when they are known, so a request may overdraw it; new
    ones are refused until time has paid the debt back.
Rule 3: a request that comes again (``attempt`` above 1) is never refused here and never counted anew.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from shared.callers import asker_of
from shared.errors import KeyLimitReached
from shared.key_terms import KeyTerms, Spent
from shared.protocol import Ack, Cancel, Done, KeyUsage, SubmitHeader

MINUTE = 60.0  # seconds


@dataclass(slots=True)
class _Account:
    """``used``: tokens that time has not paid back at ``at``; above the budget they are owed.

    ``pays``: how many come back in a minute: the budget, or where there is none now, the last one.
    """

    terms: KeyTerms
    at: float
    used: float = 0.0
    pays: int = 0
    groups: dict[str, set[str]] = field(default_factory=dict)  # request ids by group, none of them empty
    requests: int = 0
    refused: int = 0
    refused_group: str = ""  # the last one: its other prompts are the same request
    spent: Spent = field(default_factory=Spent)

    def agree(self, terms: KeyTerms, now: float) -> None:
        """The terms may have changed since the last request."""
        self._pay_back(now)
        self.terms = terms
        self.pays = terms.tokens_per_minute or self.pays

    def charge(self, spent: Spent, now: float) -> None:
        self._pay_back(now)
        if self.terms.tokens_per_minute:
            self.used += spent.prompt + spent.out
        before = self.spent
        self.spent = Spent(
            prompt=before.prompt + spent.prompt,
            cached=before.cached + spent.cached,
            out=before.out + spent.out,
        )

    def _pay_back(self, now: float) -> None:
        self.used = max(0.0, self.used - self.pays * (now - self.at) / MINUTE)
        self.at = now

    def over(self, now: float) -> float:
        """Tokens used beyond the budget; zero or less: none."""
        self._pay_back(now)
        return self.used - self.terms.tokens_per_minute if self.terms.tokens_per_minute else 0.0


@dataclass(frozen=True, slots=True)
class _Open:
    """A request that was let in ``at`` and has not ended."""

    api: str
    account: _Account
    group: str
    at: float


class KeyLimits:
    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}  # by the key's name
        self._open: dict[str, _Open] = {}  # by request id

    def objection(self, submit: SubmitHeader, now: float, retry_after: int) -> KeyLimitReached | None:
        """``retry_after``: when a place may be free, in seconds, if the key has all that it may have."""
        if submit.key is None or submit.attempt > 1:
            return None
        account = self._account(submit.key, now)
        if _group_of(submit) in account.groups:
            return None
        return _refusal(account, now, retry_after)

    def note_refusal(self, submit: SubmitHeader, now: float) -> None:
        if submit.key is None:
            return
        account, group = self._account(submit.key, now), _group_of(submit)
        if group != account.refused_group:
            account.refused += 1
            account.refused_group = group

    def let_in(self, api: str, submit: SubmitHeader, now: float) -> None:
        if submit.key is None or submit.request_id in self._open:
            return
        account, group = self._account(submit.key, now), _group_of(submit)
        if group not in account.groups and submit.attempt == 1:
            account.requests += 1
        account.groups.setdefault(group, set()).add(submit.request_id)
        self._open[submit.request_id] = _Open(api, account, group, now)

    def hear(self, message: Ack | Done | Cancel, now: float) -> None:
        """Charges what was spent; a Done or a Cancel ends the request."""
        if message.spent and (found := self._open.get(message.request_id)):
            found.account.charge(message.spent, now)
        if not isinstance(message, Ack):
            self.end(message.request_id)

    def end(self, request_id: str) -> None:
        if found := self._open.pop(request_id, None):
            groups = found.account.groups
            groups[found.group].discard(request_id)
            if not groups[found.group]:
                del groups[found.group]

    def end_all_of(self, api: str) -> None:
        for request_id in [id for id, found in self._open.items() if found.api == api]:
            self.end(request_id)

    def expire(self, on_record: Callable[[], Collection[str]], before: float) -> None:
        """Ends those let in ``before`` that the broker has nowhere any more: their api gave them up unheard."""
        if old := [id for id, found in self._open.items() if found.at < before]:
            known = on_record()
            for request_id in old:
                if request_id not in known:
                    self.end(request_id)

    def report(self, now: float) -> list[KeyUsage]:
        return [
            KeyUsage(
                name=name,
                open=len(account.groups),
                requests=account.requests,
                refused=account.refused,
                prompt=account.spent.prompt,
                cached=account.spent.cached,
                out=account.spent.out,
                owed=math.ceil(max(0.0, account.over(now))),
            )
            for name, account in sorted(self._accounts.items())
        ]

    def _account(self, terms: KeyTerms, now: float) -> _Account:
        account = self._accounts.get(terms.name)
        if account is None:
            account = self._accounts[terms.name] = _Account(terms, now)
        account.agree(terms, now)
        return account


def _refusal(account: _Account, now: float, retry_after: int) -> KeyLimitReached | None:
    terms, held = account.terms, len(account.groups)
    if terms.concurrency and held >= terms.concurrency:
        return KeyLimitReached(
            f"The key {terms.name!r} may have {terms.concurrency} requests at a time and has {held}.",
            retry_after=retry_after,
        )
    if terms.tokens_per_minute and (over := account.over(now)) >= 0:
        seconds = math.floor(over * MINUTE / terms.tokens_per_minute) + 1
        return KeyLimitReached(
            f"The key {terms.name!r} may use {terms.tokens_per_minute} tokens a minute and has used more.",
            retry_after=seconds,
        )
    return None


def _group_of(submit: SubmitHeader) -> str:
    return asker_of(submit.caller, submit.group, submit.request_id).group
