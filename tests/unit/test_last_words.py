"""Why a server of ours failed: found in what llama.cpp, C++ and Python write, one line of it."""

import pytest

from loadgen.child import crash_reason, describe_exit, problem_of

CUT_OFF = """\
0.00.034.896 E llama_model_load: error loading model: tensor 'blk.16.ffn_down.weight' data is not within the file bounds
0.00.034.949 E llama_model_load_from_file_impl: failed to load model
0.00.055.931 E cmn  common_init_: failed to load model 't50m.gguf'
"""
NO_GGUF = """\
0.00.006.039 E gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'
0.00.006.239 E llama_model_load: error loading model: llama_model_loader: failed to load model from junk.gguf
"""
NO_MEMORY = """\
0.06.462.259 E ggml_aligned_malloc: insufficient memory (attempted to allocate 1757812.50 MB)
0.06.630.235 E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
"""
NO_MEMORY_LATER = """\
0.00.100.000 E common_fit_params: encountered an error while trying to fit params
0.06.630.235 E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
"""
NO_THREAD = """\
terminate called after throwing an instance of 'std::system_error'
  what():  Resource temporarily unavailable
"""
NO_PORT = """\
0.00.004.524 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 18999
0.00.004.925 E srv          init: exiting due to HTTP server error
"""
TRACEBACK = """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
OverflowError: value too large to convert to int32_t
"""


@pytest.mark.parametrize(
    ("log", "reason", "problem"),
    [
        (CUT_OFF, "tensor 'blk.16.ffn_down.weight' data is not within the file bounds", "load_failed"),
        (NO_GGUF, "invalid magic characters: 'hell', expected 'GGUF'", "load_failed"),
        (NO_MEMORY, "insufficient memory (attempted to allocate 1757812.50 MB)", "out_of_memory"),
        (NO_MEMORY_LATER, "failed to allocate buffer for kv cache", "out_of_memory"),
        (NO_THREAD, "Resource temporarily unavailable", "out_of_memory"),
        (NO_PORT, "couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 18999", "port"),
        (TRACEBACK, "OverflowError: value too large to convert to int32_t", "load_failed"),
        ("MemoryError\n", "MemoryError", "out_of_memory"),
        ("a note\nanother\n", None, "runtime"),
        ("", None, "runtime"),
    ],
)
def test_the_line_that_says_why_is_found(log: str, reason: str | None, problem: str) -> None:
    assert crash_reason(log) == reason
    assert problem_of(reason) == problem


def test_a_reason_is_bounded() -> None:
    assert len(crash_reason(f"0.0 E a: {'x' * 5000}") or "") == 300


def test_how_a_process_ended_is_its_code_or_its_signal() -> None:
    assert [describe_exit(code) for code in (0, 3, -9, -200)] == [
        "exit code 0",
        "exit code 3",
        "ended by SIGKILL",
        "ended by signal 200",
    ]
