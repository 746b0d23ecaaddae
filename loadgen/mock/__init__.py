"""A scripted server of streamed chats, with known times, known faults, and a log of what it sent. Knows no client.

with MockProcess(Script(ttft_s=Constant(0.2), itl_s=Exponential(0.05), slots=4)) as server:
    ...                            # send requests to server.url
print(server.truth[0].stamps_ns)   # just before each token's send, on time.perf_counter_ns
"""

from loadgen.mock.distribution import Distribution, Exponential, FixedTime, LogNormal, Normal, Uniform
from loadgen.mock.fault import Every, Fault, Positions, Share, parse_fault
from loadgen.mock.process import MockProcess
from loadgen.mock.script import Freeze, Script
from loadgen.mock.sockets import ServerStop, serve
from loadgen.mock.truth import Account, Truth

__all__ = [
    "Account",
    "Distribution",
    "Every",
    "Exponential",
    "Fault",
    "FixedTime",
    "Freeze",
    "LogNormal",
    "MockProcess",
    "Normal",
    "Positions",
    "Script",
    "ServerStop",
    "Share",
    "Truth",
    "Uniform",
    "parse_fault",
    "serve",
]
