"""The breaker against a model of it, over any order of permits, reports and pauses."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from rlhf.models.circuit_breaker import CircuitBreaker

FAILURES, COOLDOWN = 3, 10.0


class BreakerMachine(RuleBasedStateMachine):
    """Attempts overlap as they like; a permit's report may come long after the state has changed."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = CircuitBreaker(FAILURES, COOLDOWN, clock=lambda: self.now)
        self.state = "closed"
        self.failures = 0
        self.opened_at = 0.0
        self.current: set[int] = set()
        """Numbers of the attempts that began in the present state."""
        self.attempts = 0

    def _become(self, state: str) -> None:
        self.state, self.failures = state, 0
        self.current.clear()

    @rule(target=permits)
    def ask(self) -> object:
        permit = self.breaker.permit()
        waited = self.now - self.opened_at >= COOLDOWN
        if self.state == "open" and waited:
            self._become("half-open")
            expected = True
        else:
            expected = self.state == "closed"
        assert (permit is not None) == expected
        if permit is None:
            return multiple()
        self.attempts += 1
        self.current.add(self.attempts)
        return (self.attempts, permit)

    @rule(attempt=consumes(permits))
    def succeed(self, attempt: tuple[int, int]) -> None:
        number, permit = attempt
        self.breaker.succeeded(permit)
        if number in self.current:
            self.failures = 0
            if self.state == "half-open":
                self._become("closed")

    @rule(attempt=consumes(permits))
    def fail(self, attempt: tuple[int, int]) -> None:
        number, permit = attempt
        self.breaker.failed(permit)
        if number in self.current:
            self.failures += 1
            if self.state == "half-open" or self.failures == FAILURES:
                self.opened_at = self.now
                self._become("open")

    @rule(seconds=st.sampled_from([0.5, COOLDOWN / 2, COOLDOWN]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_states_agree(self) -> None:
        assert self.breaker.state == self.state

    @invariant()
    def a_half_open_breaker_has_one_trial_under_way(self) -> None:
        if self.state == "half-open":
            assert len(self.current) <= 1


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_it_opens_at_the_nth_failure_in_a_row_and_closes_after_a_good_trial() -> None:
    now = 0.0
    breaker = CircuitBreaker(2, 5.0, clock=lambda: now)
    for report in (breaker.failed, breaker.succeeded, breaker.failed):
        permit = breaker.permit()
        assert permit is not None
        report(permit)
    assert breaker.state == "closed"
    permit = breaker.permit()
    assert permit is not None
    breaker.failed(permit)
    assert breaker.state == "open"
    assert breaker.permit() is None
    now = 5.0
    trial = breaker.permit()
    assert trial is not None
    assert breaker.permit() is None
    breaker.succeeded(trial)
    assert breaker.state == "closed"
