"""What a MONAI Bundle says of itself: metadata.json for MONAI, a README for people."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.plan import FederationPlan
from common.released_models import ReleaseRecord
from common.scans import Modality
from common.window_overlap import WINDOW_OVERLAP
from server.export.monai_bundle import config_of

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
FORMAT_OF: dict[Modality, str] = {"CT": "hounsfield", "MR": "magnitude"}


def bundle_texts(
    record: ReleaseRecord, trained: FederationPlan, role: str, card: str
) -> dict[str, str]:
    """The bundle's texts by path.

    Args:
        record: the release that the network is of.
        trained: its plan with those tasks alone that the network was trained on.
        role: which network.
        card: the release's MODEL_CARD.md.
    """
    metadata = json.dumps(_metadata(record, trained, role), indent=2)
    return {
        "configs/metadata.json": metadata,
        "docs/README.md": _readme(record, trained, role),
        "docs/MODEL_CARD.md": card,
    }


def _metadata(record: ReleaseRecord, trained: FederationPlan, role: str) -> dict[str, Any]:
    classes = {"0": "background", **{str(one.index): one.name for one in trained.labels}}
    modality = trained.tasks[0].modality
    of_release = f"round {record.round} of the federation {record.federation}"
    number = f"0.0.{record.round}"
    return {
        "schema": SCHEMA,
        "version": number,
        "changelog": {number: of_release},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel"), "pytorch-ignite": "0.4.11"},
        "name": f"{record.federation} {role}",
        "task": f"Segmentation of {', '.join(one.name for one in trained.labels)}",
        "description": f"The {role} of {of_release}, trained with OneSlice {record.software}",
        "authors": f"the hospitals of {record.federation}",
        "copyright": f"the hospitals of {record.federation}",
        "data_source": "scans of these hospitals, which they do not give out",
        "data_type": "nibabel",
        "image_classes": f"{modality}, {trained.channels} channel(s)",
        "pred_classes": ", ".join(f"{index}: {name}" for index, name in classes.items()),
        "intended_use": "Research alone; see docs/MODEL_CARD.md",
        "network_data_format": _data_format(trained, modality, classes),
        "oneslice": {
            "federation": record.federation,
            "round": record.round,
            "models_sha256": record.models_sha256,
            "labels": [one.model_dump() for one in trained.labels],
            "configs": {task.name: config_of(trained, task) for task in trained.tasks},
        },
    }


def _data_format(
    trained: FederationPlan, modality: Modality, classes: dict[str, str]
) -> dict[str, Any]:
    patch = {
        "type": "image",
        "spatial_shape": list(trained.training.patch_size),
        "dtype": "float32",
        "is_patch_data": True,
    }
    image = {
        **patch,
        "format": FORMAT_OF[modality],
        "modality": modality,
        "num_channels": trained.channels,
        "value_range": [-1, 1] if modality == "CT" else [],
        "channel_def": {str(number): modality for number in range(trained.channels)},
    }
    logits = {
        **patch,
        "format": "segmentation",
        "num_channels": trained.num_classes,
        "value_range": [],
        "channel_def": classes,
    }
    return {"inputs": {"image": image}, "outputs": {"pred": logits}}


def _readme(record: ReleaseRecord, trained: FederationPlan, role: str) -> str:
    configs = [(task, config_of(trained, task)) for task in trained.tasks]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("bundle_readme.md.jinja")
    overlap = WINDOW_OVERLAP[role]
    return template.render(record=record, plan=trained, role=role, configs=configs, overlap=overlap)
