"""Makes tests/backbone/goldens/rope_styles.json: config.json of Llama models in the older style (transformers 4: rope_theta, rope_scaling) and as
transformers 5.23.0 saves the same model, with the rotary frequencies and the factor of its attention.

Needs tests/requirements-oracle.txt. One entry: {name, old, new, inv_freq, attention_scaling}; the frequencies are those of sequences within
max_position_embeddings.
"""
import json
import pathlib

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

OUT = pathlib.Path(__file__).parent / "goldens/rope_styles.json"
BASE = dict(vocab_size=96, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
            rope_theta=1e4, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
MODELS = {
    "default": {},
    "theta": dict(rope_theta=5e5),
    "head_dim": dict(head_dim=20, attention_bias=True, mlp_bias=True),
    "linear": dict(rope_scaling=dict(rope_type="linear", factor=4.0)),
    "linear_type": dict(rope_scaling=dict(type="linear", factor=2.5), rope_theta=1e6),
    "dynamic": dict(rope_scaling=dict(rope_type="dynamic", factor=2.0)),
    "llama3": dict(rope_scaling=dict(rope_type="llama3", **llama3), rope_theta=5e5),
    "llama3_wide": dict(rope_scaling=dict(rope_type="llama3", **{**llama3, "factor": 32.0, "high_freq_factor": 2.0}), head_dim=32),
    "yarn": dict(rope_scaling=yarn),
    "yarn_betas": dict(rope_scaling=dict(**yarn, beta_fast=16.0, beta_slow=2.0), head_dim=32, rope_theta=1e6),
    "yarn_factor": dict(rope_scaling=dict(**yarn, attention_factor=0.8)),
    "yarn_mscale": dict(rope_scaling=dict(**yarn, mscale=0.7, mscale_all_dim=0.4)),
    "yarn_whole": dict(rope_scaling=dict(**yarn, truncate=False), head_dim=32),
    "yarn_no_original": dict(rope_scaling=dict(rope_type="yarn", factor=2.0)),
}


def main() -> None:
    out = []
    for name, change in MODELS.items():
        old = {"model_type": "llama", "hidden_act": "silu", **BASE, **change}
        config = LlamaConfig(**json.loads(json.dumps({**BASE, **change})))
        rotary = LlamaRotaryEmbedding(config)
        new = json.loads(config.to_json_string())
        assert "rope_parameters" in new and "rope_theta" not in new
        out.append({"name": name, "old": old, "new": new, "inv_freq": rotary.inv_freq.double().tolist(), "attention_scaling": float(rotary.attention_scaling)})
    OUT.write_text("[\n" + ",\n".join(json.dumps(one) for one in out) + "\n]\n")
    print(len(out), OUT.stat().st_size)


if __name__ == "__main__":
    main()
