"""The embedded model for Foundry Local: its arithmetic, and a cache that is whole or built again. On a tiny model."""

import ast
import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

import loadgen
from loadgen.errors import InputError, TargetError
from loadgen.store.paths import user_cache_folder
from loadgen.targets.foundry.model.build import SKELETON, build_model
from loadgen.targets.foundry.model.cache import FoundryCache, ensure_model, ignore_progress
from loadgen.targets.foundry.model.layout import CATALOG, Listing, is_listed, lay_out, list_in_catalog
from loadgen.targets.foundry.model.lock import hold_lock
from loadgen.targets.foundry.model.quantization import BLOCK, CLIPS, PIECE_BLOCKS, dequantize, pack, quantize, unpack
from loadgen.targets.foundry.model.weights import Weights, unpermute
from tests.e2e.tiny import HEADS, INNER, KV_HEADS, LAYERS, SPECIALS, WIDTH, make_tiny_model

CONTEXT_TOKENS, TOKENS = 4096, len(SPECIALS) + 256
HEAD = WIDTH // HEADS
MODEL = Path("Local") / "smollm2-135m-instruct-generic-cpu-1" / "v1"
LISTING = Listing(name="made-up", alias="mine", publisher="me", license="mit", license_text="MIT", max_output_tokens=64)


def matrices(blocks: int = 3) -> st.SearchStrategy[NDArray[np.float32]]:
    numbers = st.floats(-8, 8, width=32, allow_subnormal=False)
    return arrays.arrays(np.float32, (2, blocks * BLOCK), elements=numbers)


# Quantization


def plainly_lost(block: NDArray[np.float32], clip: np.float32) -> float:
    """What 16 steps over a share of the block's range lose, by the definition; in float32, where 7.5 is rounded to 7 or
    to 8 as it is there."""
    low, high = np.minimum(block.min(), np.float32(0)), np.maximum(block.max(), np.float32(0))
    scale = np.maximum((high - low) * clip / np.float32(15), np.float32(1e-8))
    zero_point = np.clip(np.rint(-low * clip / scale), 0, 15)
    chosen = np.clip(np.rint(block / scale) + zero_point, 0, 15)
    restored = ((chosen - zero_point) * scale).astype(np.float64)
    return float(((restored - block) ** 2).sum())


@pytest.mark.slow
@given(matrices())
def test_a_block_loses_no_more_than_with_any_one_of_the_clips(matrix: NDArray[np.float32]) -> None:
    lost = ((dequantize(quantize(matrix)).astype(np.float64) - matrix) ** 2).reshape(-1, BLOCK).sum(axis=1)
    for block, mine in zip(matrix.reshape(-1, BLOCK), lost, strict=True):
        width = max(0.0, block.max()) - min(0.0, block.min())
        rounding = 1e-5 * width**2 + 1e-12
        assert mine <= min(plainly_lost(block, clip) for clip in CLIPS) + rounding
        assert mine <= BLOCK * (width / 30) ** 2 + rounding  # half a step, of fifteen, for each number


@given(arrays.arrays(np.uint8, (2, BLOCK), elements=st.integers(0, 15)), st.integers(0, 15), st.integers(-20, 20))
def test_numbers_on_sixteen_even_steps_come_back_exactly(
    steps: NDArray[np.uint8], zero_point: int, exponent: int
) -> None:
    steps[:, 0], steps[:, 1] = 0, 15  # both ends are there, so the steps can be told from the range
    matrix = (steps.astype(np.float32) - np.float32(zero_point)) * np.float32(2.0**exponent)
    quantized = quantize(matrix)
    assert np.array_equal(dequantize(quantized), matrix)
    assert np.array_equal(unpack(quantized.numbers)[:, 0], steps)
    assert (unpack(quantized.zero_points)[:, 0] == zero_point).all()


def test_what_is_zero_stays_zero() -> None:
    matrix = np.zeros((1, 2 * BLOCK), np.float32)
    matrix[0, 7] = 3.0
    restored = dequantize(quantize(matrix))
    assert (restored[matrix == 0] == 0).all()
    assert restored[0, 7] > 2


def test_rows_do_not_depend_on_their_neighbors_nor_on_the_size_of_a_piece() -> None:
    matrix = np.random.default_rng(1).standard_normal((PIECE_BLOCKS + 9, BLOCK)).astype(np.float32)
    whole = quantize(matrix)
    top, bottom = quantize(matrix[:100]), quantize(matrix[100:])
    assert np.array_equal(whole.numbers, np.concatenate([top.numbers, bottom.numbers]))
    assert np.array_equal(whole.scales, np.concatenate([top.scales, bottom.scales]))
    assert np.array_equal(whole.zero_points, np.concatenate([top.zero_points, bottom.zero_points]))


def test_the_earlier_of_two_numbers_is_in_the_low_half_of_a_byte() -> None:
    assert pack(np.array([1, 2, 3], np.uint8)).tolist() == [0x21, 0x03]


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(0, 15)))
def test_packed_numbers_come_back(numbers: NDArray[np.uint8]) -> None:
    assert np.array_equal(unpack(pack(numbers))[:, : numbers.shape[1]], numbers)


def test_a_width_that_is_not_whole_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="33 columns"):
        quantize(np.zeros((1, 33), np.float32))


# Weights


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_unpermuting_undoes_the_order_that_gguf_gives_a_heads_rows(heads: int, pairs: int, inputs: int) -> None:
    straight = np.arange(heads * 2 * pairs * inputs, dtype=np.float32).reshape(-1, inputs)
    in_gguf = [
        head * 2 * pairs + half * pairs + pair for head in range(heads) for pair in range(pairs) for half in (0, 1)
    ]
    assert np.array_equal(unpermute(straight[in_gguf], heads), straight)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("weights") / "tiny.gguf")


def test_what_is_no_gguf_file_is_told_in_one_line(tmp_path: Path, gguf: Path) -> None:
    for name, content in {"text": b"no weights " * 9, "short": gguf.read_bytes()[:20_000], "empty": b""}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match="pip install --force-reinstall") as told:
            Weights(path)
        assert str(path) in str(told.value)
        assert "\n" not in str(told.value)


def test_a_missing_tensor_or_field_is_named(gguf: Path) -> None:
    weights = Weights(gguf)
    with pytest.raises(InputError, match=r"tensor blk\.7\.attn_q\.weight is missing"):
        weights.tensor("blk.7.attn_q.weight")
    with pytest.raises(InputError, match=r"field llama\.color is missing"):
        weights.field("llama.color")


def test_without_the_gguf_package_the_extra_to_install_is_named(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(TargetError, match=r"pip install 'loadgen\[foundry\]'"):
        Weights(gguf)


# The model folder


def tiny_manifest() -> list[list[object]]:
    """The slots of a graph for the tiny model, in the real skeleton's order of kinds."""
    slots: list[list[object]] = []

    def add(name: str, kind: str, *shape: int) -> None:
        end = 0 if not slots else int(str(slots[-1][3])) + int(str(slots[-1][4]))
        slots.append([name, kind, list(shape), end, int(np.prod(shape)) * (4 if kind == "FLOAT" else 1)])

    def add_matrix(name: str, rows: int, columns: int) -> None:
        blocks = columns // BLOCK
        add(f"{name}.MatMul.weight_scale", "FLOAT", rows, blocks)
        add(f"{name}.MatMul.weight_zp", "UINT8", rows, (blocks + 1) // 2)
        add(f"{name}.MatMul.weight_Q4G32", "UINT8", rows, blocks, BLOCK // 2)

    for wave in ("cos_cache", "sin_cache"):
        add(wave, "FLOAT", CONTEXT_TOKENS, HEAD // 2)
    for layer in range(LAYERS):
        add(f"model.layers.{layer}.input_layernorm.weight", "FLOAT", WIDTH)
        add(f"model.layers.{layer}.post_attention_layernorm.weight", "FLOAT", WIDTH)
        add_matrix(f"model.layers.{layer}.attn.qkv_proj", (HEADS + 2 * KV_HEADS) * HEAD, WIDTH)
        add_matrix(f"model.layers.{layer}.attn.o_proj", WIDTH, WIDTH)
        add_matrix(f"model.layers.{layer}.mlp.gate_proj", INNER, WIDTH)
        add_matrix(f"model.layers.{layer}.mlp.up_proj", INNER, WIDTH)
        add_matrix(f"model.layers.{layer}.mlp.down_proj", WIDTH, INNER)
    add(f"model.layers.{LAYERS}.final_norm_layernorm.weight", "FLOAT", WIDTH)
    add_matrix("lm_head", TOKENS, WIDTH)
    return slots


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skeleton")
    (folder / "manifest.json").write_text(json.dumps(tiny_manifest()), encoding="utf-8")
    (folder / "genai_config.json").write_text('{"model": {"context_length": 4096}}', encoding="utf-8")
    for name in ("model.onnx", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text(f"the tiny {name}", encoding="utf-8")
    return folder


def array_in(model: Path, slots: list[list[object]], name: str) -> NDArray[Any]:
    _, kind, shape, offset, length = next(slot for slot in slots if slot[0] == name)
    assert isinstance(shape, list)
    assert isinstance(offset, int)
    assert isinstance(length, int)
    data = (model / "model.onnx.data").read_bytes()[offset : offset + length]
    stored: NDArray[Any] = np.frombuffer(data, np.float32 if kind == "FLOAT" else np.uint8)
    return stored.reshape(shape)


def test_the_data_file_holds_each_array_where_the_graph_looks_for_it(
    tmp_path: Path, gguf: Path, skeleton: Path
) -> None:
    build_model(gguf, tmp_path / "model", ignore_progress, skeleton=skeleton)
    slots, weights = tiny_manifest(), Weights(gguf)
    expected = quantize(weights.tensor("blk.1.ffn_down.weight"))
    parts: dict[str, NDArray[Any]] = {
        "weight_scale": expected.scales,
        "weight_zp": expected.zero_points,
        "weight_Q4G32": expected.numbers,
    }
    for part, array in parts.items():
        stored = array_in(tmp_path / "model", slots, f"model.layers.1.mlp.down_proj.MatMul.{part}")
        assert np.array_equal(stored, array)
    queries = quantize(unpermute(weights.tensor("blk.0.attn_q.weight"), HEADS))
    keys = quantize(unpermute(weights.tensor("blk.0.attn_k.weight"), KV_HEADS))
    values = quantize(weights.tensor("blk.0.attn_v.weight"))
    stored = array_in(tmp_path / "model", slots, "model.layers.0.attn.qkv_proj.MatMul.weight_Q4G32")
    assert np.array_equal(stored, np.concatenate([queries.numbers, keys.numbers, values.numbers]))


def test_rotary_tables_turn_pair_i_by_position_over_base_to_the_two_i_over_width(
    tmp_path: Path, gguf: Path, skeleton: Path
) -> None:
    build_model(gguf, tmp_path / "model", ignore_progress, skeleton=skeleton)
    cosines = array_in(tmp_path / "model", tiny_manifest(), "cos_cache")
    sines = array_in(tmp_path / "model", tiny_manifest(), "sin_cache")
    angle = 1000 / 10_000.0 ** (2 * 3 / HEAD)
    assert cosines[1000, 3] == pytest.approx(np.cos(angle), abs=1e-6)
    assert sines[1000, 3] == pytest.approx(np.sin(angle), abs=1e-6)
    assert (cosines[0] == 1).all()
    assert (sines[0] == 0).all()


def test_a_token_has_its_place_as_its_id_and_only_control_tokens_are_special(
    tmp_path: Path, gguf: Path, skeleton: Path
) -> None:
    build_model(gguf, tmp_path / "model", ignore_progress, skeleton=skeleton)
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = Weights(gguf).field("tokenizer.ggml.tokens")
    assert [tokenizer["model"]["vocab"][token] for token in tokens] == list(range(TOKENS))
    assert tokenizer["model"]["merges"] == [["a", "b"]]
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert special == {"<|im_start|>": 1, "<|im_end|>": 2}


def test_weights_of_another_model_are_refused_with_what_does_not_fit(tmp_path: Path, gguf: Path) -> None:
    with pytest.raises(InputError, match=r"input_layernorm\.weight is \(64,\) where \(576,\) is needed"):
        build_model(gguf, tmp_path / "model", ignore_progress, skeleton=SKELETON)


def test_the_real_skeleton_leaves_no_gap_and_no_overlap() -> None:
    slots = json.loads((SKELETON / "manifest.json").read_text(encoding="utf-8"))
    end = 0
    for _, kind, shape, offset, length in slots:
        assert offset == end
        assert length == np.prod(shape) * {"FLOAT": 4, "UINT8": 1}[kind]
        end = offset + length
    assert len(slots) == 2 + 2 * 30 + 1 + 3 * (5 * 30 + 1)


# The layout


def a_model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "genai_config.json").write_text('{"model": {"context_length": 99}}', encoding="utf-8")
    (folder / "model.onnx").write_bytes(bytes(3 * 2**20))
    return folder


def test_a_model_is_moved_to_its_place_and_listed_with_what_its_folder_says(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    place = lay_out(a_model_folder(tmp_path / "model"), cache, LISTING)
    assert place == cache / "Local" / "made-up-1" / "v1"
    assert not (tmp_path / "model").exists()
    assert json.loads((place / "inference_model.json").read_bytes())["Name"] == "made-up:1"
    [entry] = json.loads((cache / CATALOG).read_bytes())["models"]
    assert (entry["id"], entry["alias"], entry["license"]) == ("made-up:1", "mine", "mit")
    assert entry["intProperties"] == {"context_length": 99, "filesize_mb": 3, "max_output_tokens": 64}
    assert entry["runtime"] == {"deviceType": "CPU", "executionProvider": "CPUExecutionProvider"}


def test_listing_again_leaves_other_models_listed_and_ours_once(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    lay_out(a_model_folder(tmp_path / "model"), cache, LISTING)
    catalog = json.loads((cache / CATALOG).read_bytes())
    stale = {**catalog["models"][0], "alias": "stale"}
    (cache / CATALOG).write_text(json.dumps({"models": [{"id": "other:3"}, stale]}), encoding="utf-8")
    assert not is_listed(cache, LISTING)
    list_in_catalog(cache, LISTING)
    assert is_listed(cache, LISTING)
    models = json.loads((cache / CATALOG).read_bytes())["models"]
    assert [model["id"] for model in models] == ["other:3", "made-up:1"]


@pytest.mark.parametrize("content", ["{", "[]", '{"models": 3}', '{"models": [null]}', "\x00"])
def test_a_catalog_that_makes_no_sense_is_written_anew(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache"
    lay_out(a_model_folder(tmp_path / "model"), cache, LISTING)
    (cache / CATALOG).write_text(content, encoding="utf-8")
    assert not is_listed(cache, LISTING)
    list_in_catalog(cache, LISTING)
    assert is_listed(cache, LISTING)


# The cache

Ensure = Callable[..., FoundryCache]


class Watcher:
    """Progress that remembers what was done."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def __call__(self, what: str, share: float) -> None:
        self.told.append((what, share))

    @property
    def builds(self) -> int:
        return [what for what, _ in self.told].count("reading the weights")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept here" / "foundry"


@pytest.fixture
def ensure(folder: Path, gguf: Path, skeleton: Path) -> Ensure:
    def call(progress: Callable[[str, float], None] = ignore_progress, **more: Path) -> FoundryCache:
        return ensure_model(progress, **{"folder": folder, "gguf": gguf, "skeleton": skeleton, **more})

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_model_is_built_where_it_is_absent_and_only_checked_afterwards(ensure: Ensure, folder: Path) -> None:
    first, second = Watcher(), Watcher()
    made = ensure(first)
    assert made.folder == folder
    assert (made.alias, made.model_id) == ("smollm2-135m", "smollm2-135m-instruct-generic-cpu:1")
    assert first.builds == 1
    assert ensure(second) == made
    assert second.told == []


def test_progress_goes_up_to_one(ensure: Ensure) -> None:
    watcher = Watcher()
    ensure(watcher)
    shares = [share for _, share in watcher.told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


def test_two_builds_are_equal_in_every_byte(ensure: Ensure, folder: Path, tmp_path: Path) -> None:
    first, second = ensure(), ensure(folder=tmp_path / "another")
    assert first.digest == second.digest
    assert contents(folder) == contents(tmp_path / "another")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("name", [MODEL / "model.onnx.data", MODEL / "inference_model.json", Path("loadgen.json")])
def test_what_is_damaged_is_built_again_to_the_same_digest(
    ensure: Ensure, folder: Path, damage: Callable[[Path], None], name: Path
) -> None:
    made, watcher = ensure(), Watcher()
    whole = contents(folder)
    damage(folder / name)
    assert ensure(watcher) == made
    assert watcher.builds == 1
    assert contents(folder) == whole
    assert sorted(path.name for path in folder.parent.iterdir()) == ["foundry", "foundry.lock"]


def test_other_weights_make_another_model(ensure: Ensure, gguf: Path, tmp_path: Path) -> None:
    made, watcher = ensure(), Watcher()
    content = bytearray(gguf.read_bytes())
    content[-1000] ^= 0x40
    other = tmp_path / "other.gguf"
    other.write_bytes(content)
    remade = ensure(watcher, gguf=other)
    assert watcher.builds == 1
    assert remade.digest != made.digest


def test_another_skeleton_makes_another_model(ensure: Ensure, skeleton: Path, tmp_path: Path) -> None:
    made, watcher = ensure(), Watcher()
    other = shutil.copytree(skeleton, tmp_path / "other")
    (other / "model.onnx").write_text("a better graph", encoding="utf-8")
    assert ensure(watcher, skeleton=other).digest != made.digest
    assert watcher.builds == 1


def test_an_older_builders_model_is_built_again(ensure: Ensure, folder: Path) -> None:
    made, watcher = ensure(), Watcher()
    seal = json.loads((folder / "loadgen.json").read_bytes())
    seal["sources"]["builder"] -= 1
    (folder / "loadgen.json").write_text(json.dumps(seal), encoding="utf-8")
    assert ensure(watcher) == made
    assert watcher.builds == 1


def test_a_catalog_that_the_runtime_fetched_is_mended_without_a_build(ensure: Ensure, folder: Path) -> None:
    made, watcher = ensure(), Watcher()
    (folder / CATALOG).write_text('{"models": [{"id": "fetched:1"}], "version": 1}', encoding="utf-8")
    assert ensure(watcher) == made
    assert watcher.builds == 0
    models = json.loads((folder / CATALOG).read_bytes())["models"]
    assert [model["id"] for model in models] == ["fetched:1", made.model_id]


def test_what_the_runtime_adds_is_no_damage(ensure: Ensure, folder: Path) -> None:
    made, watcher = ensure(), Watcher()
    (folder / "something.log").write_text("of the runtime's own", encoding="utf-8")
    assert ensure(watcher) == made
    assert watcher.told == []


def test_what_a_killed_build_left_is_swept_away(ensure: Ensure, folder: Path) -> None:
    left = folder.parent / "foundry.building-x"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    ensure()
    assert not left.exists()


def test_a_full_disk_is_one_line_and_leaves_the_folder_as_it_was(ensure: Ensure, folder: Path) -> None:
    ensure()
    flip_a_bit(folder / MODEL / "model.onnx.data")
    before = contents(folder)

    def full(what: str, share: float) -> None:
        if share > 0.5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(TargetError, match="free 200 MiB, or set LOADGEN_CACHE_DIR") as told:
        ensure(full)
    assert os.strerror(errno.ENOSPC) in str(told.value)
    assert contents(folder) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["foundry", "foundry.lock"]


def test_a_place_that_cannot_be_written_is_one_line(ensure: Ensure, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TargetError, match="set LOADGEN_CACHE_DIR to a folder that can be written") as told:
        ensure(folder=tmp_path / "file" / "foundry")
    assert str(tmp_path / "file") in str(told.value)


def test_weights_that_are_not_there_are_named(ensure: Ensure, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.gguf: cannot be read"):
        ensure(gguf=tmp_path / "none.gguf")


def test_of_two_at_once_one_builds_and_both_have_it(ensure: Ensure) -> None:
    watchers, together = [Watcher(), Watcher()], threading.Barrier(2)

    def call(watcher: Watcher) -> FoundryCache:
        together.wait(timeout=30)
        return ensure(watcher)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(call, watchers)
    assert first == second
    assert sum(watcher.builds for watcher in watchers) == 1


def test_who_comes_second_says_so_and_waits_until_the_first_is_done(ensure: Ensure, folder: Path) -> None:
    waits = threading.Event()
    watcher = Watcher()

    def progress(what: str, share: float) -> None:
        watcher(what, share)
        waits.set()

    folder.parent.mkdir()
    with ThreadPoolExecutor(1) as threads:
        with hold_lock(folder.with_name("foundry.lock"), lambda: pytest.fail("the lock was free")) as taken:
            assert taken
            second = threads.submit(ensure, progress)
            assert waits.wait(timeout=30)
            assert watcher.told == [("waiting for another process that builds it", 0.0)]
        second.result(timeout=30)
    assert watcher.builds == 1


def test_without_locks_a_whole_model_that_came_first_stays(ensure: Ensure, folder: Path, tmp_path: Path) -> None:
    elsewhere = ensure(folder=tmp_path / "elsewhere")

    def another_is_faster(what: str, share: float) -> None:
        if what == "checking":
            shutil.copytree(elsewhere.folder, folder)
            (folder / "theirs").write_bytes(b"")

    assert ensure(another_is_faster).digest == elsewhere.digest
    assert (folder / "theirs").exists()


# Where it is kept


def test_the_environment_says_where_caches_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "mine"))
    assert user_cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("LOADGEN_CACHE_DIR", "")
    assert user_cache_folder().name == "loadgen"


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="XDG is for Linux and its like")
def test_a_relative_xdg_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LOADGEN_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache_folder() == tmp_path / "xdg" / "loadgen"
    for stated in ("", "relative/place"):
        monkeypatch.setenv("XDG_CACHE_HOME", stated)
        assert user_cache_folder() == tmp_path / ".cache" / "loadgen"


def test_the_builder_knows_nothing_of_ours_but_errors_and_where_the_weights_are() -> None:
    package = Path(loadgen.__file__).parent
    ours = {
        node.module
        for path in (package / "targets/foundry/model").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("loadgen")
    }
    assert {name for name in ours if not name.startswith("loadgen.targets.foundry.model.")} == {
        "loadgen.errors",
        "loadgen.store.paths",
        "loadgen.targets.small_model",
    }
