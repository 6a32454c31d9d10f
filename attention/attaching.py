"""Put an attention variant into a transformers model, and read it back from a checkpoint.

One attention function and one mask function are registered with transformers
under the name ``trueint8``. The variant is a module inside each attention layer,
so its parameters are saved with the others; its name and hyper-parameters live
in the model's configuration. No modelling code is copied.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from attention.architecture import CHANGES_KEY, change_architecture
from attention.variant import Layer, Variant
from attention.variants import VARIANTS
from trueint8.errors import ConfigError

IMPLEMENTATION = "trueint8"
CONFIG_KEY = "attention_variant"
_CHILD = "variant"
_CHANGES_SCORES = ("position_bias", "s_aux", "softcap")
_NO_INTERFACE_FIX = (
    "use a family that does, such as BERT, RoBERTa, DistilBERT, OPT, GPT-2, Llama, Qwen2 or ViT"
)


def attach(model: Any, variant: str, **parameters: Any) -> Any:
    """Make every attention layer of ``model`` use ``variant``.

    Args:
        model: A transformers model whose attention goes through its attention interface.
        variant: A name in ``attention/variants``.
        **parameters: Passed to the variant, such as ``gamma=-0.03`` or ``pi_init=0.5``.

    Returns:
        The same model. Parameters of the variant are new and untrained.

    Raises:
        UnknownName: If there is no such variant.
        ConfigError: If the variant has no such parameter or refuses its value,
            or the model's attention cannot be replaced.
    """
    check_variant(variant, **parameters)
    modules = attention_modules(model)
    if not modules:
        raise ConfigError(
            f"{type(model).__name__} does not go through transformers' attention interface",
            fix=_NO_INTERFACE_FIX,
        )
    made: list[Variant] = []
    for index, (_, module) in enumerate(modules):
        made.append(VARIANTS.load(variant)(_layer(model.config, module, index), **parameters))
        module.add_module(_CHILD, made[-1].to(device=model.device, dtype=model.dtype))
        _pass_layer_input(module, wanted=made[-1].reads_layer_input)
    model.set_attn_implementation(IMPLEMENTATION)
    recorded = made[0].recorded() if made else {}
    setattr(model.config, CONFIG_KEY, {"name": variant, **parameters, **recorded})
    return model


def convert(model: Any, variant: str, **parameters: Any) -> Any:
    """Attach ``variant`` to a pretrained softmax model so that it starts near what it computes.

    As ``attach``, with gates open, sinks and second maps nearly off, unless
    ``parameters`` says otherwise. Clipped variants and ``softmax1`` have nothing
    to open: they change the weights by what their formula says.

    Raises:
        ConfigError: As ``attach``, or if the variant has no such start.
    """
    return attach(model, variant, **{**VARIANTS.load(variant).open_parameters(), **parameters})


def check_variant(name: str, **parameters: Any) -> None:
    """Refuse an unknown variant, parameter or value.

    Raises:
        UnknownName: If there is no such variant.
        ConfigError: If it has no such parameter, or refuses the value.
    """
    allowed = variant_parameters(name)
    unknown = sorted(set(parameters) - set(allowed))
    if unknown:
        raise ConfigError(
            f"variant {name!r} has no parameter {unknown[0]!r}",
            fix=f"it takes: {', '.join(allowed) or 'none'}",
        )
    _detached(name, parameters)


def variant_parameters(name: str) -> dict[str, Any]:
    """Return the hyper-parameters that a variant takes, with their defaults."""
    signature = inspect.signature(VARIANTS.load(name).__init__).parameters
    return {
        key: value.default
        for key, value in signature.items()
        if value.kind is inspect.Parameter.KEYWORD_ONLY
    }


def deployment_warning(settings: Mapping[str, Any], length: int) -> str | None:
    """Return what a checkpoint's variant has to say about deploying at ``length`` tokens.

    Args:
        settings: The checkpoint's ``attention_variant``: name and hyper-parameters.
        length: Tokens.
    """
    parameters = {k: v for k, v in settings.items() if k != "name"}
    return _detached(str(settings["name"]), parameters).deployment_warning(length)


def _detached(name: str, parameters: Mapping[str, Any]) -> Variant:
    """Return the variant in a small layer that any variant accepts."""
    layer = Layer(heads=2, kv_heads=2, head_width=2, width=4, length=128)
    try:
        variant: Variant = VARIANTS.load(name)(layer, **parameters)
    except (TypeError, ValueError) as err:
        raise ConfigError(
            f"variant {name!r} refuses {dict(parameters)}: {err}",
            fix="pass numbers where it takes numbers",
        ) from err
    return variant


def attention_modules(model: Any) -> list[tuple[str, Any]]:
    """Return name and module of each attention layer that goes through the interface.

    Empty for families that do not support it.
    """
    recorded = (getattr(model, "_can_record_outputs", None) or {}).get("attentions")
    wanted = recorded if isinstance(recorded, list | tuple) else [recorded]
    classes = tuple(getattr(w, "target_class", w) for w in wanted if w is not None)
    if not classes or not getattr(model, "_supports_attention_backend", False):
        return []
    return [(n, m) for n, m in model.named_modules() if isinstance(m, classes)]


def _layer(config: Any, module: Any, index: int) -> Layer:
    heads = int(config.num_attention_heads)
    length = getattr(config, "max_position_embeddings", None)
    if length is None and getattr(config, "patch_size", None):
        length = (int(config.image_size) // int(config.patch_size)) ** 2 + 1
    return Layer(
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_width=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        width=int(config.hidden_size),
        index=index,
        length=length,
        scaling=getattr(module, "scaling", None),
        rotate=getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None),
    )


def _pass_layer_input(module: Any, *, wanted: bool) -> None:
    """Make the attention layer hand its input on to the attention function, or stop it."""
    hooks = module._forward_pre_hooks
    for key in [k for k, hook in hooks.items() if hook is _add_layer_input]:
        del hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)
    if wanted:
        module.register_forward_pre_hook(_add_layer_input, with_kwargs=True)


def _add_layer_input(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del module
    layer_input = args[0] if args else kwargs["hidden_states"]
    rotary = kwargs.get("position_embeddings")
    return args, {**kwargs, "layer_input": layer_input, "rotary": rotary}


def load_pretrained(auto_class: Any, folder: str, **options: Any) -> Any:
    """Load a checkpoint with the variant and the architecture that its configuration names.

    Args:
        auto_class: Such as ``transformers.AutoModelForMaskedLM``.
        folder: Checkpoint folder or hub id.
        **options: Of ``from_pretrained``.

    Returns:
        What ``from_pretrained`` returns; a family without attention interface stays eager.

    Raises:
        UnknownName: If the configuration names a variant that is not installed.
        ConfigError: If its settings are not accepted.
    """
    from transformers import AutoConfig

    hub = ("local_files_only", "trust_remote_code", "revision", "token", "cache_dir")
    config = AutoConfig.from_pretrained(folder, **{k: options[k] for k in hub if k in options})
    model_class = auto_class._model_mapping.get(type(config), None)
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    settings = dict(getattr(config, CONFIG_KEY, None) or {})
    supported = getattr(model_class, "_supports_attention_backend", False)
    if not settings and not getattr(config, CHANGES_KEY, None):
        implementation = IMPLEMENTATION if supported else "eager"
        return auto_class.from_pretrained(folder, attn_implementation=implementation, **options)
    if settings:
        check_variant(**settings)
    if not supported:
        raise ConfigError(
            f"{config.model_type} does not go through transformers' attention interface",
            fix=_NO_INTERFACE_FIX,
        )
    options.pop("trust_remote_code", None)
    loaded = _carrying(model_class).from_pretrained(
        folder, attn_implementation=IMPLEMENTATION, **options
    )
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.__class__ = model_class
    return loaded


def _carrying(model_class: Any) -> Any:
    """Return a subclass that is built with its variant, so that weights find their place."""

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        prepare(self)

    named = {"__init__": build, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), named)


def prepare(model: Any) -> Any:
    """Make a freshly built model what its configuration says: architecture, then variant.

    Returns:
        The same model.
    """
    settings = dict(getattr(model.config, CONFIG_KEY, None) or {})
    change_architecture(model, attention_modules(model))
    if settings:
        attach(model, settings.pop("name"), **settings)
    return model


def attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run the variant inside an attention layer; softmax where there is none.

    Args:
        module: The attention layer, with the variant as its child.
        query: (B, H, T, D).
        key: (B, H_kv, S, D); H_kv divides H.
        value: (B, H_kv, S, D).
        attention_mask: Added to the scores, broadcastable to (B, H, T, S), or None.
        scaling: Factor on QKᵀ; None means 1/√D.
        dropout: Probability of dropping an attention weight while training.
        **kwargs: Whatever else the model passes; the layer's input is among it.

    Returns:
        Output (B, T, H, D), and the weights or None.

    Raises:
        ConfigError: If the model passes something that changes the scores, or its
            configuration names a variant that was never attached.
    """
    changing = [name for name in _CHANGES_SCORES if kwargs.get(name) is not None]
    if changing:
        raise ConfigError(
            f"{type(module).__name__} uses {changing[0]}, which the variants do not know",
            fix="use a model family with plain scaled dot-product attention",
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    output, weights = _variant_of(module, query)(
        query,
        key,
        value,
        attention_mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout,
        layer_input=kwargs.get("layer_input"),
        rotary=kwargs.get("rotary"),
    )
    return output.transpose(1, 2).contiguous(), weights


def _variant_of(module: Any, query: torch.Tensor) -> Any:
    attached = getattr(module, _CHILD, None)
    if attached is not None:
        return attached
    named = (getattr(module.config, CONFIG_KEY, None) or {}).get("name", "vanilla")
    if named != "vanilla":
        raise ConfigError(
            f"the configuration names the variant {named!r}, but the model was built without it",
            fix="load it with attention.load_pretrained(AutoModel..., folder)",
        )
    heads, width = int(query.shape[1]), int(query.shape[3])
    return Variant(Layer(heads=heads, kv_heads=heads, head_width=width, width=heads * width))


def additive_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., torch.Tensor] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> torch.Tensor | None:
    """Return 0 where attention is allowed and the dtype's minimum elsewhere.

    The index pattern is evaluated by broadcasting and the padding mask joined
    by a plain product, so that the exported graph holds neither a gather by
    index nor a mask larger than needed: (B, 1, 1, T) without causality, and
    none at all without padding either.
    """
    del batch_size, kwargs
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=device)
    rows = (torch.arange(q_length, device=device) + q_offset)[None, None, :, None]
    columns = (torch.arange(kv_length, device=device) + kv_offset)[None, None, None, :]
    allowed = mask_function(zero, zero, rows, columns)
    every_key = allowed.shape[-1] == 1
    if attention_mask is None and every_key:
        return None
    if attention_mask is not None:
        seen = attention_mask[:, None, None, kv_offset : kv_offset + kv_length].to(torch.bool)
        allowed = seen if every_key else allowed & seen
    blocked = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=device)
    return torch.where(allowed, torch.zeros((), dtype=dtype, device=device), blocked)


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, additive_mask)
