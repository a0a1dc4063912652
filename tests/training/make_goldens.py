#!/usr/bin/env python3
"""Goldens of the optimisers: ten steps of torch.optim.AdamW and of Muon on drawn tensors.

Needs tests/requirements-oracle.txt (torch 2.11.0, safetensors). Muon is written here from its
description (https://kellerjordan.github.io/posts/muon, update rule of github.com/KellerJordan/Muon)
in float32 on single matrices, without the batching of the code under test.
Usage: make_goldens.py   (writes goldens/ beside this file)
"""
import pathlib

import torch
from safetensors.torch import save_file

STEPS = 10
HERE = pathlib.Path(__file__).parent / "goldens"


def draw(generator, shape):
    return torch.randn(shape, generator=generator)


def adamw():
    g = torch.Generator().manual_seed(11)
    out = {}
    shapes = {"w": (7, 5), "b": (13,), "c": (3, 2, 4)}
    params = {n: torch.nn.Parameter(draw(g, s)) for n, s in shapes.items()}
    for n, p in params.items():
        out[f"start.{n}"] = p.detach().clone()
    optimiser = torch.optim.AdamW(params.values(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for t in range(STEPS):
        for n, p in params.items():
            p.grad = draw(g, p.shape) * 10.0 ** (t % 3 - 1)
            out[f"grad{t}.{n}"] = p.grad.clone()
        optimiser.step()
        for n, p in params.items():
            out[f"after{t}.{n}"] = p.detach().clone()
    save_file(out, HERE / "adamw.safetensors")


def orthogonal(update, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.T if update.shape[0] > update.shape[1] else update
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if update.shape[0] > update.shape[1] else x


def muon():
    g = torch.Generator().manual_seed(12)
    lr, beta, decay = 0.02, 0.95, 0.05
    shapes = {"wide": (4, 9), "tall": (12, 5), "tall2": (12, 5), "square": (6, 6)}
    params = {n: draw(g, s) for n, s in shapes.items()}
    momentum = {n: torch.zeros(s) for n, s in shapes.items()}
    out = {f"start.{n}": p.clone() for n, p in params.items()}
    for t in range(STEPS):
        for n, p in params.items():
            grad = draw(g, p.shape)
            out[f"grad{t}.{n}"] = grad.clone()
            momentum[n] = beta * momentum[n] + (1 - beta) * grad
            update = (1 - beta) * grad + beta * momentum[n]
            update = orthogonal(update) * max(1, p.shape[0] / p.shape[1]) ** 0.5
            params[n] = p * (1 - lr * decay) - lr * update
            out[f"after{t}.{n}"] = params[n].clone()
    save_file(out, HERE / "muon.safetensors")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    adamw()
    muon()
