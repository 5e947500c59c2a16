"""What the cells of a sweep take over from each other's adapters: PEFT's modules, never a number."""

from collections.abc import Iterable, Sequence

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from llama_exp.config.schema import LoraConfig
from llama_exp.model.lora import (
    attach_lora,
    causal_lm,
    detach_lora,
    draw_first_weights,
    lora_layers,
    new_adapter,
    scale,
    target_names,
)


class SpareAdapter:
    """The modules of the last adapter, for the next one with the same settings: PEFT takes 0.4 s to make those of a 7B.

    spare.draw_ahead(base, lora, seed)                       # by the thread that loads the base, while others read data
    model = spare.attach(base, lora, seed, recompute)        # as attach_lora
    spare.detach(model)
    """

    def __init__(self) -> None:
        self._lora: LoraConfig | None = None
        self._model: nn.Module | None = None
        self._layers: list[tuple[nn.Module, str, LoraLayer]] = []
        self._drawn: tuple[tuple, list[torch.Tensor]] | None = None

    def draw_ahead(self, base: nn.Module, lora: LoraConfig, seed: int) -> None:
        """Draw the numbers that the adapter attached next begins with: 0.1 s of a 7B."""
        names = target_names(lora)
        linears = [module for name, module in base.named_modules() if name.rpartition(".")[2] in names]
        shapes = [(lora.r, linear.in_features) for linear in linears]
        self._drawn = (shapes, seed), list(draw_first_weights(shapes, seed))

    def attach(self, base: nn.Module, lora: LoraConfig, seed: int, recompute: bool = False) -> nn.Module:
        return attach_lora(base, lora, seed, recompute, self._make, self._draw)

    def detach(self, model: nn.Module) -> None:
        """Take the adapter off, and give back its memory at once: Lightning holds it in reference cycles until Python
        collects its garbage. The model cannot be used afterwards."""
        detach_lora(model)
        for _, _, layer in self._layers if model is self._model else ():
            for parameter in (*layer.lora_A.parameters(), *layer.lora_B.parameters()):
                parameter.grad, parameter.data = None, parameter.data.new_empty(0)

    def _make(self, base: nn.Module, lora: LoraConfig) -> nn.Module:
        known = self._model is not None and causal_lm(self._model) is base and lora == self._lora
        if not known or not all(_is_as_made(layer, lora) for _, _, layer in self._layers):
            self._lora, self._model, self._layers = lora, new_adapter(base, lora), lora_layers(base)
            return self._model
        for parent, name, layer in self._layers:
            setattr(parent, name, layer)
        base.peft_config = self._model.base_model.peft_config
        return self._model

    def _draw(self, shapes: Sequence[tuple[int, int]], seed: int) -> Iterable[torch.Tensor]:
        drawn, self._drawn = self._drawn, None
        return drawn[1] if drawn and drawn[0] == (shapes, seed) else draw_first_weights(shapes, seed)


def _is_as_made(layer: LoraLayer, lora: LoraConfig) -> bool:
    """Whether nobody (a user's callback) has changed how this layer computes."""
    return (
        list(layer.lora_A) == layer.active_adapters == ["default"]
        and not layer.disable_adapters
        and not layer.merged
        and layer.scaling["default"] == scale(lora)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
    )
