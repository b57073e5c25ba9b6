"""A Vision Transformer (Dosovitskiy et al., 2021) in one file: copy it, change it."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Every token looks at every token, in several ways at a time: the heads."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x):  # [B, T, D]: B images, T tokens, D numbers each
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5  # [B, heads, T, T]
        mixed = scores.softmax(dim=3) @ v  # every row of weights sums to 1
        return self.project(mixed.transpose(1, 2).flatten(2))  # [B, T, D]


class Block(nn.Module):
    """Attention mixes the tokens, then a small network works on each of them alone."""

    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        layers = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        self.mlp = nn.Sequential(*layers)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))  # Eq. 2
        return x + self.mlp(self.norm2(x))  # Eq. 3


class ViT(nn.Module):
    """From images to one score per class."""

    def __init__(self, image_size, patch_size, classes, dim, depth, heads):
        super().__init__()
        self.patch_size = patch_size
        patches = (image_size // patch_size) ** 2
        self.embed = nn.Linear(3 * patch_size**2, dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, 1 + patches, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, 2 * dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images):  # [B, 3, H, W]
        patches = F.unfold(images, self.patch_size, stride=self.patch_size)
        x = self.embed(patches.transpose(1, 2))  # [B, N, D]: a sequence now
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        x = x + self.position  # Eq. 1
        x = self.blocks(x)  # Eq. 2 and 3, depth times
        return self.head(self.norm(x[:, 0]))  # Eq. 4: the class token answers


def train(model, images, labels, steps, batch_size=64, learning_rate=3e-3):
    """Fit a model to images [n, 3, H, W] and labels [n]; returns every step's loss."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch_size,), device=images.device)
        batch = images[chosen]
        if torch.rand(()) < 0.5:
            batch = batch.flip(3)  # a mirrored image shows the same thing
        loss = F.cross_entropy(model(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
