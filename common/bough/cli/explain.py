"""`bough serve --explain`: the value of each setting, where it comes from, and what stands for an absent one."""

from __future__ import annotations

from pathlib import Path

from bough.cli.models import with_model
from bough.common.config import DEFAULT, SERVICES, LoadedSettings, Settings
from bough.common.errors import ModelError
from bough.common.model import ModelFiles, read_model_files
from bough.common.replicas import automatic_replicas, format_replicas, parse_replicas, usable_cores

_MEASURED = {
    "threads": "the physical cores that the executor may use, counted at start",
    "kv_pages": "measured by the executor at start: pages of 16 tokens that fit beside the largest step",
    "max_rows": "256",
    "token_budget": "1024 on a CPU, 8192 on a GPU, and always more than max_rows",
    "mixed_token_budget": "256 on a CPU; on a GPU as many as take about half as long again, by times measured at start",
}
_UNSET = {
    "grammar_cache_dir": "bough/grammars in the user's cache",
    "api_key": "no key is asked for",
    "otlp_endpoint": "no traces are sent",
    "run_dir": "a temporary folder",
    "listen": "the service's own socket",
    "copy_number": "the launcher's business",
}


def explain(loaded: LoadedSettings) -> str:
    """A table with a line for each setting. ModelError when the model directory cannot be read."""
    settings = with_model(loaded.settings)
    if settings.model is None:
        raise ModelError("no model directory was given")
    files = read_model_files(settings.model, served_name=settings.served_model_name, max_context=settings.max_context)
    stand_ins = _stand_ins(settings, files)
    rows = []
    for name in Settings.model_fields:
        value, origin = getattr(loaded.settings, name), loaded.origin_of(name)
        if value is None and origin == DEFAULT:
            shown, origin = stand_ins[name]
        else:
            shown = str(value)
        rows.append((name, shown, origin))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows)


def _stand_ins(settings: Settings, files: ModelFiles) -> dict[str, tuple[str, str]]:
    """Setting -> (value, why) for those that nobody gave."""
    known = {
        "model": (str(settings.model), "the demo model"),
        "served_model_name": (files.identity.model, "name of the model"),
        "max_context": (str(files.identity.max_context), "max_position_embeddings of config.json"),
        "grpc_port": (str(settings.port + 1), "port + 1"),
    }
    cores = usable_cores()
    known["replicas"] = (format_replicas(automatic_replicas(cores)), f"for {cores} cores")
    known |= {name: ("(measured)", why) for name, why in _MEASURED.items()}
    known |= {name: ("-", why) for name, why in _UNSET.items()}
    asked = {} if settings.replicas is None else parse_replicas(settings.replicas)
    copies = format_replicas(automatic_replicas(cores) | asked)
    here = settings.model_copy(update={"run_dir": Path("RUN_DIR"), "replicas": copies})
    known |= {f"{name}_address": (",".join(here.copy_addresses(name)), "started here") for name in SERVICES}
    return known
