"""Goldens of the adapters: LLaVA's and Voxtral's projectors of transformers, and a plain torch oracle of pool + layer_norm + output rms.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0). Run: python make_goldens.py
Writes goldens/adapters.safetensors: CASE.x (feature rows of all items), CASE.y (tokens), CASE.<tensor of the adapter>.
"""
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlavaConfig, VoxtralConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.voxtral.modeling_voxtral import VoxtralMultiModalProjector

E, D = 24, 40  # feature width, backbone width


def randomise(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        parameter.data = 0.3 * torch.randn_like(parameter) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)


def llava(out: dict) -> None:
    config = LlavaConfig(vision_config={"model_type": "clip_vision_model", "hidden_size": E, "num_attention_heads": 4}, text_config={"model_type": "llama", "hidden_size": D, "num_attention_heads": 4})
    projector = LlavaMultiModalProjector(config).eval()
    randomise(projector)
    x = torch.randn(2, 9, E)
    out["llava.x"] = x.reshape(-1, E)
    out["llava.y"] = projector(x).reshape(-1, D)
    out.update({f"llava.{k}": v for k, v in projector.state_dict().items()})


def voxtral(out: dict) -> None:
    config = VoxtralConfig(audio_config={"hidden_size": E, "num_attention_heads": 4, "intermediate_size": 4 * E}, text_config={"model_type": "llama", "hidden_size": D, "num_attention_heads": 4}, projector_hidden_act="gelu")
    projector = VoxtralMultiModalProjector(config).eval()
    randomise(projector)
    x = torch.randn(2, 12, E)
    out["voxtral.x"] = x.reshape(-1, E)
    out["voxtral.y"] = projector(x.reshape(-1, 4 * E))
    out.update({f"voxtral.{k}": v for k, v in projector.state_dict().items()})


class PoolOracle(nn.Module):
    def __init__(self, hidden: int, grid: tuple) -> None:
        super().__init__()
        self.grid = grid
        self.layer_norm = nn.LayerNorm(E)
        self.linear_1, self.linear_2 = nn.Linear(E, hidden), nn.Linear(hidden, D)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x_FEHW: torch.Tensor) -> torch.Tensor:
        x = self.layer_norm(x_FEHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = nn.functional.adaptive_avg_pool2d(x, self.grid).permute(0, 2, 3, 1).reshape(-1, E)
        y = self.linear_2(nn.functional.gelu(self.linear_1(x)))
        return self.gain * y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)


def pool(out: dict) -> None:
    """Two items: three frames of 4 x 6, one picture of 2 x 3 behind a class token; pooled to 2 x 3."""
    oracle = PoolOracle(20, (2, 3)).eval()
    randomise(oracle)
    frames, picture, token = torch.randn(3, E, 4, 6), torch.randn(1, E, 2, 3), torch.randn(1, E)
    rows = [t.permute(0, 2, 3, 1).reshape(-1, E) for t in (frames, picture)]
    out["pool.x"] = torch.cat([rows[0], token, rows[1]])
    out["pool.y"] = torch.cat([oracle(frames), oracle(picture)])
    out.update({f"pool.{k}": v for k, v in oracle.state_dict().items()})


if __name__ == "__main__":
    torch.manual_seed(0)
    tensors: dict = {}
    with torch.no_grad():
        llava(tensors)
        voxtral(tensors)
        pool(tensors)
    path = Path(__file__).parent / "goldens/adapters.safetensors"
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
    print(f"{path}: {path.stat().st_size} bytes, {len(tensors)} tensors")
