"""Writes a GGUF of a Llama shape with random bf16 weights, for llama-bench: make_gguf.py CONFIG.json OUT.gguf"""
import json
import sys

import gguf
import numpy as np

config = json.load(open(sys.argv[1]))
D, F, L = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
H, K, N, V = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"], config["vocab_size"]

writer = gguf.GGUFWriter(sys.argv[2], "llama")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(D)
writer.add_block_count(L)
writer.add_feed_forward_length(F)
writer.add_head_count(H)
writer.add_head_count_kv(K)
writer.add_key_length(N)
writer.add_value_length(N)
writer.add_rope_dimension_count(N)
writer.add_rope_freq_base(config["rope_theta"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_vocab_size(V)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
# A vocabulary of byte pieces and numbers: llama-bench needs one, what it says does not matter.
tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)]
tokens += [f"t{i}".encode() for i in range(V - len(tokens))]
kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
kinds += [gguf.TokenType.NORMAL] * (V - len(kinds))
writer.add_tokenizer_model("llama")
writer.add_token_list(tokens)
writer.add_token_scores([0.0] * V)
writer.add_token_types(kinds)
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)

random = np.random.default_rng(0)
drawn = (random.standard_normal(1 << 24, dtype=np.float32) * 0.02)
drawn = ((drawn.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)  # bf16


def matrix(name: str, rows: int, columns: int) -> None:
    start = random.integers(0, 1 << 20)
    values = np.resize(drawn[start:], rows * columns).reshape(rows, columns)
    writer.add_tensor(name, values.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def norm(name: str) -> None:
    writer.add_tensor(name, np.ones(D, dtype=np.float32))


matrix("token_embd.weight", V, D)
norm("output_norm.weight")
matrix("output.weight", V, D)
for i in range(L):
    norm(f"blk.{i}.attn_norm.weight")
    matrix(f"blk.{i}.attn_q.weight", H * N, D)
    matrix(f"blk.{i}.attn_k.weight", K * N, D)
    matrix(f"blk.{i}.attn_v.weight", K * N, D)
    matrix(f"blk.{i}.attn_output.weight", D, H * N)
    norm(f"blk.{i}.ffn_norm.weight")
    matrix(f"blk.{i}.ffn_gate.weight", F, D)
    matrix(f"blk.{i}.ffn_up.weight", F, D)
    matrix(f"blk.{i}.ffn_down.weight", D, F)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file(progress=True)
writer.close()
