"""What a connection that is read past aiohttp may do when: the table, and a handler that follows it."""

import asyncio
from collections.abc import Iterator

import pytest

from loadgen.wire.direct_response import TRANSITIONS, ConnectionEvent, DirectHandler, IllegalTransition, State
from loadgen.wire.receiver import Receiver
from loadgen.wire.stamps import ReadStamps

PAIRS = [(state, event) for state in State for event in ConnectionEvent]
ILLEGAL = [(state, event) for state, event in PAIRS if event not in TRANSITIONS[state]]


@pytest.fixture
def handler() -> Iterator[DirectHandler]:
    loop = asyncio.new_event_loop()
    receiver = Receiver(loop)
    yield DirectHandler(loop, receiver)
    receiver.close()
    loop.close()


def test_every_state_is_reached_and_each_can_be_closed() -> None:
    reached = {following for events in TRANSITIONS.values() for following in events.values()}
    assert reached == set(State) == set(TRANSITIONS)
    assert {TRANSITIONS[state][ConnectionEvent.CLOSE] for state in State} == {State.CLOSED}


def test_only_an_answer_that_is_due_to_us_can_fall_back_or_end() -> None:
    assert {state for state in State if ConnectionEvent.FALL_BACK in TRANSITIONS[state]} == {
        State.HEAD,
        State.BODY,
    }
    assert [state for state in State if ConnectionEvent.END_OF_BODY in TRANSITIONS[state]] == [State.BODY]
    assert {state for state in State if ConnectionEvent.EXPECT in TRANSITIONS[state]} == {
        State.AIOHTTP,
        State.IDLE,
    }


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda each: each.name)
def test_an_event_leads_where_the_table_says_or_is_a_bug_of_ours(
    handler: DirectHandler, state: State, event: ConnectionEvent
) -> None:
    handler._state = state
    if (state, event) in ILLEGAL:
        with pytest.raises(IllegalTransition, match=f"in state {state.name} cannot take {event.name}"):
            handler._move(event)
        assert handler._state is state
    else:
        handler._move(event)
        assert handler._state is TRANSITIONS[state][event]


@pytest.mark.parametrize("state", [State.HEAD, State.BODY], ids=lambda each: each.name)
def test_a_second_request_on_a_connection_whose_answer_is_due_is_refused(handler: DirectHandler, state: State) -> None:
    handler._state = state
    with pytest.raises(IllegalTransition):
        handler.expect(ReadStamps(), lambda _: None)
    with pytest.raises(IllegalTransition):
        handler.set_response_params()


def test_bytes_of_a_body_that_come_past_the_receiver_are_a_bug_of_ours(handler: DirectHandler) -> None:
    handler._state = State.BODY
    with pytest.raises(IllegalTransition, match="cannot take STRAY_BYTES"):
        handler.data_received(b"data: {}")


def test_what_ends_between_two_answers_falls_back_to_nobody(handler: DirectHandler) -> None:
    for state in (State.AIOHTTP, State.IDLE, State.CLOSED):
        handler._state = state
        handler._fall_back_to_aiohttp()
        assert handler._state is state
