"""The study's network in PyTorch: a pre-activation CIFAR ResNet with DoReFa quantization, with the names of its state_dict.

Written for the tests from its description: the first convolution, the shortcuts and the linear layer stay real; weights are
quantized per tensor and scaled back by their largest tanh (1 bit: mean magnitude times sign), activations on [0, 1].
"""
import torch
from torch import nn
from torch.nn import functional


def rounded(x, bits):
    levels = 2.0 ** bits - 1
    return torch.sign(x) if bits == 1 else torch.round(x * levels) / levels


def quantized_weight(w, bits):
    if bits == 32:
        return w
    if bits == 1:
        mean = w.abs().mean()
        return rounded(w / mean, 1) * mean
    t = torch.tanh(w)
    largest = t.abs().max()
    return largest * (2 * rounded(t / 2 / largest + 0.5, bits) - 1)


def quantized_activation(x, bits):
    return x if bits == 32 else rounded(torch.clamp(x, 0, 1), bits)


class QuantizedConvolution(nn.Conv2d):
    def __init__(self, bits, inputs, outputs, stride):
        super().__init__(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bits = bits

    def forward(self, x):
        return functional.conv2d(x, quantized_weight(self.weight, self.bits), None, self.stride, self.padding)


class Block(nn.Module):
    def __init__(self, bits, inputs, outputs, stride):
        super().__init__()
        weights, self.bits = bits
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = QuantizedConvolution(weights, inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = QuantizedConvolution(weights, outputs, outputs, 1)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x):
        y = quantized_activation(functional.relu(self.bn1(x)), self.bits)
        residual = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        y = quantized_activation(functional.relu(self.bn2(y)), self.bits)
        return self.conv2(y) + residual


class ReferenceNetwork(nn.Module):
    """depth is 6 n + 2; bits are those of weights and activations."""

    def __init__(self, depth, bits, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        inputs, blocks = 16, (depth - 2) // 6
        for stage, outputs in enumerate((16, 32, 64), start=1):
            row = []
            for i in range(blocks):
                row.append(Block(bits, inputs, outputs, 2 if stage > 1 and i == 0 else 1))
                inputs = outputs
            self.add_module(f"layer{stage}", nn.Sequential(*row))
        self.bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = functional.avg_pool2d(functional.relu(self.bn(x)), 8, stride=1)
        return self.fc(x.flatten(1))
