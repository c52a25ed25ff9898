"""What a user does, once it is its turn: ask, wait, ask again, try again, leave.

A unit is what a user comes for: one request, or a session of several turns over one and the same connection. Who comes
when is the load's business (closed_loop, open_loop); a user keeps its slot until the unit is over.

A later turn quotes the answer before it, so it is made when that answer has been decoded, within the time that the user
thinks. Its due time counts from the answer's last byte: what the client needs in between is lateness, not thinking.
"""

import datetime
import email.utils
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

from loadgen import board as b
from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.distribution import CANCEL_WHEN, CANCEL_WHO, RETRY, THINK, TURNS, uniform
from loadgen.plan import Route, Traceparent, UsersPlan
from loadgen.schema import trace_number
from loadgen.worker.counting import OutputCounter
from loadgen.worker.exchange import Exchange
from loadgen.worker.pacer import Due, Pacer
from loadgen.worker.pools import Pools
from loadgen.worker.requests import STAGE_SHIFT, RequestMaker
from loadgen.worker.routing import Router
from loadgen.worker.script import Scripted
from loadgen.worker.transport import Transport

REFUSALS: Final = (429, 503)
"""The statuses that ask to come again later."""

RETRY_IN_BODY: Final = re.compile(rb'"retry_after"\s*:\s*"?([0-9]{1,9})\b')
"""Databricks says it in the body: {"error": {"retry_after": 15}}."""

# Where the server does not say when to come again: 1 s, doubled with each refusal, spread by a half to either side.
FIRST_WAIT_NS: Final = NS_PER_S
MOST_DOUBLINGS: Final = 6

MOST_WAIT_NS: Final = 24 * 3600 * NS_PER_S


class User:
    """One unit on its way."""

    __slots__ = (
        "answers",
        "asked",
        "connection",
        "history",
        "intended_ns",
        "leaving",
        "number",
        "refused",
        "retries",
        "route",
        "scripted",
        "slot",
        "turn",
        "turns",
    )

    def __init__(
        self, slot: int, number: int, turns: int, scripted: Scripted | None, route: Route, connection: int
    ) -> None:
        self.slot = slot  # of a closed loop
        self.route = route
        self.connection = connection
        self.scripted = scripted  # None: its requests are the pool's
        self.number = number  # of the unit, in the stage
        self.turns = turns
        self.turn = 0
        self.intended_ns: int | None = None  # of this turn; a retry keeps it
        self.retries = 0
        self.refused: Exchange | None = None  # the attempt before, while its next one is waited for
        self.history: list[tuple[str, str]] = []  # (what was said, what was answered), a turn each
        self.answers: list[str] = []  # of a scripted unit, which knows what was said
        self.asked = b""  # the request of this turn
        self.leaving: Due | None = None


def traced(request: bytes, traceparent: Traceparent, request_id: int) -> bytes:
    """The request with a traceparent header behind its first line: some 1 us, and two copies of the body."""
    number = trace_number(request_id)
    at, run_id = request.index(b"\r\n") + 2, traceparent.run_id
    return b"%btraceparent: 00-%b%016x-%016x-01\r\n%b" % (request[:at], run_id, number, number, request[at:])


class Users:
    """The users of one stage on one worker."""

    def __init__(
        self,
        plan: UsersPlan,
        stage: int,
        *,
        transport: Transport,
        makers: Sequence[RequestMaker],
        router: Router,
        pools: Pools,
        pacer: Pacer,
        record: Callable[[Exchange], None],
        board: b.Board,
        seat: int,
        has_schedule: bool,
        counter: OutputCounter | None = None,
    ) -> None:
        self._plan = plan
        self._traceparent = plan.traceparent
        self._counter = counter
        self._stage = stage
        self._transport = transport
        self._makers = makers
        self._router = router
        self._pools = pools
        self._pacer = pacer
        self._record = record
        self._numbers = board.numbers
        self._sent_at = board.at(seat, b.SENT)
        self._in_flight_at = board.at(seat, b.IN_FLIGHT)
        self._has_schedule = has_schedule
        self._waiting: dict[User, Due] = {}  # between two turns, or two attempts
        self._turns_ended = self._stopped = False
        self.on_over: Callable[[User, str | None], None] = lambda _user, _error: None
        """Called with (user, error) when a unit is over."""
        self.active = 0  # units
        self.in_flight = 0  # requests
        self.sent = 0
        self.retried = 0

    # asking

    def begin(self, slot: int, number: int, intended_ns: int | None = None, scripted: Scripted | None = None) -> None:
        """A user begins unit `number` on this slot, now; `intended_ns` is when it was due, None without a schedule.

        There is a connection for it (Pools.has_room).
        """
        plan = self._plan
        if scripted is not None:
            route = self._router.route(scripted.target, scripted.session)
            user = User(slot, number, len(scripted.requests), scripted, route, self._pools.take(route.origin))
            user.asked = scripted.request(route.head, self._makers[route.target], 0)
        else:
            route = self._router.route(self._router.target(self._id(number)))
            turns = plan.turns.draw(uniform(plan.seed, TURNS, self._id(number))) if plan.turns is not None else 1
            connection = self._pools.take(route.origin)
            user = User(slot, number, min(turns, plan.most_turns), None, route, connection)
            user.asked = self._makers[route.target].request(route.head, self._request_id(user))
        user.intended_ns = intended_ns
        self.active += 1
        self._ask(user)

    def _id(self, number: int) -> int:
        return (self._stage << STAGE_SHIFT) + number

    def _request_id(self, user: User) -> int:
        return self._id(user.number * self._plan.most_turns + user.turn)

    def _ask(self, user: User) -> None:
        now_ns = monotonic_ns()
        request_id = self._request_id(user)
        asked = user.asked if self._traceparent is None else traced(user.asked, self._traceparent, request_id)
        exchange = Exchange(request_id, self._stage, user.connection, asked, now_ns)
        exchange.user = user
        exchange.target, exchange.endpoint = user.route.target, user.route.endpoint
        exchange.intended_ns = user.intended_ns
        exchange.retries = user.retries
        scripted = user.scripted
        if scripted is not None:
            exchange.wanted_input_tokens, exchange.wanted_output_tokens, _, _ = scripted.requests[user.turn]
        else:
            maker = self._makers[exchange.target]
            exchange.wanted_output_tokens = maker.wanted_output_tokens
            if not user.turn:
                exchange.wanted_input_tokens = maker.wanted_input_tokens
        if self._plan.has_sessions:
            exchange.session_id, exchange.turn = self._id(user.number), user.turn
            if self._plan.real_history and user.turn + 1 < user.turns:
                exchange.texts = []
        elif scripted is not None and scripted.session is not None:
            exchange.session_id, exchange.turn = scripted.session, scripted.turn
        if self._counter is not None and self._counter.is_wanted(exchange.target):
            exchange.texts = []
        if self._plan.cancel_after is not None:
            self._may_leave(user, exchange, now_ns)
        self.in_flight += 1
        self._numbers[self._in_flight_at] = self.in_flight
        self._router.in_flight[user.route.endpoint] += 1
        if not user.retries:
            self.sent += 1
            self._numbers[self._sent_at] = self.sent
        self._transport.submit(exchange)

    def _may_leave(self, user: User, exchange: Exchange, now_ns: int) -> None:
        plan = self._plan
        assert plan.cancel_after is not None
        if uniform(plan.seed, CANCEL_WHO, exchange.request_id) >= plan.cancel_share:
            return
        patience = plan.cancel_after.draw(uniform(plan.seed, CANCEL_WHEN, exchange.request_id))
        if plan.cancel_after.unit == "count":
            exchange.leave_tokens = patience
            exchange.event_lines = self._makers[exchange.target].event_lines
        else:
            user.leaving = self._pacer.at(now_ns + patience, self._leave, exchange)

    def _leave(self, exchange: Exchange) -> None:
        if not exchange.ended:
            waited_s = (monotonic_ns() - exchange.due_ns) / NS_PER_S
            self._transport.abort(exchange, "cancelled", f"left after {waited_s:.3f} s")

    # being answered

    def ended(self, exchange: Exchange) -> None:
        """A response has ended, or failed: what it said is decoded later."""
        user = exchange.user
        assert user is not None
        self.in_flight -= 1
        self._numbers[self._in_flight_at] = self.in_flight
        self._router.in_flight[user.route.endpoint] -= 1
        if user.leaving is not None:
            self._pacer.cancel(user.leaving)
            user.leaving = None
        has_left = exchange.error == "cancelled"
        if exchange.status in REFUSALS and user.retries < self._plan.retries and not has_left and not self._stopped:
            exchange.superseded = True
            user.refused = exchange
            self._waiting[user] = self._pacer.at(monotonic_ns() + self._wait_ns(exchange), self._try_again, user)
            return
        if user.turn + 1 == user.turns:
            self._over(user, exchange.error)

    def decoded(self, exchange: Exchange) -> None:
        """An exchange has been decoded, and stands in the capture: the user may have more to ask."""
        user = exchange.user
        assert user is not None
        if user.turn + 1 == user.turns:
            return
        if exchange.error is not None or self._turns_ended:
            self._over(user, exchange.error)
            return
        if user.scripted is None:
            maker = self._makers[exchange.target]
            said = maker.answer(exchange.request_id) if exchange.texts is None else "".join(exchange.texts)
            user.history.append((maker.prompt(exchange.request_id), said))
        else:
            user.answers.append("".join(exchange.texts or ()))
        due_ns = (exchange.last_byte_ns or exchange.ended_ns) + self.thinking_ns(user)
        user.turn += 1
        user.retries = 0
        user.intended_ns = due_ns if self._has_schedule else None
        if user.scripted is None:
            user.asked = self._makers[exchange.target].turn(user.route.head, self._request_id(user), user.history)
        else:
            user.asked = user.scripted.request(user.route.head, self._makers[exchange.target], user.turn, user.answers)
        self._waiting[user] = self._pacer.at(due_ns, self._go_on, user)

    def thinking_ns(self, user: User) -> int:
        """How long the user thinks behind the request that has just ended."""
        plan = self._plan
        return plan.think.draw(uniform(plan.seed, THINK, self._request_id(user))) if plan.think is not None else 0

    def _go_on(self, user: User) -> None:
        del self._waiting[user]
        self._ask(user)

    def _try_again(self, user: User) -> None:
        user.refused = None
        user.retries += 1
        self.retried += 1
        self._go_on(user)

    def _wait_ns(self, exchange: Exchange) -> int:
        """Until the next attempt: as the server says, else longer each time."""
        said = exchange.retry_after
        if not said and (found := RETRY_IN_BODY.search(exchange.body())) is not None:
            said = found[1].decode()
        asked_ns = retry_after_ns(said, time.time())
        if asked_ns is not None:
            return asked_ns
        doubled_ns = FIRST_WAIT_NS << min(exchange.retries, MOST_DOUBLINGS)
        spread = uniform(self._plan.seed, RETRY, exchange.request_id + (exchange.retries << 48))
        return round(doubled_ns * (0.5 + spread))

    # the end

    def _over(self, user: User, error: str | None) -> None:
        self.active -= 1
        self._pools.give_back(user.connection)
        self.on_over(user, error)

    def end_turns(self) -> None:
        """No more turns: sessions end where they are. What is in flight goes on, and so do further attempts."""
        self._turns_ended = True
        for user, due in list(self._waiting.items()):
            if user.refused is None:
                self._give_up(user, due)

    def stop(self) -> None:
        """Send no more; what is in flight goes on."""
        self._turns_ended = self._stopped = True
        for user, due in list(self._waiting.items()):
            self._give_up(user, due)

    def _give_up(self, user: User, due: Due) -> None:
        self._pacer.cancel(due)
        del self._waiting[user]
        error = None
        if (refused := user.refused) is not None:  # then the refusal was the answer
            user.refused = None
            user.turns = user.turn + 1  # and if it is not decoded yet, nothing follows when it is
            refused.superseded = False
            error = refused.error
            if refused.decoded:
                self._record(refused)
        self._over(user, error)


def retry_after_ns(header: str, now_s: float) -> int | None:
    """How long a Retry-After header (RFC 9110, 10.2.3: seconds, or a date) asks to wait; None if it says nothing."""
    if header.isascii() and header.isdigit():
        return min(int(header[:12]) * NS_PER_S, MOST_WAIT_NS)
    try:
        when = email.utils.parsedate_to_datetime(header)
        # One of the forms of old has no zone; it is UTC like the others.
        wait_s = (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp() - now_s
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(math.ceil(wait_s * NS_PER_S), 0), MOST_WAIT_NS)
