"""Write and read the weights of a model as safetensors, with a description as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rnnlab import files, lookup
from rnnlab.interface import Images, InputError, Tokens, Vectors
from rnnlab.layers.regularisers import as_trained
from rnnlab.models import Model
from rnnlab.training.build import build_model

FORMAT = 1
KINDS = {kind.__name__: kind for kind in (Tokens, Vectors, Images)}


def write(path: Path, model: Model, about: dict[str, Any]) -> Path:
    """Write the weights to ``path`` and the description ``about`` to the file beside it that ends in ``.json``.

    Returns:
        the path of the description.

    Raises:
        InputError: the description contains something that JSON cannot represent.
    """
    from safetensors.torch import save

    beside = path.with_suffix(".json")
    if beside == path:
        raise InputError(f"out={path} is the name of the description; use another suffix, such as .safetensors")
    text = dumped({"format": FORMAT, **about})
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    with files.replacing(path) as file:
        file.write(save(tensors, {"format": "pt"}))
    with files.replacing(beside) as file:
        file.write(text.encode())
    return beside


def read(path: str | Path) -> tuple[Model, dict[str, Any]]:
    """Return the model of a ``.safetensors`` file in evaluation mode, and the description beside it.

    No code from the files is executed: the cell and the model must be built-in classes.

    Raises:
        InputError: a file is missing, damaged or of another format, or it names a user-defined class.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path).expanduser()
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise InputError(f"{path.with_suffix('.json')} has format {about['format']}; this version reads {FORMAT}")
        model = _built(about)
        model.load_state_dict(load_file(path))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} and its description are not a model that rnnlab exported: {error}") from error
    return model.eval(), about


def _built(about: dict[str, Any]) -> Model:
    config = about["config"]
    for kind in ("cell", "model"):
        name, _ = lookup.read_section(config[kind])
        if ":" in name:
            raise InputError(f"{kind} {name!r} is user-defined; build the model and use model.load_state_dict instead")
    read, source = (None if one is None else _input(one) for one in (about["input"], about["source"]))
    task = SimpleNamespace(input=read, output_size=about["output_size"], source=source)
    with as_trained():
        return build_model(config, task)


def _input(described: dict[str, Any]) -> Any:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
    return KINDS[options.pop("kind")](**options)


def dumped(about: Any) -> str:
    """Return a description as JSON.

    Raises:
        InputError: it contains something other than numbers, texts, lists, dictionaries, arrays and tensors.
    """

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise InputError(f"the description contains a {type(value).__name__}, which JSON cannot represent")

    return json.dumps(about, indent=1, ensure_ascii=False, default=plain)
